"""The operators in a Ray Data pipeline of your own, with a stage of yours between decode and encode.

    python examples/own_stage.py video.mp4 ...

Here frames that are nearly black are dropped before they are encoded, and captions are printed. Nothing is stored: to
store, add ``write_segments`` and commit its receipts as ``malmm.pipeline.indexing.segment_commits`` does, or give
``malmm.pipeline.index`` the videos.

A row is a segment. The schemas of rows between operators are in ``malmm.pipeline.schema.rows``; a stage of yours takes
and gives Arrow tables of one of them, and lets rows pass that carry a ``failure``.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from malmm.model.memory.settings import MemorySettings
from malmm.operators.decode import DecodeSettings, decode_segments
from malmm.operators.encode import EncodeSegments
from malmm.operators.generate import GenerateTexts
from malmm.operators.plan_segments import plan_segments
from malmm.operators.probe import probe_files
from malmm.pipeline.schema.config import CAPTION
from malmm.pipeline.schema.rows import DECODED, FILES, array_at, rows_table, with_arrays

DARKEST = 16
ROWS: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}


def drop_dark_frames(segments: pa.Table) -> pa.Table:
    """``DECODED`` to ``DECODED``: frames [T, H, W, 3] whose mean is below ``DARKEST`` go, unless all would."""
    rows = []
    for index, row in enumerate(segments.to_pylist()):
        if row["failure"] is None:
            frames = array_at(segments, "frames", index, np.uint8)
            bright = frames.mean(axis=(1, 2, 3)) >= DARKEST
            if bright.any():
                row["timestamps_s"] = np.asarray(row["timestamps_s"])[bright].tolist()
                row = with_arrays(row, frames=frames[bright])
        rows.append(row)
    return rows_table(rows, DECODED)


def captions(paths: list[str]) -> ray.data.Dataset:
    """A caption a segment."""
    files = rows_table([{"uri": path, "fingerprint": "example"} for path in paths], FILES)
    model: dict[str, Any] = {"model": "demo", "prompts": (CAPTION,)}
    plan: dict[str, Any] = {"recipe_id": "example", "segment_s": 60.0, "fps": 1.0}
    decode = {"settings": DecodeSettings(fps=1.0, image_size=96, decoder="av", threads=1)}
    encode = {**model, "retrieval_model": "none", "settings": MemorySettings(length=20)}
    return (
        ray.data.from_blocks([files])
        .map_batches(probe_files, **ROWS)
        .map_batches(plan_segments, fn_kwargs=plan, **ROWS)
        .map_batches(decode_segments, fn_kwargs=decode, batch_size=1, num_cpus=0.2, **ROWS)
        .map_batches(drop_dark_frames, batch_size=1, num_cpus=0.1, **ROWS)
        .map_batches(EncodeSegments, fn_constructor_kwargs=encode, batch_size=4, num_cpus=0.3, **ROWS)
        .map_batches(
            GenerateTexts,
            fn_constructor_kwargs={**model, "max_new_tokens": 64},
            batch_size=4,
            num_cpus=0.2,
            **ROWS,
        )
    )


def main() -> None:
    """Print a line a segment."""
    for row in captions(sys.argv[1:]).iter_rows():
        if row["failure"] is not None:
            print(f"{row['failure']['uri']}: {row['failure']['message']}")
        else:
            segment = row["segment"]
            print(f"{segment['uri']} {segment['start_s']:.0f}-{segment['end_s']:.0f} s: {row['texts'][0]}")


if __name__ == "__main__":
    main()
