"""``malmm duplicates``: find copies among what an archive holds, and list what to leave out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.several import SEVERAL_CODE, add_archives, code_over, tell_left_out
from malmm.jobs.terminal.text import clock, printable, span
from malmm.pipeline.schema.errors import ConfigError

if TYPE_CHECKING:
    from malmm.pipeline.duplicates.copies import Copies

__all__ = ["add_parser", "run"]

_KEEPS = ("first", "longest")


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "duplicates",
        run,
        help="find copies among the videos of one or several archives",
        description="Find moments and videos that are copies of each other: in another size, cut, encoded again, "
        "mirrored, sped up by some per cent, or put into another video. Compares the stored vectors alone and opens no "
        "video. Passages that come again within one video are reported as repeats. Several archives are compared as "
        "one; those whose vectors are of another retrieval model than the first one's are left out.",
        epilog="examples:\n"
        "  malmm duplicates --archive archive\n"
        "  malmm duplicates --archive archive --output copies.parquet\n"
        "  malmm duplicates --archive north --archive 's3://films/*'    # also copies of one's videos in another\n"
        "  malmm duplicates --archive archive --keep longest --leave-out copies.jsonl\n"
        "  malmm export --archive archive --format jsonl --leave-out copies.jsonl\n\n"
        "exit codes: 0 looked for copies, 1 the archive cannot be read or has no vectors, 2 wrong usage,\n"
        f"{SEVERAL_CODE}",
    )
    add_archives(parser)
    parser.add_argument(
        "--least-s", type=float, default=10.0, metavar="S", help="shortest copy, in seconds (%(default)g)"
    )
    parser.add_argument("--output", metavar="FILE", help="write the report to a .json or .parquet file")
    parser.add_argument(
        "--keep",
        choices=_KEEPS,
        help="which copy stays when others are left out: that of the video indexed first, or of the longest video",
    )
    parser.add_argument(
        "--leave-out",
        metavar="FILE",
        help="with --keep, write what to leave out to a .jsonl, .csv or .parquet file, which the option --leave-out of "
        "`malmm export` and `malmm index` reads",
    )
    parser.add_argument(
        "--repeats",
        action="store_true",
        help="with --keep, also leave out passages that come again within one video",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run(arguments: argparse.Namespace) -> int:
    """Find the copies, and write what was asked for."""
    report, listed = _checked(arguments)
    from malmm.pipeline.archive.joined import members_of, open_archives
    from malmm.pipeline.duplicates.copies import find_copies
    from malmm.pipeline.duplicates.reports import write_left_out, write_report
    from malmm.pipeline.duplicates.runs import Limits
    from malmm.pipeline.searching.several import of_one_tower

    def tell(doing: str) -> None:
        if not arguments.quiet:
            print(f"{doing[0].upper()}{doing[1:]}", file=sys.stderr)

    archive = of_one_tower(open_archives(arguments.archive))
    tell_left_out(archive)
    found = find_copies(archive.archives, Limits(least_s=arguments.least_s), tell=tell)
    if report is not None:
        write_report(found, report)
    if listed is not None:
        write_left_out(found, found.left_out(arguments.keep, repeats=arguments.repeats), listed)
    if arguments.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        members = members_of(archive)
        names = {} if members is None else {member.reader.root: member.name for member in members.now()}
        print("\n".join(_lines(found, names)))
    return code_over(archive, 0)


def _checked(arguments: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """The files to write. Raises ConfigError before anything is read."""
    if not 0 < arguments.least_s < float("inf"):
        raise ConfigError(f"--least-s {arguments.least_s:g}: above 0 seconds")
    if (arguments.keep is None) != (arguments.leave_out is None):
        raise ConfigError(
            "--keep and --leave-out go together: which copy stays, and where to list the others"
        )
    if arguments.repeats and arguments.keep is None:
        raise ConfigError("--repeats is about what to leave out: give --keep and --leave-out too")
    return (
        _file("--output", arguments.output, (".json", ".parquet")),
        _file("--leave-out", arguments.leave_out, (".jsonl", ".csv", ".parquet")),
    )


def _file(option: str, name: str | None, endings: tuple[str, ...]) -> Path | None:
    if name is None:
        return None
    path = Path(name)
    if path.suffix.lower() not in endings:
        raise ConfigError(
            f"{option} {name}: name a file that ends in {', '.join(endings[:-1])} or {endings[-1]}"
        )
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {name}: there is no folder {path.parent}")
    return path


def _lines(found: Copies, names: Mapping[str, str]) -> list[str]:
    """The report for people. ``names`` are those of the archives by address, where there are several."""
    lines = [f"{len(found.videos)} videos, {found.slots} memory slots"]
    for title, repeats in (("Copies", False), ("Comes again in the same video", True)):
        groups = found.groups(repeats=repeats)
        if not groups and not repeats:
            lines += ["", "No copies."]
        for number, (members, _) in enumerate(groups, 1):
            if number == 1:
                lines += ["", f"{title}: {len(groups)}"]
            for place, member in enumerate(members):
                video = found.videos[member.video]
                ends_s = video.start_s + video.duration_s
                whole = member.start_s - video.start_s < 1 and ends_s - member.end_s < 1
                said = (
                    f"all of it, {clock(video.duration_s)}"
                    if whole
                    else span(round(member.start_s), round(member.end_s))
                )
                head = f"{number:>4}  " if place == 0 else " " * 6
                whose = f"  ({printable(names[video.archive])})" if names else ""
                lines.append(f"{head}{printable(video.uri)}  {said}{whose}")
    return lines
