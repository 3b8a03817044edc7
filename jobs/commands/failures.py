"""``malmm failures``: list what could not be indexed and why, or retry it."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from malmm.jobs.commands import index
from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.options import add_archive, add_output
from malmm.jobs.execution import perform_told
from malmm.jobs.terminal.text import about
from malmm.pipeline.schema.config import IndexConfig, Prompt
from malmm.pipeline.schema.decoding import TextSettings
from malmm.pipeline.schema.exit_codes import EXIT_OK, EXIT_SOME_FAILED

if TYPE_CHECKING:
    from malmm.pipeline.archive.reader import ArchiveReader

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "failures",
        run,
        help="list what could not be indexed, or try it again",
        description="List what an archive could not index: every video, or segment of one, with the stage that failed, "
        "why, how often, and since when. A run leaves alone what failed for good and has not changed since; --retry "
        "does just those again, with the options that the archive was made with, and clears what now works.",
        epilog="examples:\n"
        "  malmm failures --archive archive\n"
        "  malmm failures --archive archive --json\n"
        "  malmm failures --archive archive --retry\n\n"
        "exit codes: 0 nothing failed, 3 something did, 1 the archive cannot be read, 2 wrong usage",
    )
    add_archive(parser)
    parser.add_argument("--retry", action="store_true", help="try them again")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """List the failures, or retry them."""
    from malmm.pipeline.archive.partitions import partition_at
    from malmm.pipeline.archive.reader import ArchiveReader

    archive = ArchiveReader.open(arguments.archive)
    rows = archive.failures().to_pylist()
    if arguments.retry and rows:
        config = replace(_config(archive, rows), partition=partition_at(archive.uri))
        return perform_told(index, config, arguments, job="failures --retry")
    if arguments.json:
        print(json.dumps({"archive": archive.uri, "failures": rows}, indent=2, default=str))
    else:
        print("\n".join(_lines(rows)))
    return EXIT_SOME_FAILED if rows else EXIT_OK


def _config(archive: ArchiveReader, rows: list[dict[str, Any]]) -> IndexConfig:
    """Build an index configuration from the archive's recipe with the failed videos as sources."""
    recipe = archive.recipe
    config = IndexConfig(
        sources=tuple(sorted({row["uri"] for row in rows})),
        archive=archive.uri,
        model=recipe.model,
        retrieval_model=recipe.retrieval_model,
        fps=recipe.fps,
        sampling=recipe.sampling,
        segment_s=recipe.segment_s,
        min_segment_s=recipe.min_segment_s,
        bank_length=recipe.bank_length,
        merge_policy=recipe.merge_policy,
        tokens=recipe.tokens,
        texts=TextSettings.from_text(recipe.decoding),
        retry=True,
    )
    asked = archive.prompts()
    prompts = tuple(Prompt(row["prompt_name"], row["prompt"], row["task"]) for row in asked)
    return replace(config, prompts=prompts)


def _lines(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["Nothing failed."]
    lines = []
    for row in rows:
        times = "once" if row["attempts"] == 1 else f"{row['attempts']} times"
        lines.append(about(row["uri"], row["message"]))
        lines.append(
            f"    {row['kind']} at {row['stage']}, {times}, last {row['last_seen']:%Y-%m-%d %H:%M:%S} UTC"
        )
    videos = len({row["video_id"] for row in rows})
    return [*lines, "", f"{len(rows)} failures of {videos} videos"]
