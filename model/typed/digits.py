"""Regular expressions of numbers between two bounds, with a fixed number of decimals."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

__all__ = ["between"]


def between(low: Decimal, high: Decimal, decimals: int) -> str:
    """Matches the numbers from ``low`` to ``high`` written with ``decimals`` decimals, without leading zeros.

    Negative zero is not among them. Empty if no such number lies between the bounds.
    """
    scale = Decimal(10) ** decimals
    first = int((low * scale).to_integral_value(ROUND_CEILING))
    last = int((high * scale).to_integral_value(ROUND_FLOOR))
    ways = []
    if first < 0:
        ways += ["-" + way for way in _unsigned(max(1, -last), -first, decimals)]
    if last >= 0:
        ways += _unsigned(max(0, first), last, decimals)
    return f"(?:{'|'.join(ways)})" if ways else ""


def _unsigned(first: int, last: int, decimals: int) -> list[str]:
    """Alternatives that match the whole numbers from ``first`` to ``last``, with a point before the decimals."""
    ways = []
    for width in range(decimals + 1, max(len(str(last)), decimals + 1) + 1):
        # The shortest numbers have zeros before the point, the longer ones none in front.
        low = max(first, 0 if width == decimals + 1 else 10 ** (width - 1))
        high = min(last, 10**width - 1)
        if low <= high:
            for classes in _same_width(str(low).zfill(width), str(high).zfill(width)):
                whole, rest = classes[: width - decimals], classes[width - decimals :]
                ways.append("".join(whole) + (r"\." + "".join(rest) if rest else ""))
    return ways


def _same_width(low: str, high: str) -> list[list[str]]:
    """Alternatives, each a class of digits for every place, for the numbers between two of the same width."""
    if not low:
        return [[]]
    after = len(low) - 1
    if low[0] == high[0]:
        return [[low[0], *rest] for rest in _same_width(low[1:], high[1:])]
    begin, end = int(low[0]), int(high[0])
    ways = []
    if low[1:].strip("0"):
        ways += [[low[0], *rest] for rest in _same_width(low[1:], "9" * after)]
        begin += 1
    tail = []
    if high[1:].strip("9"):
        tail = [[high[0], *rest] for rest in _same_width("0" * after, high[1:])]
        end -= 1
    if begin <= end:
        ways.append([f"[{begin}-{end}]", *["[0-9]"] * after])
    return ways + tail
