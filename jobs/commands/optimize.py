"""``malmm optimize``: compact files, delete old versions, update search indexes."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.options import Taker, add_archive, add_output
from malmm.jobs.execution import perform_alone
from malmm.jobs.terminal.text import printable
from malmm.pipeline.schema.config import OptimizeConfig
from malmm.pipeline.schema.progress import OnProgress

if TYPE_CHECKING:
    from malmm.pipeline.archive.optimize import OptimizeReport

__all__ = ["add_fields", "add_parser", "configure", "perform", "run", "summary"]


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "optimize",
        run,
        help="merge small files and bring indexes up to date",
        description="Merge an archive's small files, forget old versions, and bring its indexes up to date (vectors, "
        "words, keys). `malmm index` does so when much has come; this does it now.",
        epilog="example:\n  malmm optimize --archive archive\n\n"
        "exit codes: 0 done, 1 the archive cannot be written, 2 wrong usage",
    )
    add_fields(parser)
    add_output(parser, verbose=False)
    parser.set_defaults(verbose=False)


def add_fields(parser: Taker) -> None:
    """Add the options of an optimize job, for the command line and job files."""
    add_archive(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the optimize job and print its summary."""
    return perform_alone(sys.modules[__name__], arguments)


def configure(arguments: argparse.Namespace) -> OptimizeConfig:
    """Build the job's configuration from parsed options. Raises ConfigError."""
    return OptimizeConfig(archive=arguments.archive)


def perform(config: OptimizeConfig, *, on_progress: OnProgress, verbose: bool) -> OptimizeReport:
    """Do it."""
    from malmm.pipeline.archive.optimize import optimize

    def on_cluster(*what: Any) -> Any:
        # Ray takes seconds to load, and few archives are so large that it is needed.
        from malmm.pipeline.indexing.worker_indexing import build_on_cluster

        return build_on_cluster(*what, tell=on_progress)

    return optimize(config, on_progress=on_progress, build_pieces=on_cluster)


def summary(report: OptimizeReport) -> str:
    """Format the report for a terminal."""
    lines = [f"Archive   {printable(report.archive)}"]
    lines += [f"Files     {name}: {before} to {after}" for name, (before, after) in report.files.items()]
    for state in report.indexes:
        covered = state.rows - state.rows_unindexed
        lines.append(f"Index     {state.table}.{state.column} ({state.kind}): {covered} of {state.rows} rows")
    return "\n".join(lines)
