"""Drawn videos and a table of questions about them, to fine-tune on."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from malmm.model.demo.questions import questions
from malmm.model.demo.videos import draw_video

__all__ = ["COLUMNS", "SECONDS", "draw_lessons", "write_table"]

COLUMNS = ("video", "start_s", "end_s", "prompt", "answer", "split")
SECONDS = 4


def write_table(path: Path, rows: Iterable[Sequence[object]], columns: Sequence[str] = COLUMNS) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(rows)
    return path


def draw_lessons(folder: Path) -> Path:
    """Three videos of ``SECONDS`` s and more; six rows of the first two are in training, two of the third in val."""
    rows: list[tuple[object, ...]] = []
    for number in range(3):
        name = f"drawn{number}.mp4"
        scenes = draw_video(folder / name, seconds=float(SECONDS + number), seed=(41, number))
        asked = [each for each in questions(scenes) if each.kind != "describe"]
        split = "val" if number == 2 else "train"
        rows += [
            (name, "0.5" if place else "", str(SECONDS), each.prompt, each.answer, split)
            for place, each in enumerate(asked[: 2 if number == 2 else 3])
        ]
    return write_table(folder / "lessons.csv", rows)
