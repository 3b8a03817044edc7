"""Sample: clips of videos to the frames and parts of pictures that a training step sees. One row in, one row out.

Runs on CPUs. Which frames and which part are in the row: a worker of a training draws them with the step's own seed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from PIL import Image

from malmm.model.training.sampling import WHOLE
from malmm.operators.media.sandbox.client import DECODE_LIMIT_S, Sandbox
from malmm.operators.pick_frames import pick_frames
from malmm.pipeline.schema.rows import ASKED, PICKED, array_at, carried, rows_table, with_arrays

__all__ = ["sample_frames"]

# A crop is cut from pictures that are larger by this, as 256 is to 224 in the authors' code.
_LARGER = 8 / 7


def sample_frames(
    clips: pa.Table, *, image_size: int, limit_s: float = DECODE_LIMIT_S, sandbox: Sandbox | None = None
) -> Iterator[pa.Table]:
    """``TO_SAMPLE`` to ``PICKED``, a table for each clip. Failures are those of ``pick_frames``."""
    for index in range(clips.num_rows):
        box = tuple(clips["box"][index].as_py())
        side = image_size if box == WHOLE else round(image_size * _LARGER)
        asked = clips.slice(index, 1).select(ASKED.names)
        for picked in pick_frames(asked, image_size=side, limit_s=limit_s, sandbox=sandbox):
            [row] = carried(picked)
            if box == WHOLE or row.failure is not None:
                yield picked
                continue
            frames = _cut(array_at(picked, "frames", 0, np.uint8), box, image_size)
            kept = {name: picked[name][0].as_py() for name in ("timestamps_s", "end_s", "prompts", "choices")}
            yield rows_table([with_arrays(row.columns() | kept, frames=frames)], PICKED)


def _cut(frames: np.ndarray, box: tuple[float, ...], size: int) -> np.ndarray:
    """The part ``box`` of frames uint8 [T, side, side, 3], scaled to ``size``."""
    side = frames.shape[1]
    left, upper, right, lower = (side * edge for edge in box)
    scaled = [
        Image.fromarray(frame).resize((size, size), Image.Resampling.BICUBIC, box=(left, upper, right, lower))
        for frame in frames
    ]
    return np.stack([np.asarray(picture) for picture in scaled])
