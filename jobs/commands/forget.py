"""``malmm forget``: remove videos from an archive, or from several, for good."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.several import add_archives
from malmm.jobs.terminal.text import printable
from malmm.pipeline.schema.exit_codes import EXIT_NOT_FOUND, EXIT_OK

if TYPE_CHECKING:
    from malmm.pipeline.archive.forget import ForgetReport

__all__ = ["add_parser", "run", "summary"]

_LEFT_SHOWN = 20


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "forget",
        run,
        help="remove videos for good",
        description="Delete all that an archive holds of videos: rows, texts, pictures, memory, vectors and "
        "failures. Their ids alone are kept, so that no run indexes them again. Without --now their bytes stay in old "
        "versions of the tables until the next `malmm optimize`; with it files are written anew at once, and all files "
        "are searched for what was deleted. Of several archives each forgets, also those that never had a video, so "
        "that no run of any of them indexes it. The video files themselves are not touched.",
        epilog="examples:\n"
        "  malmm forget talk.mp4 --archive archive --now\n"
        "  malmm forget s3://bucket/a.mp4 s3://bucket/b.mp4 --archive s3://bucket/archive\n"
        "  malmm forget talk.mp4 --archive catalog.yaml --now\n"
        "  malmm forget talk.mp4 --archive archive --undo\n\n"
        "exit codes: 0 forgotten, 1 something of them is left or the archive cannot be written, 2 wrong usage, 4 "
        "nothing to undo",
    )
    parser.add_argument("video", nargs="+", metavar="VIDEO", help="its path, URI, file name or id")
    add_archives(parser)
    when = parser.add_mutually_exclusive_group()
    when.add_argument(
        "--now",
        action="store_true",
        help="also from all files and old versions, and prove that nothing is left",
    )
    when.add_argument(
        "--undo",
        action="store_true",
        help="let the next run index forgotten videos again; brings nothing back",
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Forget the videos and print what was done."""
    from malmm.pipeline.archive.forget import allow_again, forget_in

    archives = _archives(arguments.archive)
    if arguments.undo:
        count = allow_again(archives, arguments.video)
        print(json.dumps({"allowed": count}) if arguments.json else f"{count} videos may be indexed again")
        return EXIT_OK if count else EXIT_NOT_FOUND
    shows = sys.stderr.isatty() and not arguments.json
    reports = forget_in(
        archives,
        arguments.video,
        now=arguments.now,
        tell=lambda what: print(f"purging {what}", file=sys.stderr) if shows else None,
    )
    if arguments.json:
        one, *others = [report.to_dict() for report in reports]
        print(json.dumps({"archives": [one, *others]} if others else one, indent=2))
    else:
        print("\n\n".join(map(summary, reports)))
    return max(report.exit_code for report in reports)


def _archives(given: Sequence[str]) -> list[str]:
    """The archives that are meant, without partitions of which no run has made one yet: they hold no video."""
    from malmm.pipeline.archive.catalog import entries_of, names_several
    from malmm.pipeline.archive.location import open_dataset
    from malmm.pipeline.archive.partitions import partitions_named

    if not names_several(given):
        return list(given)
    found = [entry.uri for entry in entries_of(given)]
    if partitions_named(given) is None:
        return found
    return [uri for uri in found if open_dataset(uri, "recipes") is not None] or found


def summary(report: ForgetReport) -> str:
    """Format the report for a terminal. The last lines list where something is left."""
    rows = ", ".join(f"{count} of {name}" for name, count in report.rows.items() if count) or "none"
    lines = [
        f"Archive   {printable(report.archive)}",
        f"Forgot    {len(report.videos)} videos: {', '.join(report.videos)}",
        f"Rows      {rows}",
    ]
    if report.left:
        lines += ["", f"Left: {len(report.left)} places still hold something of them. Run the command again:"]
        lines += [f"  {printable(place)}" for place in report.left[:_LEFT_SHOWN]]
    elif report.purged:
        lines.append("Proved    no version and no file holds anything of them")
    if report.kept:
        lines.append(f"But       {printable(report.kept)}")
        lines.append("Servers that had the archive open may hold pictures in memory: restart them")
    else:
        lines.append(
            "Their bytes stay in old versions until the next `malmm optimize`; --now removes them at once"
        )
    return "\n".join(lines)
