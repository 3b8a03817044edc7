"""Small SVG plots. All labels are escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence

__all__ = ["bars", "intervals", "line"]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _ROW = 640, 180, 56, 22, 26


def line(points: Sequence[tuple[float, float]], *, title: str, x: str, y: str) -> str:
    """Draw a line through (x, y) points with both axes starting at zero."""
    if len(points) < 2:
        return ""
    most_x = max(each for each, _ in points) or 1.0
    most_y = max(each for _, each in points) or 1.0
    wide, high = _WIDTH - _LEFT, _HEIGHT - _BOTTOM
    path = " ".join(
        f"{_LEFT + wide * at / most_x:.1f},{high - (high - 10) * value / most_y:.1f}" for at, value in points
    )
    label = html.escape(title)
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}"><title>{label}</title>'
        f'<path class="axis" d="M{_LEFT} 0V{high}H{_WIDTH}"/><polyline class="curve" points="{path}"/>'
        f'<text x="{_LEFT - 6}" y="14" text-anchor="end">{most_y:.3g}</text>'
        f'<text x="{_LEFT - 6}" y="{high}" text-anchor="end">0</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 4}">0</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT - 4}" text-anchor="end">{most_x:.3g} {html.escape(x)}</text>'
        f'<text x="{_LEFT + 8}" y="14">{html.escape(y)}</text></svg>'
    )


def bars(values: Sequence[tuple[str, float]], *, title: str, unit: str) -> str:
    """Draw one horizontal bar per name."""
    if not values:
        return ""
    most = max(value for _, value in values) or 1.0
    label = html.escape(title)
    widths = [max(1.0, 340 * value / most) for _, value in values]
    rows = "".join(
        f'<text x="170" y="{_ROW * index + 17}" text-anchor="end">{html.escape(name)}</text>'
        f'<rect class="bar" x="180" y="{_ROW * index + 4}" width="{width:.1f}" height="18"/>'
        f'<text x="{188 + width:.1f}" y="{_ROW * index + 17}">{value:.4g} {html.escape(unit)}</text>'
        for index, ((name, value), width) in enumerate(zip(values, widths, strict=True))
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_ROW * len(values)}" role="img" aria-label="{label}">'
        f"<title>{label}</title>{rows}</svg>"
    )


def intervals(values: Sequence[tuple[str, float, float, float]], *, title: str) -> str:
    """Draw one point per name, with a line from its lower to its upper bound, on an axis from zero."""
    if not values:
        return ""
    most = max(high for *_, high in values) or 1.0
    label = html.escape(title)

    def at(value: float) -> float:
        return 180 + 380 * max(0.0, value) / most

    rows = "".join(
        f'<text x="170" y="{_ROW * index + 17}" text-anchor="end">{html.escape(name)}</text>'
        f'<line class="low" x1="{at(low):.1f}" x2="{at(high):.1f}" y1="{_ROW * index + 13}" y2="{_ROW * index + 13}"/>'
        f'<circle class="bar" cx="{at(value):.1f}" cy="{_ROW * index + 13}" r="4"/>'
        f'<text x="{at(high) + 10:.1f}" y="{_ROW * index + 17}">{value:.1f}</text>'
        for index, (name, value, low, high) in enumerate(values)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_ROW * len(values)}" role="img" aria-label="{label}">'
        f"<title>{label}</title>{rows}</svg>"
    )
