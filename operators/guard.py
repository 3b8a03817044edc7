"""Guard: turn any exception of an operator into a failure of that row, with the end of its traceback.

Operators turn expected errors, such as a damaged file, into failures themselves. The guard around each of them catches
all others, above all programming errors: Ray Data would retry the task and then drop its rows silently. A panic of a
library in Rust counts too, though pyo3 does not make it an Exception. What ends a process, a task or the run passes
through.
"""

from __future__ import annotations

import inspect
import linecache
import os
import sys
import traceback
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

import pyarrow as pa

from malmm.pipeline.schema.errors import RunLost
from malmm.pipeline.schema.ids import video_id
from malmm.pipeline.schema.records import Failure
from malmm.pipeline.schema.rows import FILES, Carried, carried, rows_table

__all__ = ["end_process", "guarded", "guarded_actor"]

_MESSAGE_CHARS, _TRACE_CHARS = 500, 1500
_ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit, CancelledError, RunLost)

_Work = Callable[..., pa.Table | Iterator[pa.Table]]


def guarded(stage: str, schema: pa.Schema, operator: _Work) -> _Work:
    """Guard a function on tables. ``schema`` is that of its output, ``stage`` the stage named in failures.

    A failed batch is tried again row by row, so that a bad row fails alone. An operator that yields tables gets its
    rows one by one from the start.
    """
    if inspect.isgeneratorfunction(operator):

        @wraps(operator)
        def yielding(rows: pa.Table, **options: Any) -> Iterator[pa.Table]:
            for index in range(rows.num_rows):
                row = rows.slice(index, 1)
                try:
                    made = list(operator(row, **options))
                except _ENDS:
                    raise
                except BaseException as error:  # noqa: BLE001 - any exception is this row's failure
                    made = [_failed(stage, schema, row, error)]
                yield from made

        return yielding

    @wraps(operator)
    def returning(rows: pa.Table, **options: Any) -> pa.Table:
        return _one_by_one_if_need_be(stage, schema, lambda batch: operator(batch, **options), rows)

    return returning


def guarded_actor(stage: str, schema: pa.Schema, operator: type | str) -> type:
    """Guard a class whose objects are called with tables, like ``guarded``. Its constructor may raise.

    An ``operator`` given by name, such as ``malmm.operators.encode:EncodeSegments``, is imported by the actor alone.
    If an object says ``device_lost``, the next call ends the process, and not the call: no work can succeed there.
    Ray restarts the actor and gives the batch to it or to another one.
    """

    class Guarded:
        def __init__(self, **options: Any) -> None:
            made = resolve_name(operator) if isinstance(operator, str) else operator
            self.inner = made(**options)

        @property
        def device_lost(self) -> bool:
            return bool(getattr(self.inner, "device_lost", False))

        def __call__(self, rows: pa.Table) -> pa.Table:
            if self.device_lost:
                end_process(stage)
            return _one_by_one_if_need_be(stage, schema, self.inner, rows)

    # Ray names processes after the class.
    name = operator.partition(":")[2] if isinstance(operator, str) else operator.__name__
    Guarded.__name__ = Guarded.__qualname__ = name
    return Guarded


def end_process(stage: str, reason: str = "") -> NoReturn:
    """End this process at once: its GPU stopped answering, so nothing more can be done here."""
    why = f" ({reason})" if reason else ""
    print(f"malmm: {stage}: the GPU does not answer any more{why}, this worker ends", file=sys.stderr)
    sys.stderr.flush()
    os._exit(1)


def _one_by_one_if_need_be(
    stage: str, schema: pa.Schema, work: Callable[[pa.Table], Any], rows: pa.Table
) -> pa.Table:
    try:
        return work(rows)
    except _ENDS:
        raise
    except BaseException as error:  # noqa: BLE001 - any exception is the rows' failure
        if rows.num_rows <= 1:
            return _failed(stage, schema, rows, error)
    parts = [rows.slice(index, 1) for index in range(rows.num_rows)]
    return pa.concat_tables([_one_by_one_if_need_be(stage, schema, work, part) for part in parts])


def _failed(stage: str, schema: pa.Schema, rows: pa.Table, error: BaseException) -> pa.Table:
    """The rows with the error as their failure. A row that failed before keeps its own failure."""
    where, trace = _place(error), _trace(error)
    kind = type(error).__name__
    message = f"{' '.join(str(error).split())[:_MESSAGE_CHARS] or kind} ({where})"
    if rows.schema.names == FILES.names:
        failures = [
            Failure(video_id(uri), None, uri, stage, kind, message, fingerprint, trace)
            for uri, fingerprint in zip(rows["uri"].to_pylist(), rows["fingerprint"].to_pylist(), strict=True)
        ]
        return rows_table([Carried(None, None, failure).columns() for failure in failures], schema)
    results = [
        row if row.failure is not None else row.failed(stage, kind, message, trace) for row in carried(rows)
    ]
    return rows_table([row.columns() for row in results], schema)


def _trace(error: BaseException) -> str:
    """The last 1500 characters of the exception's traceback, without the guard's own frames."""
    linecache.checkcache()
    lines = [*traceback.format_list(_frames(error)), *traceback.format_exception_only(error)]
    return "".join(lines)[-_TRACE_CHARS:]


def _place(error: BaseException) -> str:
    """File and line where it was raised."""
    frames = _frames(error)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown place"


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    return [
        frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) != Path(__file__)
    ]
