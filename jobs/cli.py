"""``malmm``: the command line."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from malmm.jobs.commands import (
    annotate,
    ask,
    demo,
    demo_videos,
    doctor,
    duplicates,
    evaluate,
    export,
    failures,
    finetune,
    forget,
    import_annotations,
    import_checkpoint,
    index,
    init,
    list_runs,
    mcp,
    models,
    optimize,
    reembed,
    render,
    report,
    run_job,
    schedule,
    search,
    serve,
    show,
    status,
    submit,
    transcribe,
)
from malmm.jobs.terminal.log_lines import log_line
from malmm.jobs.terminal.text import printable
from malmm.pipeline.schema.errors import MalmmError
from malmm.pipeline.schema.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, exit_code_of_error

__all__ = ["help_texts", "main", "make_parser"]


class _Parser(argparse.ArgumentParser):
    """Prints a usage error as one sentence instead of argparse's usage block."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"error: {printable(message)}; see `{self.prog} --help`\n")


class _Version(argparse.Action):
    """Prints the version, which is looked up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from malmm.jobs.own_version import own_version

        print(f"malmm-ray {own_version()}")
        parser.exit()


def _parsers() -> tuple[_Parser, dict[str, _Parser]]:
    """Return the parser of the whole command line, and that of each command by its name."""
    parser = _Parser(
        prog="malmm",
        description="Index long videos with MA-LMM on Ray Data into a LanceDB archive.",
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (
        *(
            index,
            search,
            ask,
            serve,
            mcp,
            annotate,
            transcribe,
            import_annotations,
            export,
            show,
            failures,
            duplicates,
            forget,
            optimize,
            reembed,
        ),
        *(models, doctor),
        *(init, run_job, schedule, submit, render, list_runs, status, report),
        *(import_checkpoint, finetune, evaluate, demo, demo_videos),
    ):
        command.add_parser(commands)
    return parser, commands.choices


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    return _parsers()[0]


def help_texts() -> dict[str, str]:
    """Return what ``malmm --help`` and each ``malmm COMMAND --help`` print, by what is typed before ``--help``."""
    parser, commands = _parsers()
    return {parser.prog: parser.format_help()} | {
        command.prog: command.format_help() for command in commands.values()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. Print errors as one sentence on standard error."""
    arguments = make_parser().parse_args(argv)
    # A scheduler stops a job with SIGTERM: end as cleanly as on Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output, such as `head`, has what it wanted.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MalmmError as error:
        if getattr(arguments, "verbose", False):
            traceback.print_exc()
        # A job file has as many faults as it has; all others are one sentence.
        for problem in getattr(error, "problems", (error,)):
            _complain(str(problem), arguments)
        return exit_code_of_error(error)
    except ValueError as error:
        # The model's own errors are ValueErrors of its package, which a light command never loads.
        if type(error).__name__ != "CheckpointError":
            raise
        _complain(str(error), arguments)
        return EXIT_FAILED


def _complain(message: str, arguments: argparse.Namespace) -> None:
    if getattr(arguments, "log_format", "text") == "json":
        print(log_line("error", level="error", message=message), file=sys.stderr)
    else:
        print(f"error: {printable(message)}", file=sys.stderr)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
