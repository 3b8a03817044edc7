"""``malmm reembed``: give an archive the vectors of another retrieval model."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.options import Taker, add_archive, add_output
from malmm.jobs.execution import perform_alone
from malmm.jobs.terminal.text import clock, printable
from malmm.pipeline.schema.progress import OnProgress
from malmm.pipeline.schema.reembed_config import REEMBED_SOURCES, ReembedConfig

if TYPE_CHECKING:
    from malmm.pipeline.indexing.reembed import ReembedReport

__all__ = ["add_fields", "add_parser", "configure", "perform", "run", "summary"]

_MADE_FROM = {
    "tokens": "from stored tokens",
    "thumbnails": "from stored thumbnails, one frame a slot",
    "frames": "from the videos' frames, decoded again",
}


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "reembed",
        run,
        help="give an archive another retrieval model",
        description="Replace an archive's search vectors by those of another retrieval model, without indexing again. "
        "The old ones are searched until all new ones are there; a stopped run goes on where it was. Works in this "
        "process, on its GPU if there is one.",
        epilog="examples:\n"
        "  malmm reembed --archive archive --retrieval-model google/siglip2-base-patch16-224\n"
        "  malmm reembed --archive archive --retrieval-model siglip/ --from frames\n\n"
        "exit codes: 0 done, 1 it cannot be done, 2 wrong usage, 130 interrupted",
    )
    add_fields(parser)
    add_output(parser)


def add_fields(parser: Taker) -> None:
    """Add the options of a reembed job."""
    add_archive(parser)
    parser.add_argument(
        "--retrieval-model",
        required=True,
        metavar="ID|DIR",
        help="a SigLIP or CLIP checkpoint, or for archives of InstructBLIP a BLIP-2 image-text checkpoint",
    )
    parser.add_argument(
        "--from",
        dest="source",
        choices=REEMBED_SOURCES,
        default=REEMBED_SOURCES[0],
        help="what vectors are made from: stored tokens, stored thumbnails (the middle frame of each slot), or all "
        "frames, for which the videos are decoded again (%(default)s: tokens if the model reads them, else thumbnails)",
    )
    parser.add_argument(
        "--model", default="", metavar="ID|DIR", help="where the archive's model lies, if not where it was"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the job and print its summary."""
    return perform_alone(sys.modules[__name__], arguments)


def configure(arguments: argparse.Namespace) -> ReembedConfig:
    """Build the job's configuration from parsed options. Raises ConfigError."""
    return ReembedConfig(
        archive=arguments.archive,
        retrieval_model=arguments.retrieval_model,
        source=arguments.source,
        model=arguments.model,
    )


def perform(config: ReembedConfig, *, on_progress: OnProgress, verbose: bool) -> ReembedReport:
    """Do it."""
    # Loading torch takes seconds that --help need not wait for.
    from malmm.pipeline.indexing.reembed import reembed

    return reembed(config, on_progress=on_progress)


def summary(report: ReembedReport) -> str:
    """Format the report for a terminal."""
    lines = [f"Archive   {printable(report.archive)}", f"Vectors   of {printable(report.retrieval_model)}"]
    lines += [f"Segments  {count} {_MADE_FROM[way]}" for way, count in report.segments.items() if count]
    if report.resumed:
        lines.append(f"Segments  {report.resumed} made by an earlier run")
    if report.without:
        lines.append(
            f"Segments  {report.without} have no vectors: no thumbnails, and their videos cannot be decoded"
        )
    if not report.segments and not report.resumed:
        lines.append("Nothing to do: these are its vectors")
    lines.append(f"Took      {clock(report.elapsed_s)}")
    return "\n".join(lines)
