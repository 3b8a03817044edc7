"""Listen: spans of videos to their sound. One row a span in, one row out. Runs on CPUs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from malmm.operators.media.sandbox.client import DECODE_LIMIT_S, Sandbox, process_sandbox
from malmm.pipeline.schema.errors import MediaError
from malmm.pipeline.schema.rows import AUDIBLE, carried, rows_table, with_arrays

__all__ = ["listen_to_spans"]

_FULL_SCALE = 32767


def listen_to_spans(
    spans: pa.Table, *, limit_s: float = DECODE_LIMIT_S, sandbox: Sandbox | None = None
) -> Iterator[pa.Table]:
    """``PLANNED`` to ``AUDIBLE``, a table a span. A row's segment is the span of sound.

    Decoders run in ``sandbox``, by default this process's own. A video without sound has no samples, and that is no
    failure.
    """
    sandbox = sandbox or process_sandbox()
    for row in carried(spans):
        if row.segment is None or row.failure is not None:
            yield rows_table([row.columns()], AUDIBLE)
            continue
        span = row.segment
        try:
            sound = sandbox.sound(span.uri, span.start_s, span.end_s, limit_s=limit_s)
        except (MediaError, RuntimeError) as error:
            kind = error.kind if isinstance(error, MediaError) else "unexpected"
            yield rows_table([row.failed("listen", kind, str(error)).columns()], AUDIBLE)
            continue
        samples = np.clip(np.rint(sound.samples * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE).astype(np.int16)
        columns = row.columns() | {"problem": sound.problem}
        yield rows_table([with_arrays(columns, sound=samples)], AUDIBLE)
