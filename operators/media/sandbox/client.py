"""Probing and decoding in a process apart, which may crash or hang without taking its caller along.

Native decoders meet files that nobody tested. A process apart costs one start and a copy of the pictures; what it
saves is the worker, with all that is queued behind it. The process lives on from one call to the next; after a crash
the same file is tried once more, alone in a new one, so that what kills its process is known for certain.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np

from malmm.operators.media.probe import VideoInfo
from malmm.operators.media.span import DecodedSpan
from malmm.pipeline.schema.errors import ConfigError, MediaError

__all__ = ["DECODE_LIMIT_S", "PROBE_LIMIT_S", "decode_span_apart", "probe_apart", "scene_changes_apart"]

DECODE_LIMIT_S = 600.0
"""How long a segment may take unless told otherwise."""
PROBE_LIMIT_S = 120.0

_ATTEMPTS = 2
_LENGTH = struct.Struct(">Q")
_CHILD = "from malmm.operators.media.sandbox.worker import serve; serve()"


def probe_apart(uri: str, *, limit_s: float = PROBE_LIMIT_S) -> VideoInfo:
    """See ``malmm.operators.media.probe.probe``. Also raises MediaError of kind ``crashed``, ``timed_out`` or
    ``too_large``."""
    answer, _ = _ask(uri, {"what": "probe", "uri": uri}, limit_s)
    return VideoInfo(**answer["info"])


def scene_changes_apart(uri: str, *, limit_s: float = DECODE_LIMIT_S) -> list[float]:
    """See ``malmm.operators.media.scenes.scene_changes``. Also raises MediaError of kind ``crashed``, ``timed_out`` or
    ``too_large``."""
    answer, _ = _ask(uri, {"what": "scenes", "uri": uri}, limit_s)
    return list(answer["changes_s"])


def decode_span_apart(
    uri: str,
    start_s: float,
    end_s: float,
    fps: float,
    image_size: int,
    *,
    decoder: str = "av",
    threads: int = 1,
    is_last: bool = False,
    keyframes: bool = False,
    limit_s: float = DECODE_LIMIT_S,
) -> DecodedSpan:
    """See ``malmm.operators.media.reader.decode_span``. Also raises MediaError of kind ``crashed``, ``timed_out`` or
    ``too_large``."""
    request = {
        "what": "decode",
        "uri": uri,
        "start_s": start_s,
        "end_s": end_s,
        "fps": fps,
        "image_size": image_size,
        "decoder": decoder,
        "threads": threads,
        "is_last": is_last,
        "keyframes": keyframes,
    }
    answer, data = _ask(uri, request, limit_s)
    frames = np.frombuffer(data, np.uint8).reshape(answer["shape"])
    times_s = np.array(answer["timestamps_s"], dtype=np.float64)
    return DecodedSpan(frames, times_s, answer["problem"], answer["end_s"])


class _Died(Exception):  # noqa: N818 - not an error yet
    """The process ended before it answered."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class _TimedOut(Exception):  # noqa: N818 - not an error yet
    """The process did not answer in time."""


class _Child:
    """A process that answers one request after the other."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("a process with pipes has pipes")
        self._to, self._from = stdin, stdout
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._from, selectors.EVENT_READ)

    def ask(self, request: dict[str, Any], limit_s: float) -> tuple[dict[str, Any], bytearray]:
        """Its answer. Raises _Died or _TimedOut, after which the process is gone."""
        deadline = time.monotonic() + limit_s
        try:
            text = json.dumps(request | {"limit_s": limit_s}).encode()
            self._to.write(_LENGTH.pack(len(text)) + text)
            self._to.flush()
            (length,) = _LENGTH.unpack(self._receive(_LENGTH.size, deadline))
            answer = json.loads(self._receive(length, deadline))
            return answer, self._receive(answer.get("bytes", 0), deadline)
        except (BrokenPipeError, EOFError) as error:
            raise _Died(self.end()) from error
        except TimeoutError as error:
            self.end()
            raise _TimedOut from error

    def end(self) -> str:
        """Make an end of it; how it ended."""
        if self._alive():
            self._process.kill()
        code = self._process.wait()
        self._ready.close()
        self._from.close()
        with contextlib.suppress(BrokenPipeError):
            self._to.close()
        if code < 0:
            return f"signal {signal.Signals(-code).name}"
        return f"exit code {code}"

    def _alive(self) -> bool:
        # After end of file on its pipe it is on its way out, and its own cause of death is the one to tell.
        try:
            self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return True
        return False

    def _receive(self, count: int, deadline: float) -> bytearray:
        data = bytearray(count)
        view, have = memoryview(data), 0
        while have < count:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not self._ready.select(left_s):
                raise TimeoutError
            got = os.readv(self._from.fileno(), [view[have:]])
            if not got:
                raise EOFError
            have += got
        return data


class _Holder:
    """This process's child, made when it is first needed."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._child: _Child | None = None

    def ask(
        self, request: dict[str, Any], limit_s: float, *, fresh: bool
    ) -> tuple[dict[str, Any], bytearray]:
        with self.lock:
            if fresh:
                self._end()
            child = self._child or _Child()
            self._child = None
            answer = child.ask(request, limit_s)
            self._child = child
            return answer

    def end(self) -> None:
        with self.lock:
            self._end()

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


_HOLDER = _Holder()
atexit.register(_HOLDER.end)


def _ask(uri: str, request: dict[str, Any], limit_s: float) -> tuple[dict[str, Any], bytearray]:
    how = ""
    for attempt in range(_ATTEMPTS):
        try:
            answer, data = _HOLDER.ask(request, limit_s, fresh=attempt > 0)
        except _Died as died:
            how = died.how
            continue
        except _TimedOut as error:
            raise MediaError(
                f"{uri}: reading it was given up after {limit_s:g} s; convert it, or allow more with --decode-limit-s",
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


def _error(told: dict[str, Any]) -> Exception:
    if told["type"] == "MediaError":
        return MediaError(told["message"], uri=told["uri"], kind=told["kind"])
    if told["type"] == "ConfigError":
        return ConfigError(told["message"])
    return RuntimeError(f"{told['type']}: {told['message']}")
