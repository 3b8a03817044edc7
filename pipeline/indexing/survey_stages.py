"""The first stages of a run, which take what they need from Ray: listed files, and the ids of stored segments.

Workers import this module to run them, and nothing of the wiring, which would cost each a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import ray
from ray import ObjectRef

from malmm.operators.plan_segments import plan_segments

if TYPE_CHECKING:
    from malmm.pipeline.indexing.file_queue import FileQueueHandle

__all__ = ["listed_files", "unfinished_segments"]


def listed_files(positions: pa.Table, *, queue: FileQueueHandle) -> pa.Table:
    """A position of the queue to the files there, ``FILES``."""
    return queue.files_at(positions["position"][0].as_py())


def unfinished_segments(videos: pa.Table, *, done: ObjectRef[np.ndarray] | None, **options: Any) -> pa.Table:
    """``plan_segments`` with the ids in Ray's object store, where all processes of a node share one copy."""
    return plan_segments(videos, done=None if done is None else ray.get(done), **options)
