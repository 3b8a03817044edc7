"""``malmm export``: write annotations to files."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.options import Taker, add_archive, add_log_format, add_where
from malmm.jobs.commands.several import SEVERAL_CODE, add_archives
from malmm.jobs.execution import perform_alone
from malmm.jobs.terminal.text import printable
from malmm.pipeline.archive.catalog import names_several
from malmm.pipeline.schema.config import EXPORT_FORMATS, ExportConfig
from malmm.pipeline.schema.progress import OnProgress

if TYPE_CHECKING:
    from malmm.pipeline.archive.export import ExportReport

__all__ = ["add_fields", "add_parser", "configure", "perform", "run", "summary"]


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "export",
        run,
        help="write annotations to files",
        description="Write an archive's annotations: all rows to one file (jsonl, csv, parquet), or the texts of "
        "segments as one caption file a video (vtt, srt), which any player shows; for people to label (label-studio, "
        "fiftyone), with pictures of memory in tar files (webdataset), or what people said is right (reviewed-csv).",
        epilog="examples:\n"
        "  malmm export --archive archive --format csv --output texts.csv\n"
        "  malmm export --archive archive --format vtt --output captions/ --prompt caption\n"
        "  malmm export --archive archive --format label-studio --output tasks.json --prompt caption\n"
        "  malmm export --archive archive --format reviewed-csv --output train.csv\n\n"
        f"exit codes: 0 written, 1 the archive cannot be read, 2 wrong usage, {SEVERAL_CODE}",
    )
    add_archives(parser)
    _add_texts(parser)
    add_log_format(parser)
    parser.set_defaults(json=False, quiet=True, verbose=False)


def add_fields(parser: Taker) -> None:
    """Add the options of an export, for the command line and job files."""
    add_archive(parser)
    _add_texts(parser)


def _add_texts(parser: Taker) -> None:
    parser.add_argument("--format", required=True, choices=EXPORT_FORMATS, help="what to write")
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="the file, or for vtt, srt and webdataset the folder (default: standard output)",
    )
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="NAME",
        help="only texts of this prompt; may be repeated (default: all, for vtt and srt the caption)",
    )
    parser.add_argument(
        "--video", action="append", default=[], metavar="ID|GLOB", help="only this video; may be repeated"
    )
    add_where(parser)
    parser.add_argument(
        "--all-versions", action="store_true", help="not only the latest version of each prompt"
    )
    parser.add_argument(
        "--leave-out",
        metavar="FILE",
        help="no texts of these videos and spans: a list of copies that `malmm duplicates` wrote, or a manifest",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the files."""
    if not names_several(arguments.archive):
        arguments.archive = arguments.archive[0]
        return perform_alone(sys.modules[__name__], arguments)
    # Not in the history of any archive: which of several would tell of it?
    report = perform(configure(arguments), on_progress=lambda progress: None, verbose=arguments.verbose)
    if said := summary(report):
        print(said)
    for each in report.left_out:
        print(f"left out: {printable(each.name)}: {printable(each.reason)}", file=sys.stderr)
    return report.exit_code


def configure(arguments: argparse.Namespace) -> ExportConfig:
    """Build the job's configuration from parsed options. Raises ConfigError."""
    return ExportConfig(
        archive=arguments.archive if isinstance(arguments.archive, str) else tuple(arguments.archive),
        format=arguments.format,
        output=arguments.output,
        prompts=tuple(arguments.prompt),
        videos=tuple(arguments.video),
        all_versions=arguments.all_versions,
        where=arguments.where,
        leave_out=arguments.leave_out,
    )


def perform(config: ExportConfig, *, on_progress: OnProgress, verbose: bool) -> ExportReport:
    """Do it."""
    from malmm.pipeline.archive.export import export

    return export(config)


def summary(report: ExportReport) -> str:
    """Return the rows if no output file is set, else the names of the caption files."""
    if report.text is not None:
        return report.text.removesuffix("\n")
    return "\n".join(printable(path) for path in report.files)
