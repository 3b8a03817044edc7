"""``malmm import-annotations``: take in what other programs or people say of videos."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.options import add_archive
from malmm.jobs.terminal.text import printable

if TYPE_CHECKING:
    from malmm.pipeline.archive.import_annotations import ImportReport

__all__ = ["add_parser", "run", "summary"]

_PROBLEMS_SHOWN = 20


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "import-annotations",
        run,
        help="take in texts that other programs or people made",
        description="Store the rows of a table (.csv, .tsv, .jsonl, .parquet), or labels of an export of Label Studio "
        "or FiftyOne (.json), as annotations: text read from pictures, detections, labels, transcripts. Columns: video "
        "(id, address or file name), start_s and end_s (seconds on the video's own clock, or M:SS; without them the "
        "whole video), task, text, score, source, language, speaker; only video and text are needed. The same table "
        "again changes nothing, and corrected texts take the place of the old ones. Rows with the task `transcript` "
        "are what is said. Labels that were made from texts which `malmm export` wrote become reviews of those "
        "(docs/review.md).",
        epilog="examples:\n"
        "  malmm import-annotations ocr.csv --archive archive --task ocr\n"
        "  malmm import-annotations detections.parquet --archive archive --json\n\n"
        "exit codes: 0 all rows went in, 3 some were left out, 1 all were or the archive cannot be written, 2 wrong "
        "usage",
    )
    parser.add_argument("file", metavar="FILE", help="the table")
    add_archive(parser)
    parser.add_argument(
        "--task", default="imported", metavar="NAME", help="what rows are that do not say it (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Import the table and print what was done."""
    from malmm.pipeline.archive.import_annotations import ImportConfig, import_annotations

    report = import_annotations(ImportConfig(arguments.archive, arguments.file, arguments.task))
    print(json.dumps(report.to_dict(), indent=2) if arguments.json else summary(report))
    return report.exit_code


def summary(report: ImportReport) -> str:
    """Format the report for a terminal. The last lines list what was left out."""
    lines = [
        f"Archive   {printable(report.archive)}",
        f"Rows      {report.rows}: {report.new} new texts, {report.changed} changed, {report.unchanged} stored before",
    ]
    if report.reviews:
        lines.append(f"Reviews   {report.reviews} labels were about texts of the archive")
    if report.left_out:
        lines += ["", f"Left out: {report.left_out}"]
        lines += [f"  {printable(problem)}" for problem in report.problems[:_PROBLEMS_SHOWN]]
        if report.left_out > _PROBLEMS_SHOWN:
            lines.append(f"  and {report.left_out - _PROBLEMS_SHOWN} more: --json lists them")
    return "\n".join(lines)
