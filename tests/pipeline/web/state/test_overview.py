from __future__ import annotations

from datetime import UTC, datetime, timedelta

from malmm.pipeline.web.state.overview import growth

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_growth_ends_with_all_of_it() -> None:
    indexed = [(NOON + timedelta(hours=place), 1800.0) for place in range(100)]
    points = growth(reversed(indexed))
    assert len(points) <= 61
    assert points[0].at == NOON
    assert points[0].videos >= 1
    assert (points[-1].videos, points[-1].hours) == (100, 50.0)
    assert [point.videos for point in points] == sorted(point.videos for point in points)


def test_growth_of_little() -> None:
    assert growth([]) == []
    [point] = growth([(NOON, 3600.0), (NOON, 3600.0)])
    assert (point.videos, point.hours) == (2, 2.0)
