from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from malmm.jobs.schedules.catching_up import missed
from malmm.jobs.schedules.cron import Cron, CronInZone
from malmm.jobs.schedules.lanes import Due, Lane
from malmm.pipeline.archive.run_history import RunRecord
from malmm.pipeline.schema.errors import ConfigError

BERLIN = ZoneInfo("Europe/Berlin")


def times(expression: str, zone: str, start: datetime, count: int) -> list[str]:
    cron, found, at = Cron.parse(expression, zone), [], start
    for _ in range(count):
        at = cron.next_after(at) or pytest.fail("no more times")
        found.append(at.isoformat())
        at = at.astimezone(UTC) + timedelta(microseconds=1)
    return found


def test_a_nightly_job_runs_once_in_the_night_that_has_no_such_time() -> None:
    assert times("30 2 * * *", "Europe/Berlin", datetime(2026, 3, 28, 12, tzinfo=UTC), 2) == [
        "2026-03-29T03:30:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]


def test_a_nightly_job_runs_once_in_the_night_that_has_the_time_twice() -> None:
    assert times("30 2 * * *", "Europe/Berlin", datetime(2026, 10, 24, 12, tzinfo=UTC), 2) == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]


@pytest.mark.parametrize(
    "day", [datetime(2026, 3, 28, 22, tzinfo=UTC), datetime(2026, 10, 24, 22, tzinfo=UTC)]
)
@pytest.mark.parametrize(("expression", "step"), [("0 * * * *", 3600), ("*/20 * * * *", 1200)])
def test_jobs_of_every_hour_go_on_by_the_hour(day: datetime, expression: str, step: int) -> None:
    found = [datetime.fromisoformat(each) for each in times(expression, "Europe/Berlin", day, 20)]
    assert {(after - before).total_seconds() for before, after in pairwise(found)} == {step}


@settings(max_examples=60)
@given(
    day=st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),
    hour=st.integers(0, 23),
    minute=st.integers(0, 59),
    zone=st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC", "Asia/Kolkata"]),
)
def test_a_daily_job_runs_once_a_day_on_every_day(day: datetime, hour: int, minute: int, zone: str) -> None:
    start = day.replace(hour=12, minute=0, second=0, microsecond=0, tzinfo=UTC)
    found = [datetime.fromisoformat(each) for each in times(f"{minute} {hour} * * *", zone, start, 4)]
    assert len({each.date() for each in found}) == 4
    assert all(20 <= (after - before).total_seconds() / 3600 <= 28 for before, after in pairwise(found))


def test_days_are_those_of_cron() -> None:
    sunday = times("0 0 * * 0", "UTC", datetime(2026, 11, 24, tzinfo=UTC), 1)
    assert sunday == times("0 0 * * 7", "UTC", datetime(2026, 11, 24, tzinfo=UTC), 1)
    assert sunday == ["2026-11-29T00:00:00+00:00"]
    # The first of the month, or any Monday.
    assert times("0 0 1 * mon", "UTC", datetime(2026, 11, 24, tzinfo=UTC), 2) == [
        "2026-11-30T00:00:00+00:00",
        "2026-12-01T00:00:00+00:00",
    ]
    assert len(times("*/5 * * * * *", "UTC", datetime(2026, 11, 24, tzinfo=UTC), 3)) == 3
    for wrong in ("", "a b c d e", "* * * * 9", "60 * * * *", "* * * * 1/0", "* * * * * * *"):
        with pytest.raises(ConfigError):
            Cron.parse(wrong, "UTC")


def test_jitter_comes_after_the_time_and_leaves_none_out() -> None:
    trigger = CronInZone(Cron.parse("0 * * * *", "UTC"), jitter_s=60)
    at, now = None, datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
    for hour in range(13, 20):
        at = trigger.get_next_fire_time(at, now)
        assert at is not None
        assert datetime(2026, 11, 24, hour, tzinfo=UTC) <= at <= datetime(2026, 11, 24, hour, 1, tzinfo=UTC)
        now = at + timedelta(seconds=1)


def test_a_lane_runs_one_at_a_time_and_what_comes_due_meanwhile_once() -> None:
    ran: list[str] = []
    running, open_ = threading.Semaphore(0), threading.Semaphore(0)

    def work(due: Due) -> None:
        running.release()
        open_.acquire()
        ran.append(due.job)

    lane = Lane("archive", work)
    lane.start()
    now = datetime.now(UTC)
    assert lane.put(Due("a", now))
    assert running.acquire(timeout=30)
    # While it runs, it comes due three times and another twice.
    assert [lane.put(Due(job, now)) for job in ("a", "b", "a", "b", "a")] == [True, True, False, False, False]
    for _ in range(3):
        open_.release()
    assert running.acquire(timeout=30)
    assert running.acquire(timeout=30)
    lane.stop()
    assert ran == ["a", "a", "b"]


def record(status: str, at: datetime, trigger: str = "schedule") -> RunRecord:
    return RunRecord("j", ("index",), trigger=trigger, scheduled_for=at, status=status)


def test_missed_times_are_one_and_only_what_the_schedule_did_counts() -> None:
    cron = Cron.parse("0 2 * * *", "UTC")
    night = datetime(2026, 11, 20, 2, tzinfo=UTC)
    next_night, later = night + timedelta(days=1), night + timedelta(days=3)
    assert missed(cron, [], later) is None
    assert missed(cron, [record("done", night, trigger="command")], later) is None
    assert missed(cron, [record("done", night)], later) == next_night
    assert missed(cron, [record("done", night)], night + timedelta(hours=1)) is None
    assert missed(cron, [record("interrupted", night)], night + timedelta(hours=1)) == night
    history = [record("lost", next_night), record("done", night)]
    assert missed(cron, history, next_night + timedelta(hours=1)) == next_night
    assert missed(cron, [record("failed", next_night), *history], next_night + timedelta(hours=1)) is None
