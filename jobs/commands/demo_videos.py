"""``malmm demo-videos``: write drawn videos for trying things out."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.terminal.text import printable, size
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "demo-videos",
        run,
        help="draw videos to try things on",
        description="Draw videos of coloured shapes, encoded as H.264, with what they show in a JSON file beside each.",
        epilog="example: malmm demo-videos videos --count 2 --minutes 1",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="where to write them")
    parser.add_argument("--count", type=int, default=1, help="how many (%(default)s)")
    parser.add_argument("--minutes", type=float, default=1.0, help="minutes each (%(default)g)")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed draws the same videos (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the files as one JSON array")


def run(arguments: argparse.Namespace) -> int:
    """Write the videos and print their paths."""
    if arguments.count < 1:
        raise ConfigError(f"--count {arguments.count}: at least 1")
    if not 0.05 <= arguments.minutes <= 600:
        raise ConfigError(f"--minutes {arguments.minutes:g}: from 0.05 to 600")
    if arguments.seed < 0:
        raise ConfigError(f"--seed {arguments.seed}: 0 or more")
    from malmm.model.demo.videos import draw_video

    try:
        arguments.directory.mkdir(parents=True, exist_ok=True)
        written = []
        for number in range(arguments.count):
            path = arguments.directory / f"drawn-{arguments.seed}-{number}.mp4"
            draw_video(path, seconds=arguments.minutes * 60, seed=(arguments.seed, number))
            written.append(str(path))
            if not arguments.json:
                print(f"{printable(str(path))}  {size(path.stat().st_size)}")
    except OSError as error:
        raise ConfigError(f"cannot write videos to {arguments.directory}: {error}") from error
    if arguments.json:
        print(json.dumps(written, indent=2))
    return 0
