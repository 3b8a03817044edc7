"""Commands over several archives: how they are named, and how those that were left out are reported."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from malmm.jobs.commands.options import Taker
from malmm.jobs.terminal.text import printable
from malmm.pipeline.schema.exit_codes import EXIT_SOME_FAILED

if TYPE_CHECKING:
    from malmm.pipeline.archive.reader import ArchiveReader

__all__ = ["SEVERAL_CODE", "add_archives", "code_over", "content_over", "is_several", "tell_left_out"]

SEVERAL_CODE = "3 an archive of several was left out"
"""The line on exit codes of commands that work over several archives."""


def add_archives(parser: Taker) -> None:
    """Add ``--archive`` for commands that work over several."""
    parser.add_argument(
        "--archive",
        required=True,
        action="append",
        metavar="URI|GLOB|CATALOG",
        help="the archive; several as one if repeated, for a quoted glob, and for a catalog file (.yaml, .json) that "
        "lists archives",
    )


def is_several(archive: ArchiveReader) -> bool:
    """Whether a reader reads several archives as one."""
    from malmm.pipeline.archive.joined import members_of

    return members_of(archive) is not None


def content_over(archive: ArchiveReader) -> dict[str, Any]:
    """What a report says of the archives it is over, for JSON."""
    from malmm.pipeline.archive.joined import members_of

    members = members_of(archive)
    if members is None:
        return {"archive": archive.root}
    return {
        "archive": archive.root,
        "archives": [{"name": member.name, "archive": member.entry.uri} for member in members.now()],
        "left_out": [each.to_dict() for each in members.left_out],
    }


def tell_left_out(archive: ArchiveReader) -> None:
    """Say on standard error which archives were left out, and why."""
    from malmm.pipeline.archive.joined import members_of

    members = members_of(archive)
    for each in () if members is None else members.left_out:
        print(f"left out: {printable(each.name)}: {printable(each.reason)}", file=sys.stderr, flush=True)


def code_over(archive: ArchiveReader, code: int) -> int:
    """The exit code of a command, which is another one where an archive was left out."""
    from malmm.pipeline.archive.joined import members_of

    members = members_of(archive)
    return code if members is None or not members.left_out else EXIT_SOME_FAILED
