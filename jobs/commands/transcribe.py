"""``malmm transcribe``: store what is said in the videos of an archive."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.options import (
    Taker,
    add_archive,
    add_cluster_use,
    add_output,
    cluster_use,
    parse_resource,
)
from malmm.jobs.execution import perform_alone
from malmm.jobs.extras import need_speech
from malmm.jobs.terminal.text import clock, printable
from malmm.pipeline.schema.progress import OnProgress
from malmm.pipeline.schema.transcribe_config import GIVEN_KINDS, TranscribeConfig

if TYPE_CHECKING:
    from malmm.pipeline.indexing.transcribe import TranscribeReport

__all__ = ["add_fields", "add_parser", "configure", "perform", "run", "summary"]

_PROBLEMS_SHOWN = 20


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "transcribe",
        run,
        help="store what is said in indexed videos",
        description="Store the subtitles of an archive's videos: files beside a video (talk.srt, talk.de.vtt, .ass, "
        ".ttml) and text tracks in it; with --model also speech, which a Whisper model recognises on Ray. Texts "
        "are searched by their words, shown on the page and exported. Only what is missing or has changed is "
        "read, and nothing that was indexed is touched.",
        epilog="examples:\n"
        "  malmm transcribe --archive archive\n"
        "  malmm transcribe --archive archive --subtitles files --encoding cp1250\n"
        "  malmm transcribe --archive archive --model openai/whisper-small --language de\n"
        "  malmm transcribe --archive archive --model openai/whisper-small --skip-subtitled\n"
        "  malmm export --archive archive --format srt --prompt transcript --output subtitles/\n\n"
        "exit codes: 0 all went in, 3 something was left out, 1 all was or the archive cannot be written, 2 wrong "
        "usage, 130 interrupted",
    )
    add_fields(parser)
    add_output(parser)


def add_fields(parser: Taker) -> None:
    """Add the options of the job, for the command line and job files."""
    add_archive(parser)
    parser.add_argument(
        "--subtitles",
        choices=(*GIVEN_KINDS, "none"),
        help="only files beside the videos, only tracks in them (for which whole videos are read), or none (default: "
        "both)",
    )
    parser.add_argument(
        "--model", default="", metavar="ID|DIR", help="recognise speech with this Whisper checkpoint"
    )
    parser.add_argument(
        "--language",
        default="",
        metavar="CODE",
        help="what is spoken, such as de (default: the model finds it)",
    )
    parser.add_argument(
        "--skip-subtitled",
        action="store_true",
        help="with --model: recognise no speech in videos that have subtitles, in whatever language, or an imported "
        "transcript",
    )
    parser.add_argument(
        "--resource",
        action="append",
        default=[],
        metavar="NAME=N",
        help="workers that listen (decode_workers, decode_cpus) and recognise (encode_workers, encode_cpus, "
        "encode_gpus), in place of what is chosen from the cluster's size",
    )
    add_cluster_use(parser)
    parser.add_argument(
        "--encoding",
        default="",
        metavar="NAME",
        help="of subtitle files that are not in Unicode, such as cp1250 or shift_jis (default: guessed)",
    )
    parser.add_argument("--where", metavar="SQL", help="only videos that meet a condition over their columns")
    parser.add_argument("--dry-run", action="store_true", help="say how much is missing; change nothing")


def run(arguments: argparse.Namespace) -> int:
    """Run the job with progress and print its summary."""
    return perform_alone(sys.modules[__name__], arguments)


def configure(arguments: argparse.Namespace) -> TranscribeConfig:
    """Build the job's configuration from parsed options. Raises ConfigError, also without the extra ``speech``."""
    given = tuple(kind for kind in GIVEN_KINDS if arguments.subtitles in (None, kind))
    if "files" in given:
        need_speech("`malmm transcribe`")
    return TranscribeConfig(
        archive=arguments.archive,
        given=given,
        model=arguments.model,
        language=arguments.language,
        where=arguments.where,
        encoding=arguments.encoding,
        resources=tuple(parse_resource(option) for option in arguments.resource),
        cluster=cluster_use(arguments),
        dry_run=arguments.dry_run,
        skip_subtitled=arguments.skip_subtitled,
    )


def perform(config: TranscribeConfig, *, on_progress: OnProgress, verbose: bool) -> TranscribeReport:
    """Do it."""
    from malmm.pipeline.indexing.transcribe import transcribe

    return transcribe(config, on_progress=on_progress, verbose=verbose)


def summary(report: TranscribeReport) -> str:
    """Format the report for a terminal. The last lines list what was left out."""
    lines = []
    if report.interrupted:
        lines.append("Interrupted. What is stored stays; run the same command again to go on.")
    if report.dry_run:
        lines.append(f"Nothing was changed. {report.missing} files, videos and spans are to be read.")
    lines += [
        f"Archive   {printable(report.archive)}",
        f"Videos    {report.videos}" + (f", {report.subtitled} with subtitles" if report.subtitled else ""),
        f"Read      {report.transcripts} transcripts: {report.new} new texts, {report.changed} changed, "
        f"{report.unchanged} stored before",
        f"Took      {clock(report.elapsed_s)}",
    ]
    if report.problems:
        lines += ["", f"Left out: {len(report.problems)}"]
        lines += [f"  {printable(problem)}" for problem in report.problems[:_PROBLEMS_SHOWN]]
        more = len(report.problems) - _PROBLEMS_SHOWN
        if more > 0:
            lines.append(f"  and {more} more: --json lists all")
    return "\n".join(lines)
