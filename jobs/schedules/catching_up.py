"""Whether a job's last time was missed: nothing ran then, or what ran was stopped before its end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from malmm.jobs.schedules.cron import Cron
from malmm.pipeline.archive.run_history import RunRecord

__all__ = ["missed"]

_OVER = ("done", "some_failed", "failed", "refused")


def missed(cron: Cron, history: Sequence[RunRecord], now: datetime) -> datetime | None:
    """A time before ``now`` that nothing was run for since the job last ran to an end, by its own schedule.

    However many times were missed, it is one of them: one run does what all of them would have done. A job that never
    ran by its schedule has missed nothing.
    """
    mine = [run for run in history if run.trigger == "schedule" and run.scheduled_for is not None]
    if not mine:
        return None
    ended = [run for run in mine if run.status in _OVER]
    if not ended:
        return max(run.scheduled_for for run in mine if run.scheduled_for is not None)
    last = max(run.scheduled_for for run in ended if run.scheduled_for is not None)
    # With jitter a run is wanted a little after its time, so the next one is looked for from there on.
    coming = cron.next_after(last + timedelta(microseconds=1))
    return coming if coming is not None and coming <= now else None
