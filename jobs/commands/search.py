"""``malmm search``: moments of an archive, by words, by a picture, or by another moment."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.options import add_where
from malmm.jobs.commands.several import (
    SEVERAL_CODE,
    add_archives,
    code_over,
    content_over,
    is_several,
    tell_left_out,
)
from malmm.jobs.terminal.player import open_in, player
from malmm.jobs.terminal.prompt import lines_of
from malmm.jobs.terminal.text import printable, seconds_of, shortened, span
from malmm.pipeline.schema.errors import ConfigError, MalmmError

if TYPE_CHECKING:
    import subprocess

    from malmm.pipeline.archive.reader import ArchiveReader
    from malmm.pipeline.searching.facets import Facet
    from malmm.pipeline.searching.groups import FoundVideo
    from malmm.pipeline.searching.searcher import Found, Like

__all__ = ["Finder", "add_filters", "add_models", "add_parser", "chosen_videos", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "search",
        run,
        help="find moments in an archive",
        description="Find moments in an archive: by what its memory looks like and by what its texts say, both "
        "together. Needs neither the videos nor Ray. Without a query it asks for one after the other, or reads them "
        "from standard input, one a line, and answers at once, as everything stays loaded.",
        epilog="examples:\n"
        "  malmm search 'a red circle moving left' --archive archive\n"
        "  malmm search 'a red circle' --archive archive --open     # in mpv or VLC, at the moment\n"
        "  malmm search --archive archive                           # a prompt\n"
        "  malmm search 'a goal' --archive archive --video 'match-*.mp4' -k 3 --rerank\n"
        "  malmm search 'a car' --archive archive --where \"camera = 'north' and recorded >= '2026-01-01'\"\n"
        "  malmm search --image still.png --archive archive\n"
        "  malmm search --like talk.mp4@12:30 --archive archive\n"
        "  malmm search 'a dog' --not 'on grass' --archive archive\n"
        "  malmm search 'at night' --image car.png --like talk.mp4@12:30 --archive archive\n"
        "  malmm search 'a goal' --archive 'archives/*'             # several as one\n\n"
        "exit codes: 0 also when nothing is found, 1 the archive cannot be searched, 2 wrong usage,\n"
        f"{SEVERAL_CODE}",
    )
    parser.add_argument("text", nargs="?", metavar="TEXT", help="what to look for")
    parser.add_argument("--image", metavar="FILE", help="look for what a picture shows; TEXT may say more")
    parser.add_argument(
        "--like",
        action="append",
        default=[],
        metavar="VIDEO@TIME",
        help="look for more like a moment: seconds, or H:MM:SS, of a video; TEXT may say more; may be repeated",
    )
    parser.add_argument(
        "--not",
        action="append",
        default=[],
        dest="without",
        metavar="TEXT",
        help="what should not be there, such as 'on grass'; may be repeated",
    )
    add_archives(parser)
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
    parser.add_argument(
        "--by", choices=("moment", "video"), default="moment", help="what to count and group by (%(default)s)"
    )
    parser.add_argument(
        "--facets",
        action="store_true",
        help="also count what was found by video, day, label and metadata, with the filter of each",
    )
    parser.add_argument("--explain", action="store_true", help="say what each signal gave to each moment")
    parser.add_argument("--exact", action="store_true", help="pass the approximate index by")
    add_models(parser)
    parser.add_argument("--open", action="store_true", help="open the best moment in mpv or VLC")
    parser.add_argument(
        "--page", metavar="URL", help="the address of `malmm serve`: link each moment to its page there"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object; at the prompt one a line")


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
    add_where(parser)


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
    from malmm.pipeline.archive.joined import open_archives
    from malmm.pipeline.archive.video_selection import one_video
    from malmm.pipeline.searching.searcher import Like

    if arguments.page is not None and not arguments.page.startswith(("http://", "https://")):
        raise ConfigError(
            f"--page {arguments.page!r}: give the address that `malmm serve` prints, http://..."
        )
    archive = open_archives(arguments.archive)
    likes = []
    for example in arguments.like:
        name, separator, time = example.rpartition("@")
        if not separator:
            raise ConfigError(f"--like {example!r}: write VIDEO@TIME, such as talk.mp4@12:30")
        likes.append(Like(one_video(archive.videos(), name)["video_id"], seconds_of("--like", time)))
    finder = Finder(archive, arguments)
    tell_left_out(finder.archive)
    if arguments.text is None and arguments.image is None and not likes:
        return _converse(finder, as_json=arguments.json)
    finder.find(arguments.text, likes)
    if arguments.json:
        print(json.dumps(finder.to_dict(), indent=2))
        if hint := finder.hint():
            print(printable(hint), file=sys.stderr)
    else:
        print(finder.shown())
    if arguments.open:
        finder.open(1)
    return code_over(finder.archive, 0)


class Finder:
    """Searches an archive with the options of a command line, and holds what was found last."""

    def __init__(self, archive: ArchiveReader, arguments: argparse.Namespace) -> None:
        from malmm.pipeline.searching.searcher import Searcher

        if arguments.by == "video" and arguments.rerank:
            raise ConfigError("--rerank orders moments: leave it out with --by video")
        # Before anything is searched in vain.
        self._player = player() if arguments.open else None
        self._arguments = arguments
        self._searcher = Searcher(archive, model=arguments.model, retrieval_model=arguments.retrieval_model)
        self.archive = self._searcher.archive
        self._videos = chosen_videos(self.archive, arguments)
        self._found: list[Found] = []
        self._groups: list[FoundVideo] = []
        self._facets: list[Facet] | None = None
        self._playing: list[subprocess.Popen[bytes]] = []
        self._begins: dict[str, float] = {}

    def find(self, text: str | None, likes: Sequence[Like] = ()) -> None:
        """Search for a text, for the picture of the options, for moments, or for several of these together."""
        from malmm.pipeline.searching.facets import facets_of
        from malmm.pipeline.searching.groups import grouped_by_video
        from malmm.pipeline.searching.query import SearchQuery

        image = self._arguments.image
        query = SearchQuery(
            text=text,
            image=None if image is None else Path(image),
            examples=tuple(likes),
            without=tuple(self._arguments.without),
            k=self._arguments.k,
            video_ids=None if self._videos is None else tuple(self._videos),
            signals=tuple(part.strip() for part in self._arguments.signals.split(",")),
            rerank=self._arguments.rerank,
            exact=self._arguments.exact,
            where=self._arguments.where,
        )
        explained = self._arguments.explain
        if self._arguments.by == "video":
            self._groups = grouped_by_video(self._searcher, query, explained=explained)
            self._found = [found for group in self._groups for found in group.moments]
        else:
            self._found = self._searcher.find(query, thumbnails=False, explained=explained)
        self._facets = (
            facets_of(self.archive, self._searcher.ranked(query)) if self._arguments.facets else None
        )
        if self._arguments.page or self._arguments.open:
            self._look_up_begins()

    def shown(self) -> str:
        """The moments for people."""
        if not self._found:
            hint = self.hint()
            return "Nothing found." if hint is None else f"Nothing found: {printable(hint)}"
        shown = lines(self._found, self._links(), with_archives=is_several(self.archive))
        for group in reversed(self._groups):
            # Moments are numbered through, so that `:open 5` means one.
            first = self._found.index(group.moments[0])
            at = next(place for place, line in enumerate(shown) if line.startswith(f"{first + 1:3d}. "))
            shown.insert(at, f"{printable(group.uri)} ({group.found} moments)")
        return "\n".join([*shown, *facet_lines(self._facets or ())])

    def to_dict(self) -> dict[str, Any]:
        """The moments for JSON."""
        moments = [each.to_dict() for each in self._found]
        for moment, link in zip(moments, self._links() or [], strict=False):
            moment["link"] = link
        found: dict[str, Any] = content_over(self.archive) | {"moments": moments}
        if self._arguments.by == "video":
            found["videos"] = [
                {"video_id": each.video_id, "uri": each.uri, "found": each.found} for each in self._groups
            ]
        if self._facets is not None:
            found["facets"] = [facet.to_dict() for facet in self._facets]
        return found

    def hint(self) -> str | None:
        """What to run if nothing was found because the archive is empty."""
        from malmm.pipeline.archive.empty_hint import empty_hint

        return None if self._found else empty_hint(self.archive)

    def open(self, number: int) -> None:
        """Open the moment of this number, from 1, in a player. Raises ConfigError where that cannot be."""
        if not self._found and number == 1:
            return
        if not 1 <= number <= len(self._found):
            raise ConfigError(f"there is no moment {number}: {len(self._found)} were found")
        self._player = self._player or player()
        self._look_up_begins()
        moment = self._found[number - 1]
        at_s = moment.start_s - self._begins.get(moment.video_id, 0.0)
        self._playing.append(open_in(self._player, moment.uri, at_s))

    def _look_up_begins(self) -> None:
        rows = self.archive.video_rows({each.video_id for each in self._found}).to_pylist()
        self._begins = {row["video_id"]: row["start_s"] for row in rows}

    def _links(self) -> list[str] | None:
        """The page of each moment's video, at the moment."""
        if self._arguments.page is None:
            return None
        page = self._arguments.page.rstrip("/")
        named = is_several(self.archive)
        links = []
        for each in self._found:
            at_s = max(0.0, each.start_s - self._begins.get(each.video_id, 0.0))
            whose = f"&{urlencode({'archive': each.archive})}" if named and each.archive else ""
            links.append(f"{page}/#/video/{each.video_id}?t={at_s:.2f}{whose}")
        return links


def _converse(finder: Finder, *, as_json: bool) -> int:
    """Answer queries until there are no more; a query that fails is one sentence, and the next is asked for."""
    asked = False
    if sys.stdin.isatty() and not as_json:
        print("Type what to look for. `:open 2` opens the second moment in a player; Ctrl-D ends.")
    try:
        for line in lines_of("" if as_json else "search> "):
            asked = True
            try:
                if line.startswith(":open"):
                    finder.open(_number_of(line))
                    continue
                finder.find(line)
            except MalmmError as error:
                print(f"error: {printable(str(error))}", file=sys.stderr, flush=True)
                continue
            print(json.dumps({"query": line} | finder.to_dict()) if as_json else finder.shown(), flush=True)
    except KeyboardInterrupt:
        print()
    if not asked and not sys.stdin.isatty():
        raise ConfigError("no query: give what to look for, or lines of it on standard input")
    return 0


def _number_of(line: str) -> int:
    number = line.removeprefix(":open").strip() or "1"
    if not number.isdecimal():
        raise ConfigError(f"{line!r}: write `:open` and the number of a moment")
    return int(number)


def chosen_videos(archive: ArchiveReader, arguments: argparse.Namespace) -> list[str] | None:
    """Ids of the videos that the filters leave; None without filters."""
    from malmm.pipeline.archive.video_selection import parse_time, select_videos

    if not (arguments.video or arguments.since or arguments.until):
        return None
    since = parse_time("--since", arguments.since) if arguments.since else None
    until = parse_time("--until", arguments.until) if arguments.until else None
    return select_videos(archive, arguments.video, since=since, until=until)["video_id"].to_pylist()


def lines(found: list[Found], links: list[str] | None = None, *, with_archives: bool = False) -> list[str]:
    """Moments for people, best first, each with its link; ``with_archives`` says which archive each is from."""
    shown = []
    for number, each in enumerate(found, 1):
        parts = [f"{' + '.join(each.signals)}"]
        if with_archives and each.archive:
            parts.insert(0, printable(each.archive))
        if each.similarity is not None:
            parts.append(f"similarity {each.similarity:.2f}")
        if each.matched is not None:
            parts.append(f"match {each.matched:.0%}")
        shown.append(
            f"{number:3d}. {span(each.start_s, each.end_s, each.spans)}  {printable(each.uri)}  ({', '.join(parts)})"
        )
        said = each.text or each.caption
        if said:
            shown.append(f"     {shortened(said, 100)}")
        if each.explanation is not None:
            shown.append(f"     {each.explanation}")
        if links is not None:
            shown.append(f"     {links[number - 1]}")
    return shown


def facet_lines(facets: Sequence[Facet]) -> list[str]:
    """Facets for people: each value with its count and the filter that leaves it."""
    shown = []
    for facet in facets:
        shown += ["", f"{printable(facet.name)}:"]
        shown += [
            f"{value.count:6d}  {printable(value.value)}   --where {shlex.quote(printable(value.where))}"
            for value in facet.values
        ]
        if facet.others:
            shown.append(f"{facet.others:6d}  others")
    return shown
