"""``malmm doctor``: what this machine has and lacks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.terminal.text import printable
from malmm.pipeline.schema.exit_codes import EXIT_FAILED, EXIT_OK

if TYPE_CHECKING:
    from malmm.jobs.machine_findings import Finding

__all__ = ["add_parser", "code", "lines", "run"]

_MARKS = {"ok": " ", "missing": "-", "wrong": "!"}


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "doctor",
        run,
        help="say what this machine has and lacks",
        description="Say what this machine has and lacks: versions, GPU, memory, extras, programs, the model hub and, "
        "with --archive, whether a store can be written safely. Nothing is installed or started. Put the output of "
        "--json into a bug report; it holds no credentials.",
        epilog="examples:\n"
        "  malmm doctor\n"
        "  malmm doctor --archive s3://films/archive\n"
        "  malmm doctor --json > doctor.json\n\n"
        "A line with '-' lacks something that only some commands need, one with '!' is wrong.\n\n"
        "exit codes: 0 runs can work here, 1 something is missing or wrong without which none does, 2 wrong usage",
    )
    parser.add_argument(
        "--archive", default="", metavar="URI", help="also try whether an archive can be written there"
    )
    parser.add_argument("--no-hub", action="store_true", help="connect to nothing: leave out the model hub")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print the findings."""
    from malmm.jobs.machine_findings import findings
    from malmm.jobs.own_version import own_version

    found = list(findings(arguments.archive, hub=not arguments.no_hub))
    if arguments.json:
        print(json.dumps({"version": own_version(), "findings": [asdict(each) for each in found]}, indent=2))
    else:
        print("\n".join(lines(found)))
    return code(found)


def lines(found: Sequence[Finding]) -> list[str]:
    """Format the findings for a terminal: a mark, the name, what was found, and the way out."""
    width = max(len(each.name) for each in found)
    return [
        printable(
            f"{_MARKS[each.state]} {each.name:<{width}}  {each.found}"
            + (f"; {each.advice}" if each.advice else "")
        )
        for each in found
    ]


def code(found: Sequence[Finding]) -> int:
    """1 if anything that every run needs is not ok, else 0."""
    return EXIT_FAILED if any(each.needed and each.state != "ok" for each in found) else EXIT_OK
