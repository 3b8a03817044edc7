"""Change frames: a function of a program's own between decoding and encoding. One row in, one row out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from malmm.pipeline.schema.rows import DECODED, array_at, carried, rows_table, with_arrays

__all__ = ["FramesFunction", "change_frames"]

#: Takes frames, uint8 [T, H, W, 3], read-only, and their times in seconds, float64 [T]. Returns both for the
#: frames that go on: at least one, of the same size, with rising times.
FramesFunction = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def change_frames(rows: pa.Table, *, function: FramesFunction) -> pa.Table:
    """``DECODED`` to ``DECODED``: what ``function`` makes of each segment's frames. Failures pass.

    Raises ValueError if it returns something else than ``FramesFunction`` says.
    """
    changed = []
    for index, (row, columns) in enumerate(zip(carried(rows), rows.to_pylist(), strict=True)):
        if row.failure is None:
            before = array_at(rows, "frames", index, np.uint8)
            frames, times_s = function(before, np.array(columns["timestamps_s"], np.float64))
            _check(before, frames, times_s)
            columns = with_arrays(columns | {"timestamps_s": times_s.tolist()}, frames=frames)
        changed.append(columns)
    return rows_table(changed, DECODED)


def _check(before: np.ndarray, frames: np.ndarray, times_s: np.ndarray) -> None:
    if (
        frames.dtype != np.uint8
        or frames.ndim != 4
        or frames.shape[1:] != before.shape[1:]
        or not len(frames)
    ):
        raise ValueError(
            f"frames have to be uint8 [T, {', '.join(map(str, before.shape[1:]))}] with T at least 1, not "
            f"{frames.dtype} {list(frames.shape)}"
        )
    if times_s.shape != frames.shape[:1] or not (np.diff(times_s) > 0).all():
        raise ValueError(f"{len(frames)} frames need as many rising times, not {times_s.tolist()}")
