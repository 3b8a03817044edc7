from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from malmm.pipeline.web.state.overview import growth

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def stored(times: list[datetime]) -> np.ndarray:
    return pa.array(times, pa.timestamp("us", tz="UTC")).to_numpy(zero_copy_only=False)


def test_growth_ends_with_all_of_it() -> None:
    indexed = [NOON + timedelta(hours=place) for place in reversed(range(100))]
    points = growth(stored(indexed), np.full(100, 1800.0))
    assert len(points) <= 61
    assert points[0].at == NOON
    assert points[0].videos >= 1
    assert (points[-1].videos, points[-1].hours) == (100, 50.0)
    assert [point.videos for point in points] == sorted(point.videos for point in points)


def test_growth_of_little() -> None:
    assert growth(stored([]), np.empty(0)) == []
    [point] = growth(stored([NOON, NOON]), np.full(2, 3600.0))
    assert (point.videos, point.hours) == (2, 2.0)
