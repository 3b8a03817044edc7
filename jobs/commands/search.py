"""``malmm search``: moments of an archive, by words, by a picture, or by another moment."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from malmm.jobs.commands.options import add_archive
from malmm.jobs.terminal.text import clock, printable, seconds_of, shortened
from malmm.pipeline.schema.errors import ConfigError

if TYPE_CHECKING:
    from malmm.pipeline.archive.reader import ArchiveReader
    from malmm.pipeline.searching.searcher import Found

__all__ = ["add_filters", "add_models", "add_parser", "chosen_videos", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "search",
        help="find moments in an archive",
        description="Find moments in an archive: by what its memory looks like and by what its texts say, both "
        "together. Needs neither the videos nor Ray.",
        epilog="examples:\n"
        "  malmm search 'a red circle moving left' --archive archive\n"
        "  malmm search 'a goal' --archive archive --video 'match-*.mp4' -k 3 --rerank\n"
        "  malmm search --image still.png --archive archive\n"
        "  malmm search --like talk.mp4@12:30 --archive archive\n\n"
        "exit codes: 0 also when nothing is found, 1 the archive cannot be searched, 2 wrong usage",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("text", nargs="?", metavar="TEXT", help="what to look for")
    parser.add_argument("--image", metavar="FILE", help="look for what a picture shows")
    parser.add_argument(
        "--like", metavar="VIDEO@TIME", help="look for more like a moment: seconds, or H:MM:SS, of a video"
    )
    add_archive(parser)
    parser.add_argument("-k", type=int, default=10, metavar="K", help="how many moments (%(default)s)")
    add_filters(parser)
    parser.add_argument(
        "--signals",
        default="vectors,text",
        metavar="A,B",
        help="what may find a moment: vectors, text, or both (%(default)s)",
    )
    parser.add_argument(
        "--rerank", action="store_true", help="order the best by the matching head, on stored tokens"
    )
    parser.add_argument("--exact", action="store_true", help="pass the approximate index by")
    add_models(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which videos."""
    parser.add_argument(
        "--video",
        action="append",
        default=[],
        metavar="ID|GLOB",
        help="only this video: its id, path, URI, file name, or a quoted glob; may be repeated",
    )
    parser.add_argument("--since", metavar="DATE", help="only videos indexed at or after a date, in UTC")
    parser.add_argument("--until", metavar="DATE", help="only videos indexed before a date, in UTC")


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the archive's checkpoints lie now."""
    parser.add_argument(
        "--model", metavar="ID|DIR", help="where the archive's model lies, if not where it was"
    )
    parser.add_argument(
        "--retrieval-model", metavar="ID|DIR", help="where its retrieval model lies, if not where it was"
    )


def run(arguments: argparse.Namespace) -> int:
    """Search and print the moments."""
    from malmm.pipeline.archive.reader import ArchiveReader
    from malmm.pipeline.archive.video_selection import one_video
    from malmm.pipeline.searching.searcher import Like, Searcher

    archive = ArchiveReader.open(arguments.archive)
    like = None
    if arguments.like is not None:
        name, separator, time = arguments.like.rpartition("@")
        if not separator:
            raise ConfigError(f"--like {arguments.like!r}: write VIDEO@TIME, such as talk.mp4@12:30")
        like = Like(one_video(archive.videos(), name)["video_id"], seconds_of("--like", time))
    found = Searcher(archive, model=arguments.model, retrieval_model=arguments.retrieval_model).search(
        arguments.text,
        image=arguments.image,
        like=like,
        k=arguments.k,
        video_ids=chosen_videos(archive, arguments),
        signals=tuple(part.strip() for part in arguments.signals.split(",")),
        rerank=arguments.rerank,
        exact=arguments.exact,
        thumbnails=False,
    )
    if arguments.json:
        print(json.dumps({"archive": archive.root, "moments": [each.to_dict() for each in found]}, indent=2))
    else:
        print("\n".join(lines(found)) if found else "Nothing found.")
    return 0


def chosen_videos(archive: ArchiveReader, arguments: argparse.Namespace) -> list[str] | None:
    """Ids of the videos that the filters leave; None without filters."""
    from malmm.pipeline.archive.video_selection import parse_time, select_videos

    if not (arguments.video or arguments.since or arguments.until):
        return None
    since = parse_time("--since", arguments.since) if arguments.since else None
    until = parse_time("--until", arguments.until) if arguments.until else None
    return select_videos(archive, arguments.video, since=since, until=until)["video_id"].to_pylist()


def lines(found: list[Found]) -> list[str]:
    """Moments for people, best first."""
    shown = []
    for number, each in enumerate(found, 1):
        parts = [f"{' + '.join(each.signals)}"]
        if each.similarity is not None:
            parts.append(f"similarity {each.similarity:.2f}")
        if each.matched is not None:
            parts.append(f"match {each.matched:.0%}")
        shown.append(
            f"{number:3d}. {clock(each.start_s)} to {clock(each.end_s)}  {printable(each.uri)}  ({', '.join(parts)})"
        )
        said = each.text or each.caption
        if said:
            shown.append(f"     {shortened(said, 100)}")
    return shown
