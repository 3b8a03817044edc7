"""Format outside text, times and sizes for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["about", "clock", "printable", "seconds_of", "shortened", "size", "span", "time_told"]


def printable(text: str) -> str:
    """Escape control characters, so that names and captions cannot control the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, width: int) -> str:
    """Shorten the text to one line of at most ``width`` characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= width else line[: max(0, width - 1)] + "…"


def about(uri: str, message: str) -> str:
    """Prefix the message with the file's name unless it already names the file."""
    return printable(message if uri in message else f"{uri}: {message}")


def clock(seconds: float) -> str:
    """Format seconds as ``M:SS`` or ``H:MM:SS``, with tenths if not whole."""
    sign = "-" if seconds < 0 else ""
    tenths = round(abs(seconds) * 10)
    whole, tenth = divmod(tenths, 10)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    head = f"{hours}:{minute:02d}" if hours else f"{minute}"
    return f"{sign}{head}:{second:02d}" + (f".{tenth}" if tenth else "")


def span(start_s: float, end_s: float, spans: Sequence[tuple[float, float]] | None = None) -> str:
    """Format a span as ``0:05 to 0:09``, and several in a row where there are ``spans``."""
    return ", ".join(f"{clock(start)} to {clock(end)}" for start, end in spans or [(start_s, end_s)])


def size(count_bytes: float) -> str:
    """Format bytes with a unit: ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count_bytes < 1000:
            return f"{count_bytes:.0f} {unit}" if unit == "B" else f"{count_bytes:.1f} {unit}"
        count_bytes /= 1000
    return f"{count_bytes:.1f} TB"


def time_told(hours: float | None, gpu_hours: float | None, basis: str) -> str:
    """Format the estimated time of a run, with what it was estimated from."""
    if hours is None:
        return f"not known: {basis}"
    of_gpus = f", {gpu_hours:.2g} GPU hours" if gpu_hours is not None else ""
    return f"about {clock(round(3600 * hours))}{of_gpus}, by {basis}"


def seconds_of(option: str, text: str) -> float:
    """Parse ``90``, ``1:30`` or ``0:01:30.5`` into seconds. Raises ConfigError."""
    parts = text.strip().split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if (
        not 1 <= len(values) <= 3
        or any(value < 0 or value >= 60 for value in values[1:])
        or not all(map(math.isfinite, values))
    ):
        raise ConfigError(f"{option}: {text!r} is no time: write seconds, M:SS or H:MM:SS")
    total = 0.0
    for value in values:
        total = 60 * total + value
    return total
