"""``malmm schedule``: run jobs on their schedules, as a foreground service."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from datetime import UTC, datetime
from typing import Any

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.options import add_log_format
from malmm.jobs.extras import needing
from malmm.jobs.terminal.log_lines import log_line
from malmm.jobs.terminal.text import printable
from malmm.pipeline.schema.exit_codes import EXIT_OK

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "schedule",
        run,
        help="run jobs by their schedules, as a service",
        description="Run jobs at the times of their `schedule:` until stopped. One run of an archive at once: what is "
        "due meanwhile waits, each job once. A time that was missed while the service was off is caught up once. A run "
        "that fails is tried again after a pause that doubles. SIGTERM or Ctrl-C has the run that is going store what "
        "it has, and ends the service; started again, it goes on.",
        epilog="examples:\n"
        "  malmm schedule job.yaml\n"
        "  malmm schedule hourly.yaml nightly.yaml --log-format json\n\n"
        "exit codes: 0 stopped, 2 wrong usage or a job file with faults",
    )
    parser.add_argument("jobs", nargs="+", metavar="JOB.yaml", help="job files with a `schedule:`")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="in place of what every one of the files says; may be repeated",
    )
    add_log_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    from malmm.jobs.files.loading import load

    with needing("schedule", "`malmm schedule`"):
        from malmm.jobs.schedules.service import Service

    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: stopped.set())

    def say(event: str, *, level: str = "info", **fields: Any) -> None:
        # One write: lines of several threads must not run into each other.
        sys.stderr.write(f"{_line(arguments.log_format, event, level, fields)}\n")
        sys.stderr.flush()

    options = ["--log-format", arguments.log_format]
    options += [option for each in arguments.set for option in ("--set", each)]
    service = Service([load(path, sets=arguments.set) for path in arguments.jobs], say, options)
    service.start()
    try:
        stopped.wait()
        say("stopping")
    finally:
        service.stop()
    say("stopped")
    return EXIT_OK


def _line(log_format: str, event: str, level: str, fields: dict[str, Any]) -> str:
    if log_format == "json":
        return log_line(event, level=level, **fields)
    said = " ".join(f"{name}={value}" for name, value in fields.items())
    return printable(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {event} {said}".rstrip())
