"""``malmm export``: annotations as files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from malmm.jobs.options import add_archive
from malmm.jobs.text import printable
from malmm.pipeline.errors import ConfigError

__all__ = ["add_parser", "run"]

_FORMATS = ("jsonl", "csv", "parquet", "vtt", "srt")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "export",
        help="write annotations to files",
        description="Write an archive's annotations: all rows to one file (jsonl, csv, parquet), or the texts of "
        "segments as one caption file a video (vtt, srt), which any player shows.",
        epilog="examples:\n"
        "  malmm export --archive archive --format csv --output texts.csv\n"
        "  malmm export --archive archive --format vtt --output captions/ --prompt caption\n\n"
        "exit codes: 0 written, 1 the archive cannot be read, 2 wrong usage",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_archive(parser)
    parser.add_argument("--format", required=True, choices=_FORMATS, help="what to write")
    parser.add_argument(
        "--output", metavar="PATH", help="the file, or for vtt and srt the folder (default: standard output)"
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
    parser.add_argument(
        "--all-versions", action="store_true", help="not only the latest version of each prompt"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the files."""
    from malmm.pipeline.exporting import CAPTION_FORMATS, export_captions, export_rows, texts_of
    from malmm.pipeline.reading import ArchiveReader

    archive = ArchiveReader.open(arguments.archive)
    captions = arguments.format in CAPTION_FORMATS
    output = Path(arguments.output) if arguments.output else None
    if captions and output is None:
        raise ConfigError(f"--format {arguments.format} writes a file a video: name a folder with --output")
    texts = texts_of(
        archive,
        prompts=arguments.prompt or (["caption"] if captions else []),
        videos=arguments.video,
        scopes=("segment",) if captions else ("segment", "video"),
        all_versions=arguments.all_versions,
    )
    try:
        if captions and output is not None:
            for path in export_captions(texts, arguments.format, output):
                print(printable(str(path)))
        else:
            sys.stdout.write(export_rows(texts, arguments.format, output) or "")
    except OSError as error:
        raise ConfigError(f"cannot write {arguments.output}: {error.strerror or error}") from error
    return 0
