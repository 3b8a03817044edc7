"""Teach the demo model a shape and a kind of question that it does not know, and ask it before and after.

    python benchmarks/finetune.py WORK_DIR [--examples 200] [--epochs 18] [--language full] [--rate 1e-3]
                                          [--question colour|moves|size]

The shape is a ring. The question is which colour appears first or last, of which the model knows the object; or what
moves up, down, left or right, which turns a known question round; or how big an object is, in words that it never
wrote. Draws videos and a table of examples with their answers, trains on it with ``malmm finetune`` in this process,
and asks both checkpoints about other videos: about rings, the new question, and what the demo model knew already. An
answer is right if it equals the truth to the letter. Prints a table in Markdown, and what a guess would be worth.
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from malmm.jobs.cli import main as malmm
from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.demo.questions import Question, questions
from malmm.model.demo.videos import draw_video, read_truth, truth_path
from malmm.model.demo.world import COLOURS, MOTIONS, SHAPES, SIZES, UNSEEN_SHAPE, Scene, plan_scenes
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.memory.settings import MemorySettings
from malmm.model.training.learner import Shown
from malmm.pipeline.finetuning.config import FinetuneConfig
from malmm.pipeline.finetuning.examples import Example, read_examples
from malmm.pipeline.finetuning.feed import PlannedFeed, sampled_here
from malmm.pipeline.finetuning.plan import Plan

BANK = 10
SIZE_PROMPT, MOVES_PROMPT = "How big is the {x}?", "What moves {x}?"
NEW_SHAPE, NEW_QUESTION, KNOWN = "rings", "new question", "known before"
GROUPS = (NEW_SHAPE, NEW_QUESTION, KNOWN)
# Of five examples, so many are of each group.
SHARES = {NEW_SHAPE: 2, NEW_QUESTION: 2, KNOWN: 1}
Row = tuple[str, str, str, str, str]


def main() -> None:
    """Draw, train, ask, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path, metavar="WORK_DIR")
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--epochs", type=float, default=18)
    parser.add_argument("--language", default="full")
    parser.add_argument("--rate", default="1e-3")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--question", choices=NEW_QUESTIONS, default="colour")
    options = parser.parse_args()
    work: Path = options.work
    videos = work / "videos"
    videos.mkdir(parents=True, exist_ok=True)
    table = work / "lessons.csv"
    rows = [
        *drawn(videos, "train", options.examples, 1, options.question),
        *drawn(videos, "val", 20, 2, options.question),
        *drawn(videos, "test", 120, 3, options.question),
    ]
    with table.open("w", newline="", encoding="utf-8") as file:
        written = csv.writer(file)
        written.writerow(["video", "question", "answer", "split", "group"])
        written.writerows(rows)
    asked = [row for row in rows if row[3] == "test"]
    before = scores("demo", asked, videos)
    began, busy = time.monotonic(), time.process_time()
    output = work / "taught"
    ended = malmm(
        [
            *("finetune", str(table), "--videos", str(videos), "--model", "demo", "--output", str(output)),
            *("--language", options.language, "--rate", options.rate, "--epochs", str(options.epochs)),
            *("--batch", str(options.batch), "--bank-length", str(BANK), "--workers", "0", "--no-crops"),
            *("--every", "50", "--warm", "20", "--quiet"),
        ]
    )
    if ended:
        raise SystemExit(ended)
    took, busy = time.monotonic() - began, time.process_time() - busy
    after = scores(str(output), asked, videos)
    print(f"\n{options.examples} examples, {took / 60:.1f} min, of which {busy / 60:.1f} min on one core\n")
    print("| asked about | questions | before | after |\n|---|---|---|---|")
    for group in GROUPS:
        count = sum(row[4] == group for row in asked)
        print(f"| {group} | {count} | {before[group]:.0%} | {after[group]:.0%} |")
    print(f"\nA guess at the new question: {guess(videos, asked):.0%}")


def drawn(folder: Path, split: str, count: int, seed: int, question: str) -> list[Row]:
    """``count`` rows about videos of this split, drawn into ``folder``, up to four of a group from each video."""
    chance = random.Random(seed)
    rows: list[Row] = []
    number = 0
    wanted = [group for group, share in SHARES.items() for _ in range(share)]
    while len(rows) < count:
        group = wanted[number % len(wanted)]
        name = f"{split}{number}-{question}.mp4"
        rings = group == NEW_SHAPE or (group, question) == (NEW_QUESTION, "size")
        shapes = (*SHAPES, UNSEEN_SHAPE) if rings else SHAPES
        number += 1
        choose = {NEW_SHAPE: _about_rings, NEW_QUESTION: NEW_QUESTIONS[question], KNOWN: questions}[group]
        asked: list[Question] = []
        drawing = 0
        while not asked:
            seconds, own = chance.randint(4, 10), (seed, number, drawing)
            scenes = plan_scenes(seconds, own, shapes)
            asked = choose(scenes)
            drawing += 1
        # A video that was drawn before is the same.
        if not truth_path(folder / name).exists():
            draw_video(folder / name, seconds=seconds, seed=own, shapes=shapes)
        for each in chance.sample(asked, min(4, len(asked))):
            rows.append((name, each.prompt, each.answer, split, group))
    return rows[:count]


def _about_rings(scenes: Sequence[Scene]) -> list[Question]:
    """Questions that name a ring or whose answer does."""
    return [each for each in questions(scenes) if UNSEEN_SHAPE in f"{each.prompt} {each.answer}"]


def _sizes(scenes: Sequence[Scene]) -> list[Question]:
    """How big each object is that appears once."""
    things = [thing for scene in scenes for thing in scene.objects]
    names = [thing.name for thing in things]
    return [
        Question("size", SIZE_PROMPT.format(x=thing.name), thing.size)
        for thing in things
        if names.count(thing.name) == 1
    ]


def _moving(scenes: Sequence[Scene]) -> list[Question]:
    """What moves each way, of videos of three objects and more, where one object does."""
    things = [thing for scene in scenes for thing in scene.objects]
    if len({thing.name for thing in things}) < 3:
        return []
    moving = {way: {thing.name for thing in things if thing.motion == way} for way in MOTIONS}
    return [
        Question("moves", MOVES_PROMPT.format(x=way), f"a {min(names)}")
        for way, names in moving.items()
        if way != "still" and len(names) == 1
    ]


def _ends(scenes: Sequence[Scene]) -> list[Question]:
    """The colours of the first and the last object, of videos of three colours and more."""
    if len({thing.colour for scene in scenes for thing in scene.objects}) < 3:
        return []
    return [
        Question("ends", f"Which colour appears {place}?", scene.objects[0].colour)
        for place, scene in (("first", scenes[0]), ("last", scenes[-1]))
        if len(scene.objects) == 1
    ]


#: Kinds of question that the demo model was never asked, by the name of ``--question``.
NEW_QUESTIONS: dict[str, Callable[[Sequence[Scene]], list[Question]]] = {
    "colour": _ends,
    "moves": _moving,
    "size": _sizes,
}


def guess(videos: Path, asked: Sequence[Row]) -> float:
    """The share of the new questions that is right if any size, or any object or colour of the video, is named."""
    worth = []
    for video, _, answer, _, group in asked:
        if group == NEW_QUESTION:
            things = [thing for scene in read_truth(videos / video) for thing in scene.objects]
            of = {thing.colour if answer in COLOURS else thing.name for thing in things}
            worth.append(1 / (len(SIZES) if answer in SIZES else len(of)))
    return float(np.mean(worth))


def scores(model: str, asked: Sequence[Row], videos: Path) -> dict[str, float]:
    """The share of right answers by group, through encoder and language model as they are shipped."""
    checkpoint = open_models(model, NO_RETRIEVAL).checkpoint
    encoder, language = Encoder.load(checkpoint), LanguageModel.load(checkpoint)
    right = defaultdict(list)
    for row, shown in zip(asked, _clips(asked, videos), strict=True):
        [encoded] = encoder.encode([shown.frames], [[shown.prompt]], MemorySettings(BANK))
        assert encoded.query_output is not None
        [answer] = language.generate(encoded.query_output, [shown.prompt])
        right[row[4]].append(answer == shown.answer)
    return {group: float(np.mean(of_group)) for group, of_group in right.items()}


def _clips(asked: Sequence[Row], videos: Path) -> list[Shown]:
    table = videos / "asked.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        written = csv.writer(file)
        written.writerow(["video", "question", "answer"])
        written.writerows(row[:3] for row in asked)
    examples: tuple[Example, ...] = read_examples(str(table), str(videos)).train
    config = FinetuneConfig(str(table), "demo", str(videos / "none"), at_once=1)
    feed = PlannedFeed(Plan(examples, config), examples, sampled_here(96))
    return [shown for [shown] in feed.measuring()]


if __name__ == "__main__":
    main()
