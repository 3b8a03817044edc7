"""Requests that nobody would send, to the page's media address: never an error of ours, never a byte of another place.

    python tests/fuzz/http_ranges.py --seconds 60 --seed 1

Whatever is asked, the status is one that the standard has for it, and each body is the slice of the file that its
Content-Range claims. A case that breaks the rule is printed as it was sent.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.range_requests import MODIFIED, ROWS, filled, spans_sent

from malmm.pipeline.web.media import media_response, open_source
from malmm.pipeline.web.media_roots import MediaRoots

__all__ = ["fuzz"]

SIZES = (0, 1, 100, 300_000)
STATUSES = {200, 206, 304, 412, 416}
NAMES = (
    "Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since",
)  # fmt: skip
PIECES = (
    "bytes", "=", "-", ",", " ", "\t", "0", "1", "9", "99", "100", "9" * 25, "299999", '"', "W/", "*", "{tag}",
    "{modified}", "{before}", "{after}", "bytes=0-", "-5", ";", "\x80", "\xff", "+", ".", "e3", "GMT",
)  # fmt: skip


def headers_of(rng: random.Random, tag: str) -> list[tuple[str, str]]:
    """Lines of headers made of rows of the table, of rows with a piece changed, and of pieces alone."""
    lines = [line for row in rng.sample(ROWS, rng.randint(1, 3)) for line in filled(row, tag)]
    for name in rng.sample(NAMES, rng.randint(0, 2)):
        at = next((number for number, line in enumerate(lines) if line[0] == name), None)
        value = "" if at is None else lines.pop(at)[1]
        place = rng.randint(0, len(value))
        pieces = "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 8)))
        for part in ("tag", "modified", "before", "after"):
            known = tag if part == "tag" else dict(filled(_DATED[part], tag))["If-Range"]
            pieces = pieces.replace(f"{{{part}}}", known)
        lines.append((name, value[:place] + pieces + value[place + rng.randint(0, 3) :]))
    # A client's library refuses what begins or ends with white space.
    return [(name, value.strip()) for name, value in lines]


_DATED = {
    part: next(row for row in ROWS if row.headers.get("If-Range") == f"{{{part}}}")
    for part in ("modified", "before", "after")
}


def fuzz(seed: int, *, seconds: float | None = None, cases: int | None = None) -> int:
    """Send requests until the time is over or so many are sent. Returns how many; raises AssertionError."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{size}.mp4" for size in SIZES]
        contents = [rng.randbytes(size) for size in SIZES]
        for path, content in zip(files, contents, strict=True):
            path.write_bytes(content)
            os.utime(path, (MODIFIED.timestamp(), MODIFIED.timestamp()))
        roots = MediaRoots([folder])

        def get(request: Request) -> Response:
            source = open_source(str(files[int(request.path_params["place"])]), roots)
            return media_response(source, method=request.method, headers=request.headers)

        app = Starlette(routes=[Route("/{place}", get, methods=["GET", "HEAD"])])
        began = time.monotonic()
        with TestClient(app, raise_server_exceptions=False) as client:
            tags = [client.head(f"/{place}").headers["etag"] for place in range(len(files))]
            for number in itertools.count():
                over = seconds is not None and time.monotonic() - began >= seconds
                if over or number == cases:
                    return number
                place = rng.randrange(len(files))
                method = rng.choice(("GET", "GET", "GET", "HEAD"))
                headers = headers_of(rng, tags[place])
                sent = [(name.encode(), value.encode("latin-1")) for name, value in headers]
                answer = client.request(method, f"/{place}", headers=sent)
                said = f"seed {seed}, case {number}: {method} {len(contents[place])} bytes {headers}"
                _check(
                    answer.status_code, dict(answer.headers), answer.content, method, contents[place], said
                )
    raise AssertionError("without an end")


def _check(status: int, headers: dict[str, str], body: bytes, method: str, content: bytes, said: str) -> None:
    assert status in STATUSES, f"{said}: {status}"
    assert not body or (method == "GET" and status in (200, 206)), said
    try:
        spans = spans_sent(status, headers, body, content)
    except (AssertionError, KeyError, ValueError) as error:
        raise AssertionError(f"{said}: {status}, {headers}, {error!r}") from error
    assert method == "HEAD" or status != 206 or spans, said
    assert method == "HEAD" or status != 200 or len(body) == len(content), said


def main() -> None:
    """Fuzz for as long as asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{fuzz(options.seed, seconds=options.seconds)} requests, all answered by the rule")


if __name__ == "__main__":
    main()
