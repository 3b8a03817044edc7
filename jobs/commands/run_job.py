"""``malmm run``: run a job file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.options import add_output
from malmm.jobs.terminal.text import printable
from malmm.pipeline.schema.errors import ArchiveError, ConfigError
from malmm.pipeline.schema.exit_codes import EXIT_OK, EXIT_SOME_FAILED, worst_code
from malmm.pipeline.schema.progress import Progress

if TYPE_CHECKING:
    from malmm.jobs.files.loading import LoadedJob
    from malmm.jobs.run_recorder import Recorder

__all__ = ["add_file", "add_parser", "run"]

# After a step that ends with another code the others are not begun.
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
        "fails altogether ends the job; videos that fail do not. Partitions of a job are done one after the other; "
        "`malmm submit` runs them at the same time.",
        epilog="examples:\n"
        "  malmm init job.yaml && malmm run job.yaml --dry-run\n"
        "  malmm run job.yaml --set archive=s3://bucket/archive --json\n\n"
        "exit codes: 0 all done, 3 some videos failed, 1 a step failed, 2 wrong usage or a job file with faults, 130 "
        "interrupted",
    )
    add_file(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done; change nothing")
    parser.add_argument(
        "--partition",
        type=int,
        metavar="K",
        help="of a job with `partitions: N`, do partition K alone, from 0 to N - 1 (default: all, one after the other)",
    )
    # What `malmm schedule` tells the runs that it starts.
    parser.add_argument("--scheduled-for", help=argparse.SUPPRESS)
    parser.add_argument("--attempt", type=int, default=1, help=argparse.SUPPRESS)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the job's steps with progress and print their summaries."""
    from malmm.jobs.files.loading import load

    loaded = load(arguments.job, sets=arguments.set, dry_run=arguments.dry_run, partition=arguments.partition)
    do = _preview if arguments.dry_run else _perform
    if loaded.job.partitions is None or arguments.partition is not None:
        done = do(loaded, arguments)
        _say(done, arguments)
        return done.code
    return _each_partition(loaded.job.partitions, do, arguments)


@dataclass(frozen=True)
class _Done:
    """A job that was done, or looked at: its exit code, its content for JSON, and what each step says to a person.

    ``prunes_later`` says that a partition waits for the others' listings before it prunes.
    """

    code: int
    content: dict[str, Any]
    said: list[tuple[str, str]]
    prunes_later: bool = False


def _each_partition(
    number: int, do: Callable[[LoadedJob, argparse.Namespace], _Done], arguments: argparse.Namespace
) -> int:
    from malmm.jobs.files.loading import load
    from malmm.jobs.partition_turns import Turn, in_turn

    done: dict[int, _Done] = {}

    def perform(index: int) -> Turn:
        own = load(arguments.job, sets=arguments.set, dry_run=arguments.dry_run, partition=index)
        done[index] = do(own, arguments)
        if not arguments.json:
            _say(done[index], arguments)
        return Turn(done[index].code, done[index].prunes_later)

    code = in_turn(number, perform)
    if arguments.json:
        content = {"partitions": [each.content for each in done.values()], "exit_code": code}
        print(json.dumps(content, indent=2, default=str), flush=True)
    return code


def _perform(loaded: LoadedJob, arguments: argparse.Namespace) -> _Done:
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
    return _Done(
        code,
        content,
        [(kind, _summary(kind, report)) for kind, report in outcomes],
        prunes_later=any(getattr(report, "videos_kept", 0) for _, report in outcomes),
    )


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
    return worst_code(report.exit_code for _, report in outcomes)


def _error(outcomes: list[tuple[str, Any]]) -> str | None:
    failures = [failure for _, report in outcomes for failure in getattr(report, "failures", [])]
    return failures[0].message if failures else None


def _preview(loaded: LoadedJob, arguments: argparse.Namespace) -> _Done:
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
            code = worst_code((code, report.exit_code))
    return _Done(code, {"job": loaded.name, "archive": loaded.archive, "dry_run": True, "steps": steps}, said)


def _summary(kind: str, report: Any) -> str:
    from malmm.jobs.files.fields import KINDS

    return str(KINDS[kind].summary(report))


def _say(done: _Done, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(done.content, indent=2, default=str))
    elif len(done.said) == 1:
        print(done.said[0][1])
    else:
        print("\n\n".join(f"{printable(kind)}\n{text}".rstrip() for kind, text in done.said))
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
