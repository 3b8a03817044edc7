"""``malmm runs``: list an archive's runs and how each ended."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.options import add_archive
from malmm.jobs.terminal.text import clock, printable, shortened
from malmm.pipeline.schema.errors import ConfigError

if TYPE_CHECKING:
    from malmm.pipeline.archive.run_history import RunRecord

__all__ = ["add_parser", "run"]

_SHOWN = ("videos_indexed", "segments_indexed", "annotations", "texts", "failures")
_CALLED = {"videos_indexed": "videos", "segments_indexed": "segments", "annotations": "texts"}


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "runs",
        run,
        help="list what ran on an archive, and how it ended",
        description="List the runs of an archive, the latest first: when, which job, how it ended, what it did, and "
        "why it failed. Every index, annotate, optimize, export and job file is there, but for dry runs.",
        epilog="examples:\n  malmm runs --archive archive\n  malmm runs --archive archive --job nightly --json\n\n"
        "exit codes: 0 listed, 1 the archive cannot be read, 2 wrong usage",
    )
    add_archive(parser)
    parser.add_argument("--job", metavar="NAME", help="only runs of this job")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """List them."""
    from malmm.pipeline.archive.reader import ArchiveReader
    from malmm.pipeline.archive.run_history import read_runs

    if arguments.limit < 1:
        raise ConfigError(f"--limit {arguments.limit}: at least 1")
    archive = ArchiveReader.open(arguments.archive)
    runs = read_runs(archive.root, job=arguments.job)
    shown = runs[: arguments.limit]
    if arguments.json:
        content = {"archive": archive.root, "runs": [each.to_dict() for each in shown]}
        print(json.dumps(content, indent=2, default=str))
        return 0
    lines = [_line(each) for each in shown] or ["No run is recorded."]
    if len(runs) > len(shown):
        lines.append(f"and {len(runs) - len(shown)} more: --limit {len(runs)}")
    print("\n".join(lines))
    return 0


def _line(run: RunRecord) -> str:
    counts = [f"{run.counts[name]:g} {_CALLED.get(name, name)}" for name in _SHOWN if run.counts.get(name)]
    attempt = f" (attempt {run.attempt})" if run.attempt > 1 else ""
    line = (
        f"{run.run_id[:8]}  {run.started:%Y-%m-%d %H:%M:%S}  {printable(run.job):<16} {run.trigger:<8}  "
        f"{run.status:<11} {clock(run.took_s):>8}  {', '.join(counts)}{attempt}"
    ).rstrip()
    return f"{line}\n    {shortened(run.error, 200)}" if run.error else line
