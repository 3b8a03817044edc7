"""The sandbox's child process: reads requests on standard input, probes or decodes, answers on standard output.

A message is the length of a JSON object (eight bytes, big-endian) and the object. An answer with ``bytes`` is followed
by that many bytes, the pictures.
"""

from __future__ import annotations

import faulthandler
import json
import os
import struct
import sys
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np

from malmm.operators.media.audio import read_sound
from malmm.operators.media.file_cache import FileCache
from malmm.operators.media.probe import probe
from malmm.operators.media.reader import decode_span
from malmm.operators.media.scenes import scene_changes
from malmm.operators.media.span import SpanRequest
from malmm.operators.media.subtitle_files import read_subtitles
from malmm.operators.media.subtitle_tracks import read_tracks
from malmm.pipeline.schema.errors import MalmmError

__all__ = ["serve"]

MEMORY_BYTES = 4 << 30
"""Memory limit of a decoder, without the pictures that it returns."""

_LENGTH = struct.Struct(">Q")
# The caller ends a hanging child first; this is for the case that the caller is gone.
_GRACE_S = 10.0


def serve() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    cache = FileCache()
    # Output of libraries must not mix with the answers.
    os.dup2(2, 1)
    while len(head := sys.stdin.buffer.read(_LENGTH.size)) == _LENGTH.size:
        request = json.loads(sys.stdin.buffer.read(_LENGTH.unpack(head)[0]))
        # A watchdog thread in C: it ends the process even if a decoder hangs and holds the GIL.
        faulthandler.dump_traceback_later(request["limit_s"] + _GRACE_S, exit=True)
        _answer(request, answers, cache)
        faulthandler.cancel_dump_traceback_later()


def _answer(request: dict[str, Any], answers: BinaryIO, cache: FileCache) -> None:
    data: Any = b""
    try:
        answer, data = _WORK[request["what"]](request, cache)
    except MemoryError:
        message = (
            f"{request['uri']} needs more than {MEMORY_BYTES >> 30} GiB of memory to be decoded: "
            "convert it to a smaller size, or leave it out"
        )
        error = {"type": "MediaError", "kind": "too_large", "uri": request["uri"], "message": message}
        answer = {"error": error}
    except MalmmError as error:
        answer = {"error": {"type": type(error).__name__, **vars(error)}}
    except Exception as error:  # noqa: BLE001 - any exception is sent to the caller
        answer = {"error": {"type": type(error).__name__, "message": " ".join(str(error).split())[:500]}}
    text = json.dumps(answer).encode()
    answers.write(_LENGTH.pack(len(text)) + text)
    answers.write(data)
    answers.flush()


def _probe(request: dict[str, Any], cache: FileCache) -> tuple[dict[str, Any], Any]:
    _limit_memory(0)
    return {"info": asdict(probe(request["uri"], cache))}, b""


def _scenes(request: dict[str, Any], cache: FileCache) -> tuple[dict[str, Any], Any]:
    _limit_memory(0)
    return {"changes_s": scene_changes(request["uri"], cache)}, b""


def _decode(request: dict[str, Any], cache: FileCache) -> tuple[dict[str, Any], Any]:
    wanted = SpanRequest(**request["span"])
    count = (wanted.end_s - wanted.start_s) * wanted.fps + 2 if wanted.cells is None else len(wanted.cells)
    # In proportion, pictures may be four times as wide as high.
    pictures = int(count * wanted.image_size**2 * 3) * (1 if wanted.squash else 4)
    _limit_memory(pictures)
    span = decode_span(wanted, cache)
    answer = {
        "shape": list(span.frames.shape),
        "timestamps_s": span.timestamps_s.tolist(),
        "problem": span.problem,
        "end_s": span.end_s,
        "bytes": span.frames.nbytes,
    }
    return answer, np.ascontiguousarray(span.frames).data


def _subtitles(request: dict[str, Any], cache: FileCache) -> tuple[dict[str, Any], Any]:
    _limit_memory(0)
    return asdict(read_subtitles(request["uri"], request["encoding"], request["length_s"])), b""


def _tracks(request: dict[str, Any], cache: FileCache) -> tuple[dict[str, Any], Any]:
    _limit_memory(0)
    return {"tracks": [asdict(track) for track in read_tracks(request["uri"], cache)]}, b""


def _sound(request: dict[str, Any], cache: FileCache) -> tuple[dict[str, Any], Any]:
    _limit_memory(0)
    sound = read_sound(request["uri"], request["start_s"], request["end_s"], cache)
    return {"problem": sound.problem, "bytes": sound.samples.nbytes}, sound.samples.data


_WORK = {
    "probe": _probe,
    "scenes": _scenes,
    "decode": _decode,
    "subtitles": _subtitles,
    "tracks": _tracks,
    "sound": _sound,
}


def _limit_memory(beside: int) -> None:
    """Make allocations beyond the limit fail, so that one file fails instead of the OOM killer ending the process."""
    try:
        import resource
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = MEMORY_BYTES + beside
    resource.setrlimit(
        resource.RLIMIT_DATA, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most)
    )
