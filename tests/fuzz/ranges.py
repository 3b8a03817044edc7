"""A fuzz target for reading by ranges: a file behind an HTTP server that lies, stumbles and changes its mind.

    python tests/fuzz/ranges.py [--seconds 60] [--seed 1]

The rule: every byte that is read is the file's own, or the read ends with a MediaError of a kind that says so. It never
raises anything else, never gives other bytes, and an honest server gives the whole file.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from support.http_server import Reply, WebServer, serving

from malmm.operators.media import ranges
from malmm.operators.media.ranges import open_ranges
from malmm.pipeline.schema.errors import MediaError
from malmm.pipeline.sources import backends
from malmm.pipeline.sources.backends import Patience

__all__ = ["BreachError", "once", "run"]

STATUSES = (302, 400, 401, 403, 404, 410, 416, 429, 500, 503)
CLAIMS = ("", "bytes", "bytes */*", "bytes 0-1", "bytes 5-4/3", "items 0-1/2")
KINDS = frozenset({"missing", "denied", "unreachable", "not_a_video"})


class BreachError(AssertionError):
    """The rule was broken."""


def lie(chance: random.Random, honest: Reply) -> Reply:
    """Another answer than the file's. Each can be told from the right one by what HTTP says of it."""
    size = len(honest.body)
    return chance.choice(
        (
            Reply(
                status=chance.choice((302, 400, 401, 403, 404, 410, 416, 429, 500, 503)),
                headers={"Location": "/loop"},
            ),
            replace(honest, cut=True),
            replace(honest, ranges=False),
            replace(honest, ranges=False, chunked=True),
            replace(
                honest,
                claims=chance.choice(CLAIMS),
            ),
            replace(honest, claims=f"bytes 0-{size - 1}/{size}"),
            replace(honest, claims=f"bytes 0-0/{size + 1}"),
            *(
                replace(honest, body=other, headers={"ETag": f'"{tag}"'})
                for tag, other in others(honest.body).items()
            ),
            replace(honest, headers={**honest.headers, "Content-Encoding": "gzip"}),
            replace(honest, headers={**honest.headers, "Content-Length": "99999999"}, cut=True),
        )
    )


def others(body: bytes) -> dict[str, bytes]:
    """Other versions of a file, by their tags."""
    return {
        "longer": body + b"more",
        "shorter": body[: len(body) // 2],
        "same": bytes(len(body)),
        "page": b"<html>",
    }


def once(seed: int, web: WebServer) -> str:
    """One round; gives what became of it: ``read`` or the kind of failure."""
    chance = random.Random(seed)
    body = chance.randbytes(chance.choice((0, 1, 100, 5_000, 60_000)))
    honest = Reply(
        body, headers={"ETag": f'"{seed}"'}, chunked=chance.random() < 0.1, ranges=chance.random() < 0.9
    )
    address = web.put(f"/{seed}.mp4", b"")
    web.files[f"/{seed}.mp4"] = honest
    lies = chance.choice((0.0, 0.0, 0.1, 0.5))
    web.requests.clear()
    web.rule = lambda method, path, before: lie(chance, honest) if chance.random() < lies else None
    try:
        with open_ranges(address) as reader:
            # What a server says of the file when it is opened is the version that is read.
            content = {**others(body), str(seed): body}[reader.tag]
            if not lies and reader.size_bytes != len(body):
                raise BreachError(f"seed {seed}: {reader.size_bytes} bytes of {len(body)}")
            for _ in range(chance.randrange(1, 8)):
                begin, count = chance.randrange(len(content) + 10), chance.randrange(10_000)
                if chance.random() < 0.2:
                    reader.settled(chance.choice((None, len(content))))
                reader.seek(begin)
                found = reader.read(count)
                if found != content[begin : begin + count]:
                    raise BreachError(f"seed {seed}: other bytes than the file's at {begin}")
    except MediaError as error:
        if not lies or error.kind not in KINDS:
            raise BreachError(f"seed {seed}: {error.kind}: {error}") from error
        return error.kind
    except BreachError:
        raise
    except Exception as error:
        raise BreachError(f"seed {seed}: {type(error).__name__}: {error}") from error
    return "read"


def run(seconds: float, seed: int, rounds: int | None = None) -> dict[str, int]:
    """Rounds from a seed on, for some time or a number of them; gives how often each outcome came.

    Raises BreachError.
    """
    before = backends.PATIENCE, ranges.LEAST_BYTES
    backends.PATIENCE, ranges.LEAST_BYTES = Patience(attempts=3, first_pause_s=0.0, longest_pause_s=0.0), 1000
    outcomes: dict[str, int] = {}
    ends, done = time.monotonic() + seconds, 0
    try:
        with serving() as web:
            while done < rounds if rounds is not None else time.monotonic() < ends:
                outcome = once(seed + done, web)
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
                done += 1
    finally:
        backends.PATIENCE, ranges.LEAST_BYTES = before
    return outcomes


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        print(run(options.seconds, options.seed))
    except BreachError as breach:
        print(breach, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
