"""Putting outside text, times and sizes on a terminal."""

from __future__ import annotations

import math

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["about", "clock", "printable", "seconds_of", "shortened", "size"]


def printable(text: str) -> str:
    """The text with control characters spelled out: names and captions must not steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, width: int) -> str:
    """The text on one line of at most ``width`` characters."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= width else line[: max(0, width - 1)] + "…"


def about(uri: str, message: str) -> str:
    """The message as it is printed, behind the file's name where it does not name the file itself."""
    return printable(message if uri in message else f"{uri}: {message}")


def clock(seconds: float) -> str:
    """Seconds as ``M:SS`` or ``H:MM:SS``, with tenths where there are any."""
    sign = "-" if seconds < 0 else ""
    tenths = round(abs(seconds) * 10)
    whole, tenth = divmod(tenths, 10)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    head = f"{hours}:{minute:02d}" if hours else f"{minute}"
    return f"{sign}{head}:{second:02d}" + (f".{tenth}" if tenth else "")


def size(count_bytes: float) -> str:
    """Bytes with a unit: ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count_bytes < 1000:
            return f"{count_bytes:.0f} {unit}" if unit == "B" else f"{count_bytes:.1f} {unit}"
        count_bytes /= 1000
    return f"{count_bytes:.1f} TB"


def seconds_of(option: str, text: str) -> float:
    """Seconds of ``90``, ``1:30`` or ``0:01:30.5``. Raises ConfigError."""
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
