"""The service behind ``malmm schedule``.

APScheduler decides when a job is due, and one lane per archive decides which job runs next. Each run is a child process
(``malmm run``), so a crash does not stop the service. A failed run is retried with exponential backoff.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from apscheduler.events import EVENT_JOB_ERROR
from apscheduler.schedulers.background import BackgroundScheduler

from malmm.jobs.schedules.catching_up import missed
from malmm.jobs.schedules.cron import Cron, CronInZone
from malmm.jobs.schedules.lanes import Due, Lane
from malmm.pipeline.archive.location import resolve
from malmm.pipeline.archive.run_history import read_runs
from malmm.pipeline.schema.errors import ArchiveError, ConfigError
from malmm.pipeline.schema.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_SOME_FAILED, EXIT_USAGE

if TYPE_CHECKING:
    from malmm.jobs.files.loading import LoadedJob

__all__ = ["Service"]

_LONGEST_PAUSE_S = 3600.0
#: What runs a job.
_PROGRAM = (sys.executable, "-m", "malmm.jobs.cli")
#: Nothing is gained by trying these again: done as far as it goes, told wrongly, or stopped on purpose.
_FINAL = (0, EXIT_SOME_FAILED, EXIT_USAGE, EXIT_INTERRUPTED)

Say = Callable[..., None]


class Service:
    """Runs jobs until stopped. ``say`` receives events with their fields; ``options`` go to every run."""

    def __init__(self, jobs: Sequence[LoadedJob], say: Say, options: Sequence[str] = ()) -> None:
        self._jobs = {job.name: job for job in jobs}
        if len(self._jobs) != len(jobs):
            names = [job.name for job in jobs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"two job files have the name {twice!r}: give one of them another with `name:`")
        self._crons = {job.name: _cron(job) for job in jobs}
        self._say = say
        self._options = tuple(options)
        self._stopping = threading.Event()
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._lanes = {resolve(job.archive): Lane(job.archive, self._run) for job in jobs}
        self._scheduler = BackgroundScheduler(timezone=UTC)
        self._scheduler.add_listener(self._on_error, EVENT_JOB_ERROR)

    def start(self) -> None:
        """Start the service and run missed jobs first."""
        now = datetime.now(UTC)
        for name, job in self._jobs.items():
            if job.job.schedule is not None and job.job.schedule.catch_up:
                self._catch_up(name, job, now)
            jitter_s = job.job.schedule.jitter_s if job.job.schedule else 0.0
            added = self._scheduler.add_job(
                self._put,
                CronInZone(self._crons[name], jitter_s),
                args=[name],
                id=name,
                coalesce=True,
                # A machine that slept: late is better than never, and once.
                misfire_grace_time=None,
            )
            upcoming = added.trigger.get_next_fire_time(None, now)
            self._say("scheduled", job=name, archive=job.archive, next=upcoming)
        for lane in self._lanes.values():
            lane.start()
        self._scheduler.start()

    def stop(self) -> None:
        """Start no further job, interrupt running ones as Ctrl-C does, and wait for them."""
        self._stopping.set()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=True)
        with self._lock:
            for process in self._processes:
                process.terminate()
        for lane in self._lanes.values():
            lane.stop()

    def _catch_up(self, name: str, job: LoadedJob, now: datetime) -> None:
        # Partitions take turns: a run is over when the last one's is.
        archive = job.job.archive_of((job.job.partitions or 1) - 1)
        try:
            since = missed(self._crons[name], read_runs(archive, job=name), now)
        except ArchiveError as error:
            self._say("no history", level="warning", job=name, reason=str(error))
            return
        if since is not None:
            self._say("catching up", job=name, missed=since)
            self._lanes[resolve(job.archive)].put(Due(name, since))

    def _put(self, name: str) -> None:
        due = Due(name, datetime.now(UTC))
        if not self._lanes[resolve(self._jobs[name].archive)].put(due):
            self._say("still waiting", job=name)

    def _run(self, due: Due) -> None:
        """Run a job and retry while it fails for a transient reason."""
        schedule = self._jobs[due.job].job.schedule
        retries, pause_s = (schedule.retries, schedule.backoff_s) if schedule else (0, 1.0)
        for attempt in range(1, retries + 2):
            code = self._attempt(due, attempt)
            if code is None or code in _FINAL or self._stopping.is_set():
                return
            if attempt > retries:
                self._say("given up", level="error", job=due.job, attempts=attempt)
                return
            self._say("will try again", level="warning", job=due.job, pause_s=pause_s)
            if self._stopping.wait(pause_s):
                return
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _attempt(self, due: Due, attempt: int) -> int | None:
        """Run one process and return its exit code, or None if the service is stopping."""
        job = self._jobs[due.job]
        options = [
            *self._options,
            "--scheduled-for",
            due.scheduled_for.isoformat(),
            "--attempt",
            str(attempt),
        ]
        command = [*_PROGRAM, "run", job.path, *options]
        with self._lock:
            if self._stopping.is_set():
                return None
            # In a group of its own: Ctrl-C is for the service, which tells its runs once.
            process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdin=subprocess.DEVNULL, stdout=sys.stderr, process_group=0
            )
            self._processes.add(process)
        self._say(
            "started", job=due.job, attempt=attempt, scheduled_for=due.scheduled_for, process=process.pid
        )
        try:
            code = process.wait()
        finally:
            with self._lock:
                self._processes.discard(process)
        level = "info" if code in (0, EXIT_SOME_FAILED) else "error"
        self._say("ended", level=level, job=due.job, attempt=attempt, exit_code=code)
        # Killed by a signal: as if it had failed.
        return code if code >= 0 else EXIT_FAILED

    def _on_error(self, event: Any) -> None:
        self._say("scheduler failed", level="error", job=event.job_id, reason=str(event.exception))


def _cron(job: LoadedJob) -> Cron:
    if job.job.schedule is None:
        raise ConfigError(f"{job.path} has no `schedule:`: add one, or run it with `malmm run {job.path}`")
    return Cron.parse(job.job.schedule.cron, job.job.schedule.timezone)
