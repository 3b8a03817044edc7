"""``malmm status``: show an archive's progress, problems and current run."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.several import (
    SEVERAL_CODE,
    add_archives,
    code_over,
    content_over,
    is_several,
    tell_left_out,
)
from malmm.jobs.terminal.text import clock, printable, shortened, size

if TYPE_CHECKING:
    from malmm.pipeline.archive.reader import ArchiveReader

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "status",
        run,
        help="show how far an archive is, and what runs on it now",
        description="Show what of an archive is indexed, pending and failed, how many rows its indexes cover, "
        "with how many partitions and since when, what is about to make searches slow, its storage by table, the run "
        "that is going with its progress, and the one before. Of an archive in partitions: all of them as one, and a "
        "line for each.",
        epilog="examples:\n  malmm status --archive archive\n  malmm status --archive 'archives/*' --json\n\n"
        f"exit codes: 0 shown, 1 the archive cannot be read, 2 wrong usage, {SEVERAL_CODE}",
    )
    add_archives(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Show it."""
    from malmm.pipeline.archive.joined import JoinedArchive, open_archives
    from malmm.pipeline.archive.partition_status import status_of_partitions
    from malmm.pipeline.archive.partitions import partitions_named
    from malmm.pipeline.archive.status import status

    archive = open_archives(arguments.archive)
    if not is_several(archive):
        content = status(archive).to_dict()
        print(json.dumps(content, indent=2, default=str) if arguments.json else "\n".join(_lines(content)))
        return 0
    fixed = partitions_named(arguments.archive)
    if fixed is not None and isinstance(archive, JoinedArchive):
        content = status_of_partitions(archive, fixed).to_dict() | {
            "left_out": content_over(archive)["left_out"]
        }
        lines = [json.dumps(content, indent=2, default=str)] if arguments.json else _partitions(content)
        print("\n".join(lines))
        tell_left_out(archive)
        return code_over(archive, 0)
    each = [status(reader).to_dict() for reader in archive.archives]
    if arguments.json:
        over = content_over(archive)
        named = [row | found for row, found in zip(over["archives"], each, strict=True)]
        print(json.dumps(over | {"archives": named}, indent=2, default=str))
    else:
        print("\n\n".join("\n".join(_lines(content)) for content in each))
        print(f"\n{_total(archive, each)}")
    tell_left_out(archive)
    return code_over(archive, 0)


def _partitions(content: dict[str, Any]) -> list[str]:
    """All partitions as one, and then a line for each."""
    lines = [
        f"Archive   {printable(content['archive'])}, {content['number']} partitions, {printable(content['model'])}",
        *_counted(content),
        *(f"Warning   {printable(warning)}" for warning in content["warnings"]),
        *([f"Hint      {printable(content['hint'])}"] if content["hint"] else []),
        f"Storage   {size(content['bytes'])}",
        f"Running   {', '.join(content['running']) or 'nothing'}",
        "",
    ]
    for part in content["partitions"]:
        videos = part["videos"]
        said = f"{videos['indexed']} indexed, {videos['pending']} pending, {videos['failed']} failed"
        run = part["running"] or part["last_run"]
        lines.append(f"{part['name']} {said}" + (f"; {_run(run)}" if run else ""))
    return lines


def _total(archive: ArchiveReader, each: list[dict[str, Any]]) -> str:
    videos = archive.count("videos")
    twice = sum(content["videos"]["indexed"] for content in each) - videos
    slots = sum(content["rows"]["memories"] for content in each)
    also = f", {twice} of them in more than one" if twice else ""
    return f"Together  {len(each)} archives: {videos} videos{also}, {slots} memory slots"


def _lines(content: dict[str, Any]) -> list[str]:
    lines = [f"Archive   {printable(content['archive'])}", *_counted(content)]
    for index in content["indexes"]:
        lines.append(f"Index     {index['table']}.{index['column']}: {_index(index)}")
    lines += [f"Warning   {printable(warning)}" for warning in content["warnings"]]
    if content["hint"]:
        lines.append(f"Hint      {printable(content['hint'])}")
    total = sum(table["bytes"] for table in content["storage"].values())
    tables = ", ".join(f"{name} {size(table['bytes'])}" for name, table in content["storage"].items())
    lines.append(f"Storage   {size(total)}: {tables}")
    for title, key in (("Running", "running"), ("Last run", "last_run")):
        if content[key]:
            lines.append(f"{title:<9} {_run(content[key])}")
    if not content["running"]:
        lines.append("Running   nothing")
    return lines


def _counted(content: dict[str, Any]) -> list[str]:
    videos = content["videos"]
    failures = ", ".join(f"{count} {kind}" for kind, count in content["failures_by_kind"].items())
    return [
        f"Videos    {videos['indexed']} indexed ({clock(content['video_s'])}), {videos['pending']} pending, "
        f"{videos['failed']} failed" + (f" ({printable(failures)})" if failures else ""),
        f"Rows      {content['rows']['segments']} segments, {content['rows']['memories']} memory slots, "
        f"{content['rows']['annotations']} texts",
    ]


def _index(index: dict[str, Any]) -> str:
    said = f"{index['rows'] - index['rows_unindexed']} of {index['rows']} rows indexed"
    if index["partitions"]:
        said += f", {' + '.join(map(str, index['partitions']))} partitions"
    if index["trained_at"]:
        said += f", trained {datetime.fromisoformat(index['trained_at']):%Y-%m-%d %H:%M} UTC"
    return said


def _run(run: dict[str, Any]) -> str:
    said = f"{printable(run['job'])} since {run['started']:%Y-%m-%d %H:%M:%S} UTC, {clock(run['took_s'])}"
    if run["status"] == "running":
        progress = run["progress"]
        return f"{said}, {_progress(progress)}" if progress else f"{said}, just begun"
    return f"{said}, {run['status']}" + (f": {shortened(run['error'], 120)}" if run["error"] else "")


def _progress(progress: dict[str, Any]) -> str:
    parts = [printable(progress["stage"])]
    for what in ("segments", "videos"):
        if progress.get(f"{what}_total"):
            parts.append(f"{progress[f'{what}_done']} of {progress[f'{what}_total']} {what}")
    if progress.get("so_far") and len(parts) > 1:
        parts[-1] += " so far"
    if progress.get("failures"):
        parts.append(f"{progress['failures']} failed")
    return ", ".join(parts)
