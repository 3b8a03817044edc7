"""Progress and errors as JSON lines, for log collectors."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self, TextIO

from malmm.pipeline.schema.progress import Progress

__all__ = ["LOG_FORMATS", "JsonLines", "log_line"]

LOG_FORMATS = ("text", "json")
_LINE_EVERY_S = 10.0


def log_line(event: str, *, level: str = "info", **fields: Any) -> str:
    """Format a JSON object on one line with ``time``, ``level``, ``event`` and further fields."""
    content = {"time": datetime.now(UTC).isoformat(), "level": level, "event": event} | fields
    return json.dumps(content, default=str)


class JsonLines:
    """Context manager, called with each ``Progress``. Writes a line at each new stage or note and then periodically."""

    def __init__(self, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._now = now
        self._stage = self._note = ""
        self._last_line = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stage:
            self.say("ended", failed=error is not None)

    def __call__(self, progress: Progress) -> None:
        """Write the progress."""
        now = self._now()
        news = (progress.stage, progress.note) != (self._stage, self._note)
        if news or now - self._last_line >= _LINE_EVERY_S:
            self._stage, self._note, self._last_line = progress.stage, progress.note, now
            fields = {name: value for name, value in vars(progress).items() if value not in (0, 0.0, "")}
            self.say("progress", **fields, times_real_time=progress.times_real_time, left_s=progress.left_s)

    def say(self, event: str, **fields: Any) -> None:
        """Write a line for another event."""
        # One write: a scheduler's runs write to the same place.
        self._stream.write(f"{log_line(event, **fields)}\n")
        self._stream.flush()
