"""A fuzz target for the listing of sources: trees with odd names on disk, over HTTP and in a backend that fails.

    python tests/fuzz/listing.py [--seconds 60] [--seed 1]

In every round a tree is made and sources are named, sensible and senseless ones. The rule: listing never raises; every
source gives files or a failure; no file comes twice; a video that is missing has a failure for it, its folder or one
above; and without faults there is none missing. The first breach ends the run with its seed and exit status 1.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

import fsspec
from fsspec.implementations.memory import MemoryFileSystem
from support.http_server import Reply, WebServer, serving

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources import backends
from malmm.pipeline.sources.backends import Patience
from malmm.pipeline.sources.listing import VIDEO_EXTENSIONS, SourceFile, is_gone, list_sources

__all__ = ["BreachError", "once", "run"]

NAMES = (
    "a", "B", "é", "映画", "a b", "x [1]", "100%", "a%20b", "q?x=1", "h#t", "it's", 'say "x"', "<i>", "a&amp;b", "~",
    "-", "..a", "a..", "*", "**", "[!a]", "{a,b}", "a:b", "a::b", "s3", "\\", "$HOME", "x" * 80, "two\nlines", " ",
)  # fmt: skip
OTHERS = (".txt", ".mp4.part", "", ".MP4x", ".json")
JUNK = (
    "", " ", "~nobody/x", "\0", "\udcff.mp4", "[", "nowhere/*", "nowhere/**", "file:///%", "file://x", "/none/../none",
    "file:///%00.mp4", "http://", "http:///", "http://[", "http://[::1", "http://\0", "http://h:99999/", "faulty://",
    "faulty://*", "nosuch://x", "nosuch://*", "s3://", "s3:///", "://", "a://b://c", "zip://*::file:///nowhere.zip", "memory://",
    "none.csv", "http://127.0.0.1:9/x.csv", "data:,x", "data:///x", "x" * 5000, "/" + "y/" * 3000, "simplecache::memory://x",
    "local://x",
)  # fmt: skip
STATUSES = (301, 302, 400, 401, 403, 404, 410, 429, 500, 503, 599)


class BreachError(AssertionError):
    """The rule was broken."""


class Faulty(MemoryFileSystem):
    """Files in memory; ``raised`` says what a call for a path raises."""

    protocol = "faulty"
    store: dict[str, Any] = {}  # noqa: RUF012 - as in the class above
    pseudo_dirs: list[str] = [""]  # noqa: RUF012
    raised: Callable[[str], Exception | None] = staticmethod(lambda path: None)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(str(path).replace("faulty://", "memory://", 1))

    def info(self, path: str, **options: Any) -> Any:
        self._fail(path)
        return super().info(path, **options)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self._fail(path)
        return super().ls(path, detail=detail, **options)

    def _fail(self, path: str) -> None:
        if (error := Faulty.raised(path)) is not None:
            raise error


@dataclass
class World:
    """A tree in one place: ``root`` as a source, and the addresses of the videos that a listing of it must give."""

    root: str
    videos: set[str]
    files: list[str]
    faults: bool = False
    extra: list[str] = field(default_factory=list)
    # Folders whose page was replaced by another whole page: nobody can tell.
    replaced: set[str] = field(default_factory=set)


def tree(chance: random.Random) -> list[str]:
    """Relative paths of files, none of which is a folder of another."""
    paths: set[str] = set()
    folders = [""]
    for _ in range(chance.randrange(1, 12)):
        folder = chance.choice(folders)
        if chance.random() < 0.4:
            name = ("." if chance.random() < 0.1 else "") + chance.choice(NAMES).replace("/", "")
            folders.append(f"{folder}{name}/")
        ending = chance.choice((*VIDEO_EXTENSIONS[:5], ".MP4", *OTHERS))
        paths.add(f"{chance.choice(folders)}{chance.choice(NAMES)}{ending}")
    return sorted(path for path in paths if not any(other.startswith(f"{path}/") for other in paths))


def is_listed(path: str) -> bool:
    """Whether a folder's listing takes a file."""
    hidden = any(part.startswith(".") for part in path.split("/"))
    return path.lower().endswith(VIDEO_EXTENSIONS) and not hidden


def on_disk(chance: random.Random, folder: Path) -> World:
    """A tree with links, loops, a pipe, and names that are not text."""
    paths = tree(chance)
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x" * chance.randrange(3))
    extra = []
    for target, name in ((".", "loop"), ("nowhere", "gone.mp4"), ("self.mp4", "self.mp4")):
        if chance.random() < 0.3:
            (folder / name).symlink_to(target)
            extra.append(str(folder / name))
    if chance.random() < 0.3:
        os.mkfifo(folder / "pipe.mp4")
    faults = bool(extra)
    if chance.random() < 0.3:
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff.mp4")).touch()
        faults = True
    videos = {str(folder / path) for path in paths if is_listed(path)}
    return World(str(folder), videos, [str(folder / path) for path in paths], faults, extra)


def over_http(chance: random.Random, web: WebServer) -> World:
    """A tree behind a server that now and then refuses, fails, redirects or lies."""
    paths = [path.replace("\n", "") for path in tree(chance) if not path.endswith(" ")]
    web.files.clear()
    web.requests.clear()
    for path in paths:
        web.put(f"/top/{path}", b"x" * chance.randrange(3), chunked=chance.random() < 0.1)
    faults = chance.random() < 0.6
    replies: dict[str, Reply | None] = {}
    replaced: set[str] = set()

    def rule(method: str, path: str, before: int) -> Reply | None:
        if path not in replies:
            replies[path] = reply = fault(chance, path) if chance.random() < 0.3 else None
            if reply is not None and reply.status == 200 and "text/html" in reply.headers.values():
                replaced.add(f"{web.address}{path}")
        return replies[path]

    web.rule = rule if faults else lambda method, path, before: None
    addresses = {path: f"{web.address}/top/{quote(path)}" for path in paths}
    return World(
        f"{web.address}/top/",
        {address for path, address in addresses.items() if is_listed(path)},
        list(addresses.values()),
        faults,
        replaced=replaced,
    )


def fault(chance: random.Random, path: str) -> Reply:
    """Something else than the file or page at a path."""
    status = chance.choice(STATUSES)
    pages = (b"", b"<a href=", b"<a href='../../'><a href='//'>", os.urandom(50), b"<a href='a.mp4'>" * 3)
    return chance.choice(
        (
            Reply(status=status, headers={"Location": path} if status < 400 else {}),
            Reply(chance.choice(pages), headers={"Content-Type": chance.choice(("text/html", "x/y"))}),
            Reply(b"short", cut=True),
            Reply(b"", headers={"Content-Length": "-1"}),
            Reply(b"x", headers={"Content-Encoding": "gzip"}),
            Reply(status=503, headers={"Retry-After": chance.choice(("1", "x", "-1", "9" * 400))}),
        )
    )


def in_memory(chance: random.Random) -> World:
    """A tree in a backend some of whose calls raise anything."""
    paths = [path for path in tree(chance) if "::" not in path]
    Faulty.store.clear()
    Faulty.pseudo_dirs[:] = [""]
    Faulty.raised = staticmethod(lambda path: None)
    files = Faulty()
    for path in paths:
        files.pipe(f"/top/{path}", b"x")
    faults = chance.random() < 0.6
    errors: dict[str, Exception | None] = {}

    def raised(path: str) -> Exception | None:
        if path not in errors:
            errors[path] = unseen(chance) if chance.random() < 0.3 else None
        return errors[path]

    if faults:
        Faulty.raised = staticmethod(raised)
    addresses = {path: f"faulty:///top/{path}" for path in paths}
    videos = {address for path, address in addresses.items() if is_listed(path)}
    return World("faulty://top", videos, list(addresses.values()), faults)


def unseen(chance: random.Random) -> Exception:
    """An exception of a library that nobody has seen."""
    parent = chance.choice(
        (Exception, OSError, FileNotFoundError, PermissionError, ValueError, KeyError, RuntimeError)
    )
    error = type("UnseenError", (parent,), {})(chance.choice(("", "why", "two\nlines", "\udcff")))
    if chance.random() < 0.5:
        error.status = chance.choice((*STATUSES, None, "x", -1, 10**30))
    if chance.random() < 0.3:
        error.__cause__ = unseen(chance)
    return error


def check(seed: int, world: World, chance: random.Random) -> int:
    """List the world's sources and hold them to the rule; gives how many there were."""
    sources = [world.root, *world.extra]
    sources += chance.sample(world.files, min(3, len(world.files)))
    sources += [
        f"{world.root.rstrip('/')}/{end}"
        for end in chance.sample(("*", "**", "*.mp4", "**/*.mp4", "none", "[a"), 2)
    ]
    sources += chance.sample(JUNK, 3)
    chance.shuffle(sources)
    for source in sources:
        if not listing(seed, [source]):
            raise BreachError(f"seed {seed}: {source!r} gave neither a file nor a failure")
    found = listing(seed, sources)
    given = [item.uri for item in found if isinstance(item, SourceFile)]
    if len(set(given)) != len(given):
        raise BreachError(f"seed {seed}: a file came twice: {sorted(given)}")
    alone = listing(seed, [world.root])
    errors = [item for item in alone if isinstance(item, SourceError)]
    failed = [error.uri for error in errors]
    listed = {item.uri for item in alone if isinstance(item, SourceFile)}
    # An answer that is no page is a file, even at an address that ends in a slash.
    for video in set() if world.root in listed else world.videos - listed:
        if not world.faults or not any(is_above(uri, video) for uri in (*failed, *world.replaced)):
            raise BreachError(f"seed {seed}: {video!r} was left out silently; failures: {errors}")
    for source in sources:
        is_gone(source)
    return len(sources)


def is_above(uri: str, video: str) -> bool:
    plain = unquote(video).replace("faulty:///", "faulty://"), unquote(uri).replace("faulty:///", "faulty://")
    return plain[0].startswith(plain[1].rstrip("/"))


def listing(seed: int, sources: list[str]) -> list[SourceFile | SourceError]:
    try:
        found = list(list_sources(sources))
        for item in found:
            item.uri.encode()
        return found
    except Exception as error:
        raise BreachError(f"seed {seed}: {sources!r} raised {type(error).__name__}: {error}") from error


def once(seed: int, web: WebServer) -> int:
    """One round."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        worlds = (
            lambda: on_disk(chance, Path(folder)),
            lambda: over_http(chance, web),
            lambda: in_memory(chance),
        )
        return check(seed, worlds[seed % 3](), chance)


def run(seconds: float, seed: int, rounds: int | None = None) -> tuple[int, int]:
    """Rounds from a seed on, for some time or a number of them; gives how many, and how many sources.

    Raises BreachError.
    """
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    before, ends = backends.PATIENCE, time.monotonic() + seconds
    backends.PATIENCE = Patience(attempts=2, first_pause_s=0.0, longest_pause_s=0.0)
    done = sources = 0
    try:
        with serving() as web:
            while done < rounds if rounds is not None else time.monotonic() < ends:
                sources += once(seed + done, web)
                done += 1
    finally:
        backends.PATIENCE = before
        Faulty.raised = staticmethod(lambda path: None)
    return done, sources


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")
    try:
        done, sources = run(options.seconds, options.seed)
    except BreachError as breach:
        print(breach, file=sys.stderr)
        return 1
    print(f"{done} rounds, {sources} sources, from seed {options.seed}: the rule held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
