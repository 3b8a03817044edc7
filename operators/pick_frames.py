"""Pick: clips of videos to the frames that a data set asks for. One row in, one row out. Runs on CPUs.

A clip's source is a video file, or a folder of the frames that the authors' script extracts (``frame000001.jpg`` on).
Both have 10 frames a second, numbered from 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image, UnidentifiedImageError

from malmm.operators.media.sandbox.client import DECODE_LIMIT_S, Sandbox, process_sandbox
from malmm.operators.media.span import SpanRequest
from malmm.pipeline.schema.errors import MediaError
from malmm.pipeline.schema.records import Segment
from malmm.pipeline.schema.rows import PICKED, carried, rows_table, with_arrays

__all__ = ["length_of", "pick_frames"]

_RATE = 10
# Their script extracts pictures of this height.
_AUTHORS_HEIGHT = 256
# Headers and extractors round: a video may end so many frames before its annotation says.
_SLACK = 10


def pick_frames(
    clips: pa.Table,
    *,
    image_size: int,
    limit_s: float = DECODE_LIMIT_S,
    sandbox: Sandbox | None = None,
    as_authors: bool = False,
) -> Iterator[pa.Table]:
    """``ASKED`` to ``PICKED``. Yields a table for each clip, so that only one clip's frames are in memory.

    A video that cannot be read, or ends more than a second before its annotation says, is a failure of its clip.
    With ``as_authors`` pictures are scaled as MA-LMM's authors scale them.
    """
    sandbox = sandbox or process_sandbox()
    for index, row in enumerate(carried(clips)):
        if row.segment is None or row.failure is not None:
            yield rows_table([row.columns()], PICKED)
            continue
        cells, count = clips["cells"][index].as_py(), clips["count"][index].as_py()
        try:
            length, start_s, end_s = length_of(row.segment.uri, sandbox)
            chosen = cells or _spread(row.segment, count, length)
            if Path(row.segment.uri).is_dir():
                frames, times_s = _read_folder(row.segment.uri, chosen, length, image_size, as_authors)
            else:
                frames, times_s = _decode(
                    sandbox, row.segment.uri, chosen, length, image_size, start_s, limit_s, as_authors
                )
        except MediaError as error:
            yield rows_table([row.failed("pick", error.kind, str(error)).columns()], PICKED)
            continue
        except RuntimeError as error:
            yield rows_table([row.failed("pick", "unexpected", str(error)).columns()], PICKED)
            continue
        columns = row.columns() | {
            "timestamps_s": times_s,
            "end_s": min(end_s, row.segment.end_s),
            "prompts": clips["prompts"][index].as_py(),
            "choices": clips["choices"][index].as_py(),
        }
        yield rows_table([with_arrays(columns, frames=frames)], PICKED)


def length_of(uri: str, sandbox: Sandbox) -> tuple[int, float, float]:
    """The number of frames, at 10 a second, of a video or folder, where its clock begins, and its length in seconds.

    Raises MediaError if it cannot be read.
    """
    if Path(uri).is_dir():
        length = _frames_in(uri)
        return length, 0.0, length / _RATE
    info = sandbox.probe(uri)
    return math.ceil(info.duration_s * _RATE), info.start_s, info.duration_s


def _spread(clip: Segment, count: int, length: int) -> list[int]:
    """At most ``count`` frames of the clip's span, spread evenly."""
    first = round(clip.start_s * _RATE)
    last = length - 1 if math.isinf(clip.end_s) else min(length - 1, round(clip.end_s * _RATE) - 1)
    if first > last:
        _refuse_short(clip.uri, first, length)
        first = last = max(0, length - 1)
    return np.rint(np.linspace(first, last, min(count, last - first + 1))).astype(int).tolist()


def _refuse_short(uri: str, last: int, length: int) -> None:
    """Raise MediaError if a frame of this number lies well behind the end of a video of ``length`` frames."""
    if last >= length + _SLACK:
        raise MediaError(
            f"{uri} is shorter than its annotation says: it has {length / _RATE:.1f} s, and "
            f"{(last + 1) / _RATE:.1f} s are asked for; fetch it again or leave it out",
            uri=uri,
            kind="too_short",
        )


def _decode(
    sandbox: Sandbox,
    uri: str,
    chosen: list[int],
    length: int,
    image_size: int,
    start_s: float,
    limit_s: float,
    as_authors: bool,
) -> tuple[np.ndarray, list[float]]:
    """Frames of a video file and their times from its first frame on."""
    _refuse_short(uri, chosen[-1], length)
    first, distinct = chosen[0], sorted(set(chosen))
    begin = Fraction(repr(start_s))
    span = sandbox.decode(
        SpanRequest(
            uri,
            float(begin + Fraction(first, _RATE)),
            float(begin + Fraction(distinct[-1] + 1, _RATE)),
            float(_RATE),
            _AUTHORS_HEIGHT if as_authors else image_size,
            cells=tuple(cell - first for cell in distinct),
            squash=not as_authors,
        ),
        limit_s=limit_s,
    )
    if len(span.frames) < len(distinct):
        raise MediaError(
            f"{uri}: {len(span.frames)} of {len(distinct)} frames can be decoded ({span.problem}): fetch it again or "
            "leave it out",
            uri=uri,
            kind="decode_error",
        )
    frames = span.frames
    if as_authors:
        frames = np.stack([_as_the_authors(picture, image_size) for picture in frames])
    return frames[np.searchsorted(distinct, chosen)], [cell / _RATE for cell in chosen]


def _frames_in(folder: str) -> int:
    count = sum(1 for path in Path(folder).glob("frame*.jpg"))
    if not count:
        raise MediaError(
            f"{folder} has no frame000001.jpg: extract its frames again", uri=folder, kind="no_frames"
        )
    return count


def _read_folder(
    folder: str, chosen: list[int], length: int, image_size: int, as_authors: bool
) -> tuple[np.ndarray, list[float]]:
    """Frames of a folder; a frame behind its last one is the last one."""
    _refuse_short(folder, chosen[-1], length)
    pictures: dict[int, np.ndarray] = {}
    for cell in sorted({min(cell, length - 1) for cell in chosen}):
        path = Path(folder) / f"frame{cell + 1:06d}.jpg"
        try:
            with Image.open(path) as picture:
                whole = picture.convert("RGB")
                pictures[cell] = (
                    _as_the_authors(np.asarray(whole), image_size)
                    if as_authors
                    else np.asarray(whole.resize((image_size, image_size), Image.Resampling.BICUBIC))
                )
        except FileNotFoundError as error:
            raise MediaError(
                f"{folder} lacks {path.name} of {length} frames: extract its frames again",
                uri=folder,
                kind="missing",
            ) from error
        except (OSError, UnidentifiedImageError) as error:
            raise MediaError(f"{path} is not a picture: {error}", uri=folder, kind="decode_error") from error
    frames = np.stack([pictures[min(cell, length - 1)] for cell in chosen])
    return frames, [cell / _RATE for cell in chosen]


def _as_the_authors(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture [H, W, 3] as uint8 [size, size, 3].

    MA-LMM's authors scale without antialiasing, cut off fractions, and let what overshoots black or white wrap around.
    Source: boheumd/MA-LMM, ``lavis/processors/blip_processors.py``, ``Blip2VideoEvalProcessor``.
    """
    # torch takes seconds to load, which only their data sets need.
    import torch
    from torch.nn.functional import interpolate

    whole_1CHW = torch.tensor(picture).permute(2, 0, 1)[None].to(torch.float32)
    scaled_1CSS = interpolate(whole_1CHW, size=(size, size), mode="bicubic", align_corners=False)
    return scaled_1CSS[0].to(torch.uint8).permute(1, 2, 0).numpy()
