"""Find scheduled times that were missed: no run started, or the run did not finish."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from malmm.jobs.schedules.cron import Cron
from malmm.pipeline.archive.run_history import RunRecord

__all__ = ["missed"]

_OVER = ("done", "some_failed", "failed", "refused")


def missed(cron: Cron, history: Sequence[RunRecord], now: datetime) -> datetime | None:
    """Return a scheduled time before ``now`` that no finished run covers, or None.

    Several missed times count as one, since one run catches up on all. A job that never ran on schedule has missed
    nothing.
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
