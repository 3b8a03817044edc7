"""``malmm report``: write a run's report as an HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.options import add_archive
from malmm.jobs.terminal.text import printable
from malmm.pipeline.schema.errors import ArchiveError, ConfigError

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "report",
        run,
        help="write a run's report as one HTML file",
        description="Write a short report of a run as one HTML file that needs nothing else: what it did, how fast, "
        "how long each stage took, what failed, and some of what the archive holds, with thumbnails.",
        epilog="examples:\n"
        "  malmm report --archive archive --output report.html\n"
        "  malmm report --archive archive 5d97e7a0 --output report.html\n\n"
        "exit codes: 0 written, 1 there is no such run, 2 wrong usage",
    )
    parser.add_argument(
        "run_id", nargs="?", metavar="RUN", help="a run's id, or its beginning (default: the last)"
    )
    add_archive(parser)
    parser.add_argument("--output", required=True, metavar="FILE", help="the file to write")


def run(arguments: argparse.Namespace) -> int:
    """Write it."""
    from malmm.jobs.report_page.page import report_page
    from malmm.pipeline.archive.reader import ArchiveReader
    from malmm.pipeline.archive.run_history import read_run, read_runs

    archive = ArchiveReader.open(arguments.archive)
    if arguments.run_id:
        record = read_run(archive.root, arguments.run_id)
    else:
        runs = read_runs(archive.root)
        if not runs:
            raise ArchiveError(f"{archive.root} has no run recorded yet", uri=archive.root)
        record = runs[0]
    path = Path(arguments.output)
    try:
        path.write_text(report_page(archive, record), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from error
    print(printable(str(path)))
    return 0
