"""The curve of a training as an SVG picture: each step's loss, and what was right of the held-back answers."""

from __future__ import annotations

from malmm.model.training.loop import State

__all__ = ["curve"]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM, _TOP = 720, 300, 56, 56, 30, 24
_POINTS = 400


def curve(state: State) -> str:
    """A picture that needs nothing else, of at most 400 points: each is the mean of the steps that it stands for."""
    steps, losses = len(state.losses), state.losses
    most = max(losses, default=1.0) or 1.0
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _BOTTOM - _TOP

    def at(step: float, share: float) -> str:
        return f"{_LEFT + wide * step / max(1, steps):.1f},{_TOP + high * (1 - share):.1f}"

    size = max(1, -(-steps // _POINTS))
    parts = [losses[begin : begin + size] for begin in range(0, steps, size)]
    drawn = [at(size * n + len(part) / 2, sum(part) / len(part) / most) for n, part in enumerate(parts)]
    right = [at(point.step, point.accuracy) for point in state.points if point.accuracy is not None]
    base = _TOP + high
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12"><title>Loss of each step</title>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<path d="M{_LEFT} {_TOP}V{base}H{_LEFT + wide}" fill="none" stroke="#888"/>',
        f'<polyline points="{" ".join(drawn)}" fill="none" stroke="#1f5fbf"/>',
        f'<text x="{_LEFT - 6}" y="{_TOP + 10}" text-anchor="end" fill="#1f5fbf">{most:.3g}</text>',
        f'<text x="{_LEFT - 6}" y="{base}" text-anchor="end" fill="#1f5fbf">0</text>',
        f'<text x="{_LEFT}" y="14" fill="#1f5fbf">loss</text>',
        f'<text x="{_LEFT + wide}" y="{_HEIGHT - 10}" text-anchor="end">{steps} steps</text>',
    ]
    if right:
        edge = _LEFT + wide + 6
        lines += [
            f'<polyline points="{" ".join(right)}" fill="none" stroke="#b3541e" stroke-dasharray="5 3"/>',
            *(
                f'<circle cx="{x}" cy="{y}" r="3" fill="#b3541e"/>'
                for x, y in (each.split(",") for each in right)
            ),
            f'<text x="{edge}" y="{_TOP + 10}" fill="#b3541e">100 %</text>',
            f'<text x="{edge}" y="{base}" fill="#b3541e">0 %</text>',
            f'<text x="{_LEFT + wide}" y="14" text-anchor="end" fill="#b3541e">held-back answers right</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"
