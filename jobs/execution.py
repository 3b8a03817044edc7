"""Run a command or a job step: show progress, record the run, print the report.

A kind of job is a module with the functions of ``Kind``.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Protocol

from malmm.jobs.commands.options import Taker
from malmm.pipeline.schema.progress import OnProgress

__all__ = ["Kind", "Report", "perform_alone", "perform_told", "performed"]


class Report(Protocol):
    """The result of any kind of job."""

    @property
    def exit_code(self) -> int:
        """The command's exit code."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a JSON-compatible dictionary."""


class Kind(Protocol):
    """A kind of job: ``index``, ``annotate``, ``optimize`` or ``export``, each a module of this folder."""

    def add_fields(self, parser: Taker) -> None:
        """Add the job's options."""

    def configure(self, arguments: argparse.Namespace) -> Any:
        """Build the configuration from parsed options. Raises ConfigError."""

    def perform(self, config: Any, *, on_progress: OnProgress, verbose: bool) -> Any:
        """Run the job and return its ``Report``."""

    def summary(self, report: Any) -> str:
        """Format the report for a terminal."""


def perform_alone(kind: Any, arguments: argparse.Namespace) -> int:
    """Run this kind of job as a command."""
    name = kind.__name__.rpartition(".")[2]
    return perform_told(kind, kind.configure(arguments), arguments, job=name)


def perform_told(kind: Any, config: Any, arguments: argparse.Namespace, *, job: str) -> int:
    """Run the job with progress, record it in the archive's history (except a dry run), and print the report."""
    report = performed(kind, config, arguments, job=job)
    said = json.dumps(report.to_dict(), indent=2) if arguments.json else kind.summary(report)
    if said:
        print(said)
    sys.stdout.flush()
    return int(report.exit_code)


def performed(kind: Any, config: Any, arguments: argparse.Namespace, *, job: str) -> Any:
    """Run the job as ``perform_told`` does and return its report, without printing it."""
    from malmm.jobs.run_recorder import recorded
    from malmm.jobs.terminal.progress import progress_shown
    from malmm.pipeline.archive.run_history import RunRecord

    log_format = getattr(arguments, "log_format", "text")
    with progress_shown(quiet=arguments.quiet, verbose=arguments.verbose, log_format=log_format) as display:
        if getattr(config, "dry_run", False):
            report = kind.perform(config, on_progress=display, verbose=arguments.verbose)
        else:
            run = RunRecord(job, (kind.__name__.rpartition(".")[2],))
            with recorded(config.archive, run) as recorder:

                def tell(progress: Any) -> None:
                    display(progress)
                    recorder.watch(progress)

                report = kind.perform(config, on_progress=tell, verbose=arguments.verbose)
                recorder.count(report.to_dict())
                recorder.end(report.exit_code)
    return report
