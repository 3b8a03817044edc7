"""Every kind of failure to read a file that is documented is one that a file, a store or a decoder produces."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast, get_args

import pytest
from support.answering import answering
from support.media import VideoSpec, cut, make_video, run_ffmpeg

from malmm.operators.media.probe import probe
from malmm.operators.media.reader import SpanRequest, decode_span
from malmm.operators.media.sandbox.client import Sandbox
from malmm.operators.pick_frames import pick_frames
from malmm.pipeline.schema.errors import MediaError, MediaKind
from malmm.pipeline.schema.records import Segment
from malmm.pipeline.schema.rows import ASKED, Carried, carried, rows_table
from malmm.pipeline.sources import backends

ROOT = Path(__file__).parents[3]
FIELD = ROOT / "tests" / "data" / "media"
WORKER = "from malmm.operators.media.sandbox import worker; "


class _Status(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def server() -> Iterator[str]:
    """A server whose every answer is the status that its address begins with."""
    served = ThreadingHTTPServer(("127.0.0.1", 0), _Status)
    with answering(served):
        yield f"http://127.0.0.1:{served.server_port}"


def missing(folder: Path) -> None:
    probe(str(folder / "none.mp4"))


def denied(folder: Path) -> None:
    with server() as address:
        probe(f"{address}/403/a.mp4")


def unreachable(folder: Path) -> None:
    with server() as address:
        probe(f"{address}/503/a.mp4")


def empty_file(folder: Path) -> None:
    (folder / "empty.mp4").touch()
    probe(str(folder / "empty.mp4"))


def not_a_video(folder: Path) -> None:
    (folder / "text.mp4").write_text("hello\n" * 100)
    probe(str(folder / "text.mp4"))


def no_video_stream(folder: Path) -> None:
    run_ffmpeg("-f", "lavfi", "-i", "sine=duration=1", folder / "sound.mp4")
    probe(str(folder / "sound.mp4"))


def no_frames(folder: Path) -> None:
    decode_span(SpanRequest(str(make_video(folder, VideoSpec(duration_s=1.0))), 5.0, 6.0, 1.0, 16))


def too_short(folder: Path) -> None:
    uri = str(make_video(folder, VideoSpec(duration_s=1.0)))
    segment = Segment("00" * 12, "00" * 12, uri, 0, 60.0, math.inf, is_last=False)
    clip = Carried(None, segment, None).columns() | {"cells": None, "count": 3, "prompts": [], "choices": []}
    [found] = pick_frames(rows_table([clip], ASKED), image_size=16)
    [row] = carried(found)
    assert row.failure is not None
    raise MediaError(row.failure.message, uri=uri, kind=cast("MediaKind", row.failure.kind))


def encrypted(folder: Path) -> None:
    probe(str(FIELD / "sample_fragmented_sgpd_v2.mp4"))


def truncated(folder: Path) -> None:
    probe(str(cut(make_video(folder, VideoSpec(duration_s=2.0)), 0.5, "cut.mp4")))


def decode_error(folder: Path) -> None:
    probe(str(FIELD / "invalid-bitstream.webm"))


def crashed(folder: Path) -> None:
    with Sandbox("import os; os.abort()") as sandbox:
        sandbox.probe(str(folder / "any.mp4"))


def timed_out(folder: Path) -> None:
    with Sandbox("import time; time.sleep(600)") as sandbox:
        sandbox.probe(str(folder / "any.mp4"), limit_s=0.5)


def too_large(folder: Path) -> None:
    path = folder / "huge.mp4"
    run_ffmpeg(
        *("-f", "lavfi", "-i", "color=size=8192x8192:rate=1", "-frames:v", "1"),
        *("-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-threads", "1", path),
    )
    with Sandbox(WORKER + "worker.MEMORY_BYTES = 150 << 20; worker.serve()") as sandbox:
        sandbox.decode(SpanRequest(str(path), 0.0, 1.0, 1.0, 16))


PRODUCED: tuple[Callable[[Path], None], ...] = (
    missing,
    denied,
    unreachable,
    empty_file,
    not_a_video,
    no_video_stream,
    no_frames,
    encrypted,
    truncated,
    decode_error,
    crashed,
    timed_out,
    too_large,
    too_short,
)


@pytest.mark.parametrize("produce", PRODUCED, ids=lambda produce: produce.__name__)
def test_each_kind_is_produced(
    produce: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "PATIENCE", backends.ONCE)
    with pytest.raises(MediaError) as caught:
        produce(tmp_path)
    assert caught.value.kind == produce.__name__
    assert caught.value.uri in str(caught.value)


def test_the_documented_kinds_are_those() -> None:
    names = {produce.__name__ for produce in PRODUCED}
    # The type checker compares these with the code.
    assert set(get_args(MediaKind)) == names
    page = (ROOT / "docs" / "decoding.md").read_text().partition("## Why a file cannot be read")[2]
    assert set(re.findall(r"^\| `(\w+)` \|", page.partition("\n## ")[0], flags=re.MULTILINE)) == names
