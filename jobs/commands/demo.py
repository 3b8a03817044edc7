"""``malmm demo``: index drawn videos and compare the answers with the truth."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.index import indexed, summary
from malmm.jobs.terminal.text import clock, printable
from malmm.pipeline.schema.config import CAPTION, IndexConfig, Prompt
from malmm.pipeline.schema.errors import ArchiveError, ConfigError

__all__ = ["Answer", "add_parser", "run", "scored"]

PROMPTS = (
    Prompt("first", "What appears first?"),
    Prompt("last", "What appears last?"),
    Prompt("count", "How many objects appear?"),
    Prompt("circle", "What colour is the circle?"),
    Prompt("star", "What colour is the star?"),
    Prompt("red", "What shape is the red object?"),
    Prompt("blue", "What shape is the blue object?"),
)
_DEFAULTS = IndexConfig(sources=("x",), archive="x")
# A description of a minute is some eighty words.
_LONGEST_TEXT = 128


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "demo",
        run,
        help="draw videos, index them, ask, and compare with the truth",
        description="Draw videos of coloured shapes, index them, and print the answers next to what was drawn: while "
        "the frames went by (online), and again from the memory that is left of them (replay).",
        epilog="example: malmm demo demo --videos 2",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="where the videos and the archive go")
    parser.add_argument(
        "--model",
        default="demo",
        metavar="ID|DIR",
        help="a checkpoint of any family; demo and demo-smolvlm come with the package (default: demo)",
    )
    parser.add_argument("--videos", type=int, default=3, help="how many (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="seconds each (%(default)g)")
    parser.add_argument("--seed", type=int, default=2026, help="other seeds draw other videos (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the answers as one JSON object")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


@dataclass(frozen=True)
class Answer:
    """The ``online`` and ``replay`` answers to a prompt, and the true one."""

    video: str
    prompt: str
    truth: str
    online: str
    replay: str


def run(arguments: argparse.Namespace) -> int:
    """Draw, index and compare. The exit code reports indexing, not how many answers are right."""
    if not 1 <= arguments.videos <= 1000:
        raise ConfigError(f"--videos {arguments.videos}: from 1 to 1000")
    longest = _DEFAULTS.segment_s
    if not 3 <= arguments.seconds <= longest:
        raise ConfigError(
            f"--seconds {arguments.seconds:g}: from 3 to {longest:g}, the length of a segment, "
            "so that a video's truth is its segment's"
        )
    if arguments.seed < 0:
        raise ConfigError(f"--seed {arguments.seed}: 0 or more")
    from malmm.pipeline.indexing.index import open_models

    # A model that cannot be used is not worth drawing for.
    open_models(arguments.model)
    videos = _draw(arguments)
    archive = str(arguments.directory / "archive")
    config = IndexConfig(
        sources=tuple(map(str, videos)),
        archive=archive,
        model=arguments.model,
        prompts=PROMPTS,
        max_new_tokens=_LONGEST_TEXT,
    )
    report = indexed(config, quiet=arguments.quiet)
    if report.exit_code:
        print(summary(report), file=sys.stderr)
        return report.exit_code
    from malmm.pipeline.archive.reader import ArchiveReader

    answers = scored(videos, ArchiveReader.open(archive))
    if not answers:
        raise ArchiveError(f"{archive} has no answers to compare: remove it and run again", uri=archive)
    if arguments.json:
        shown = {"archive": archive, "notice": report.notice, "answers": [vars(answer) for answer in answers]}
        print(json.dumps(shown, indent=2))
        return 0
    print("\n".join(_lines(answers)))
    print(
        f"\nIndexed {clock(report.video_s)} of video in {clock(report.elapsed_s)}. Archive: {printable(archive)}"
    )
    if report.notice:
        print(f"Note: {report.notice}")
    return 0


def _draw(arguments: argparse.Namespace) -> list[Path]:
    from malmm.model.demo.videos import draw_video, truth_path

    folder: Path = arguments.directory / "videos"
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(arguments.videos):
            path = folder / f"drawn-{arguments.seed}-{arguments.seconds:g}s-{number}.mp4"
            if not truth_path(path).exists():
                draw_video(path, seconds=arguments.seconds, seed=(arguments.seed, number))
            paths.append(path)
    except OSError as error:
        raise ConfigError(f"cannot write videos to {folder}: {error}") from error
    return paths


def scored(videos: list[Path], archive: Any) -> list[Answer]:
    """Compare every answer in the archive with the drawn videos' truth."""
    from malmm.model.demo.questions import questions
    from malmm.model.demo.videos import read_truth

    rows = archive.annotations().to_pylist()
    ids = {Path(row["uri"]).name: row["video_id"] for row in archive.videos().to_pylist()}
    answers = []
    for path in videos:
        truth = {question.prompt: question.answer for question in questions(read_truth(path))}
        said = {
            (row["prompt"], row["segment_id"] is not None): row["text"]
            for row in rows
            if row["video_id"] == ids.get(path.name)
        }
        for prompt in (CAPTION, *PROMPTS):
            online, replay = said.get((prompt.text, True)), said.get((prompt.text, False))
            if prompt.text in truth and online is not None and replay is not None:
                answers.append(Answer(path.name, prompt.text, truth[prompt.text], online, replay))
    return answers


def _lines(answers: list[Answer]) -> list[str]:
    lines: list[str] = []
    video = None
    for answer in answers:
        if answer.video != video:
            video = answer.video
            lines += ["", video]
        lines.append(f"  {answer.prompt}")
        lines.append(f"      truth   {answer.truth}")
        for mode in ("online", "replay"):
            text = getattr(answer, mode)
            lines.append(f"    {'✓' if text == answer.truth else '✗'} {mode:7s} {printable(text)}")
    total = len(answers)
    online = sum(answer.online == answer.truth for answer in answers)
    replay = sum(answer.replay == answer.truth for answer in answers)
    return [
        *lines[1:],
        "",
        f"Right to the letter: {online} of {total} while indexing, {replay} of {total} again from memory.",
    ]
