"""The sandbox: probe and decode in a child process that may crash or hang without harm to its caller.

Native decoders meet files that nobody tested. A separate process costs one start and a copy of the pictures, and it
saves the worker with all the work that is queued for it. The child is kept from call to call. After a crash the same
file is tried once more, in a new child, to be certain which file kills its process.

A ``Sandbox`` has an owner that closes it. Operators that run as Ray tasks cannot own one, since Ray calls functions in
worker processes that it keeps for the next task. They share ``process_sandbox()``, which lives as long as their worker
process.
"""

from __future__ import annotations

import atexit
import functools
import math
import os
import threading
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import numpy as np

from malmm.operators.media.audio import Sound
from malmm.operators.media.probe import VideoInfo
from malmm.operators.media.sandbox.child import Child, ChildDied, ChildTimedOut
from malmm.operators.media.span import DecodedSpan, SpanRequest
from malmm.operators.media.subtitle_files import Subtitles
from malmm.operators.media.subtitle_tracks import SubtitleTrack
from malmm.pipeline.schema.errors import ConfigError, MediaError
from malmm.pipeline.schema.given_texts import GivenText

__all__ = ["DECODE_LIMIT_S", "PROBE_LIMIT_S", "Sandbox", "process_sandbox"]

DECODE_LIMIT_S = 600.0
"""Default time limit for a segment."""
PROBE_LIMIT_S = 120.0

_ATTEMPTS = 2
_SERVE = "from malmm.operators.media.sandbox.worker import serve; serve()"


class Sandbox:
    """Reads video files in a child process, which starts at the first call and lives until ``close``.

    Calls from several threads take turns. Every method also raises MediaError of kind ``crashed``, ``timed_out`` or
    ``too_large``, and RuntimeError for a bug in our own code in the child.
    """

    def __init__(self, code: str = _SERVE) -> None:
        """``code`` is the Python that the child runs."""
        self._code = code
        self._lock = threading.Lock()
        self._child: Child | None = None

    @property
    def child_pid(self) -> int | None:
        """Process id of the idle child; None if there is none."""
        return None if self._child is None else self._child.pid

    def probe(self, uri: str, *, limit_s: float = PROBE_LIMIT_S) -> VideoInfo:
        """See ``malmm.operators.media.probe.probe``."""
        answer, _ = self._ask(uri, {"what": "probe", "uri": uri}, limit_s)
        return VideoInfo(**answer["info"])

    def scene_changes(self, uri: str, *, limit_s: float = DECODE_LIMIT_S) -> list[float]:
        """See ``malmm.operators.media.scenes.scene_changes``."""
        answer, _ = self._ask(uri, {"what": "scenes", "uri": uri}, limit_s)
        return list(answer["changes_s"])

    def subtitles(
        self, uri: str, encoding: str = "", length_s: float = math.inf, *, limit_s: float = PROBE_LIMIT_S
    ) -> Subtitles:
        """See ``malmm.operators.media.subtitle_files.read_subtitles``."""
        asked = {"what": "subtitles", "uri": uri, "encoding": encoding, "length_s": length_s}
        answer, _ = self._ask(uri, asked, limit_s)
        return Subtitles(_texts(answer["texts"]), tuple(answer["problems"]))

    def tracks(self, uri: str, *, limit_s: float = DECODE_LIMIT_S) -> list[SubtitleTrack]:
        """See ``malmm.operators.media.subtitle_tracks.read_tracks``."""
        answer, _ = self._ask(uri, {"what": "tracks", "uri": uri}, limit_s)
        return [
            SubtitleTrack(**track | {"texts": _texts(track["texts"]), "problems": tuple(track["problems"])})
            for track in answer["tracks"]
        ]

    def sound(self, uri: str, start_s: float, end_s: float, *, limit_s: float = DECODE_LIMIT_S) -> Sound:
        """See ``malmm.operators.media.audio.read_sound``."""
        asked = {"what": "sound", "uri": uri, "start_s": start_s, "end_s": end_s}
        answer, data = self._ask(uri, asked, limit_s)
        return Sound(np.frombuffer(data, np.float32), answer["problem"])

    def decode(self, request: SpanRequest, *, limit_s: float = DECODE_LIMIT_S) -> DecodedSpan:
        """See ``malmm.operators.media.reader.decode_span``."""
        asked = {"what": "decode", "uri": request.uri, "span": asdict(request)}
        answer, data = self._ask(request.uri, asked, limit_s)
        frames = np.frombuffer(data, np.uint8).reshape(answer["shape"])
        times_s = np.array(answer["timestamps_s"], dtype=np.float64)
        return DecodedSpan(frames, times_s, answer["problem"], answer["end_s"])

    def close(self) -> None:
        """End the child process. A later call starts another."""
        with self._lock:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None

    def _ask(self, uri: str, request: dict[str, Any], limit_s: float) -> tuple[dict[str, Any], bytearray]:
        how = ""
        for attempt in range(_ATTEMPTS):
            try:
                answer, data = self._answer(request, limit_s, fresh=attempt > 0)
            except ChildDied as died:
                how = died.how
                continue
            except ChildTimedOut as error:
                raise MediaError(
                    f"{uri}: gave up reading it after {limit_s:g} s; convert it, or allow more with "
                    "--decode-limit-s",
                    uri=uri,
                    kind="timed_out",
                ) from error
            if "error" in answer:
                raise _error(answer["error"])
            return answer, data
        raise MediaError(
            f"{uri} killed the process that read it, {_ATTEMPTS} times ({how}): convert it or leave it out",
            uri=uri,
            kind="crashed",
        )

    def _answer(
        self, request: dict[str, Any], limit_s: float, *, fresh: bool
    ) -> tuple[dict[str, Any], bytearray]:
        with self._lock:
            if fresh:
                self._end()
            child = self._child or Child(self._code)
            # A child that fails is not kept.
            self._child = None
            answer = child.ask(request, limit_s)
            self._child = child
            return answer


def process_sandbox() -> Sandbox:
    """The sandbox that this process's operators share. The first call makes it; it is closed when the process ends.

    If the process is killed, the child ends too, since its standard input ends.
    """
    return _sandbox_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _sandbox_of(pid: int) -> Sandbox:
    # By process id, so that a forked process does not talk to its parent's child.
    sandbox = Sandbox()
    atexit.register(sandbox.close)
    return sandbox


def _texts(rows: list[dict[str, Any]]) -> tuple[GivenText, ...]:
    return tuple(GivenText(**row) for row in rows)


def _error(told: dict[str, Any]) -> Exception:
    if told["type"] == "MediaError":
        return MediaError(told["message"], uri=told["uri"], kind=told["kind"])
    if told["type"] == "ConfigError":
        return ConfigError(told["message"])
    return RuntimeError(f"{told['type']}: {told['message']}")
