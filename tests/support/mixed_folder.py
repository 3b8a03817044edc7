"""A folder of good, odd and broken videos, and the settings to index it with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from malmm.pipeline.indexing.index import index
from malmm.pipeline.indexing.run_reports import IndexReport
from malmm.pipeline.schema.config import IndexConfig, Prompt
from support.media import VideoSpec, cut, make_video, run_ffmpeg

__all__ = ["BROKEN", "FPS", "LENGTH", "NAMES", "PROMPTS", "SEGMENT_S", "SPECS", "go", "good", "make_folder"]

SEGMENT_S, FPS, LENGTH = 5.0, 2.0, 4
PROMPTS = (
    Prompt("people", "How many people are there?"),
    Prompt("place", "Where is it?", task="classification", labels=("indoors", "outdoors")),
)
NAMES = {"caption", "people", "place"}
SPECS = [
    VideoSpec("constant.mp4", duration_s=12.0, b_frames=2),
    VideoSpec("variable.mp4", duration_s=11.0, keep="not(mod(n\\,7))+gt(t\\,4)*not(mod(n\\,3))"),
    VideoSpec("turned.mp4", duration_s=3.0, rotation=90),
    VideoSpec("late.ts", duration_s=8.0, offset_s=5.0, source="smptebars"),
    VideoSpec("one-frame.mp4", duration_s=1 / 24),
]
BROKEN = {"sound.mp4": "no_video_stream", "text.mp4": "not_a_video", "empty.mp4": "empty_file"}


def make_folder(folder: Path, beside: Path) -> Path:
    """Make the videos of ``SPECS``, the files of ``BROKEN`` and ``short.mkv``: 12 s, whole ``beside``, cut short."""
    for spec in SPECS:
        make_video(folder, spec)
    whole = make_video(beside, VideoSpec("whole.mkv", duration_s=12.0))
    shutil.copy(cut(whole, 0.92, "short.mkv"), folder)
    run_ffmpeg("-f", "lavfi", "-i", "sine=d=2", folder / "sound.mp4")
    (folder / "text.mp4").write_text("This is not a video.\n")
    (folder / "empty.mp4").touch()
    (folder / "notes.txt").write_text("not looked at")
    return folder


def good(folder: Path) -> list[Path]:
    """The videos that have nothing wrong."""
    return [folder / spec.name for spec in SPECS]


def go(archive: str | Path, *sources: str | Path, **changes: Any) -> IndexReport:
    """Index sources with the debug model, three segments at a time."""
    options: dict[str, Any] = {
        "sources": tuple(map(str, sources)),
        "archive": str(archive),
        "model": "debug",
        "fps": FPS,
        "segment_s": SEGMENT_S,
        "bank_length": LENGTH,
        "prompts": PROMPTS,
        "batch_segments": 3,
        "max_new_tokens": 6,
    }
    on_progress = changes.pop("on_progress", None)
    return index(IndexConfig(**(options | changes)), on_progress=on_progress)
