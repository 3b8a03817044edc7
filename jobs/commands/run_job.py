"""``malmm run``: run a job file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.options import add_output
from malmm.jobs.terminal.text import printable
from malmm.pipeline.schema.errors import ArchiveError, ConfigError
from malmm.pipeline.schema.exit_codes import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_SOME_FAILED,
    EXIT_USAGE,
)
from malmm.pipeline.schema.progress import Progress

if TYPE_CHECKING:
    from malmm.jobs.files.loading import LoadedJob
    from malmm.jobs.run_recorder import Recorder

__all__ = ["add_file", "add_parser", "run"]

# The first of these that a step exits with is the job's; after the first three the others are not begun.
_WORST_FIRST = (EXIT_INTERRUPTED, EXIT_USAGE, EXIT_FAILED, EXIT_SOME_FAILED, EXIT_OK)
_GOES_ON = (EXIT_OK, EXIT_SOME_FAILED)


def add_file(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command that reads a job file."""
    parser.add_argument("job", metavar="JOB.yaml", help="a job file; `malmm init` writes one")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="in place of what the file says; may be repeated: --set archive=other --set steps.0.index.fps=2",
    )


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "run",
        run,
        help="do what a job file says",
        description="Do what a job file says, step after step, and keep the run in the archive's history. A step that "
        "fails altogether ends the job; videos that fail do not.",
        epilog="examples:\n"
        "  malmm init job.yaml && malmm run job.yaml --dry-run\n"
        "  malmm run job.yaml --set archive=s3://bucket/archive --json\n\n"
        "exit codes: 0 all done, 3 some videos failed, 1 a step failed, 2 wrong usage or a job file with faults, 130 "
        "interrupted",
    )
    add_file(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done; change nothing")
    # What `malmm schedule` tells the runs that it starts.
    parser.add_argument("--scheduled-for", help=argparse.SUPPRESS)
    parser.add_argument("--attempt", type=int, default=1, help=argparse.SUPPRESS)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the job's steps with progress and print their summaries."""
    from malmm.jobs.files.loading import load

    loaded = load(arguments.job, sets=arguments.set, dry_run=arguments.dry_run)
    return _preview(loaded, arguments) if arguments.dry_run else _perform(loaded, arguments)


def _perform(loaded: LoadedJob, arguments: argparse.Namespace) -> int:
    from malmm.jobs.run_recorder import recorded
    from malmm.jobs.terminal.progress import progress_shown
    from malmm.pipeline.archive.run_history import RunRecord

    record = RunRecord(
        loaded.name,
        tuple(step.kind for step in loaded.steps),
        trigger="schedule" if arguments.scheduled_for else "command",
        scheduled_for=_time(arguments.scheduled_for),
        attempt=arguments.attempt,
    )
    outcomes: list[tuple[str, Any]] = []
    with (
        progress_shown(
            quiet=arguments.quiet, verbose=arguments.verbose, log_format=arguments.log_format
        ) as display,
        recorded(loaded.archive, record) as recorder,
    ):

        def tell(progress: Progress) -> None:
            display(progress)
            recorder.watch(progress)

        code = _steps(loaded, recorder, outcomes, tell, verbose=arguments.verbose)
        recorder.end(code, _error(outcomes) if code else None)
    content = recorder.run.to_dict() | {
        "archive": loaded.archive,
        "steps": [{"kind": kind} | report.to_dict() for kind, report in outcomes],
    }
    _say(content, [(kind, _summary(kind, report)) for kind, report in outcomes], arguments)
    return code


def _steps(
    loaded: LoadedJob,
    recorder: Recorder,
    outcomes: list[tuple[str, Any]],
    tell: Callable[[Progress], None],
    *,
    verbose: bool,
) -> int:
    from malmm.jobs.files.fields import KINDS

    for step in loaded.steps:
        report = KINDS[step.kind].perform(step.config, on_progress=tell, verbose=verbose)
        recorder.count(report.to_dict())
        outcomes.append((step.kind, report))
        if report.exit_code not in _GOES_ON:
            break
    codes = {report.exit_code for _, report in outcomes}
    return next(code for code in _WORST_FIRST if code in codes)


def _error(outcomes: list[tuple[str, Any]]) -> str | None:
    failures = [failure for _, report in outcomes for failure in getattr(report, "failures", [])]
    return failures[0].message if failures else None


def _preview(loaded: LoadedJob, arguments: argparse.Namespace) -> int:
    from malmm.jobs.files.fields import KINDS
    from malmm.jobs.terminal.progress import progress_shown
    from malmm.pipeline.archive.reader import ArchiveReader

    said: list[tuple[str, str]] = []
    steps: list[dict[str, Any]] = []
    code = EXIT_OK
    with progress_shown(
        quiet=arguments.quiet, verbose=arguments.verbose, log_format=arguments.log_format
    ) as display:
        for step in loaded.steps:
            try:
                if step.kind != "index":
                    ArchiveReader.open(loaded.archive)
            except ArchiveError:
                said.append((step.kind, "It needs the archive, which is not there yet."))
                steps.append({"kind": step.kind, "planned": False})
                continue
            if not hasattr(step.config, "dry_run"):
                said.append((step.kind, "It would be done."))
                steps.append({"kind": step.kind, "planned": True})
                continue
            report = KINDS[step.kind].perform(step.config, on_progress=display, verbose=arguments.verbose)
            said.append((step.kind, _summary(step.kind, report)))
            steps.append({"kind": step.kind} | report.to_dict())
            code = next(each for each in _WORST_FIRST if each in (code, report.exit_code))
    _say({"job": loaded.name, "archive": loaded.archive, "dry_run": True, "steps": steps}, said, arguments)
    return code


def _summary(kind: str, report: Any) -> str:
    from malmm.jobs.files.fields import KINDS

    return str(KINDS[kind].summary(report))


def _say(content: dict[str, Any], said: list[tuple[str, str]], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(content, indent=2, default=str))
    elif len(said) == 1:
        print(said[0][1])
    else:
        print("\n\n".join(f"{printable(kind)}\n{text}".rstrip() for kind, text in said))
    sys.stdout.flush()


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--scheduled-for {text!r} is no time") from error
    if moment.tzinfo is None:
        raise ConfigError(f"--scheduled-for {text!r} has no time zone")
    return moment
