"""The scheduler as a service: real processes and schedules of seconds. In test_jobs_page it is stopped in a run."""

from __future__ import annotations

import json
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from support.archive_rows import RECIPE, VECTOR_SIZE
from support.processes import Session, command, run_here
from support.waiting import until

from malmm.pipeline.archive.run_history import RunRecord, read_runs
from malmm.pipeline.archive.writer import Archive


def serve(folder: Path, *jobs: Path) -> Session:
    """`malmm schedule` as a process."""
    notes = folder / f"notes-{time.monotonic_ns()}"
    notes.mkdir()
    return Session(command("schedule", *jobs, "--log-format", "json"), notes)


def stopped(session: Session) -> None:
    session.process.send_signal(signal.SIGTERM)
    assert session.wait() == 0, session.errors.read_text()
    assert session.end() == []


def events(session: Session) -> list[dict[str, Any]]:
    lines = session.errors.read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"time"')]


def ended(place: Path, job: str) -> list[RunRecord]:
    return [run for run in read_runs(str(place), job=job) if run.ended is not None]


def test_jobs_of_one_archive_never_run_at_once(tmp_path: Path) -> None:
    place = tmp_path / "archive"
    Archive.create_or_open(str(place), RECIPE, VECTOR_SIZE)
    jobs = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.yaml"
        path.write_text(f"archive: {place}\noptimize:\nschedule: {{cron: '* * * * * *', retries: 0}}\n")
        jobs.append(path)
    session = serve(tmp_path, *jobs)
    until(lambda: min(len(ended(place, name)) for name in ("one", "two")) >= 2, going=session.ended)
    stopped(session)
    runs = sorted(read_runs(str(place)), key=lambda run: run.started)
    # Both are due at every second and take longer: nothing was refused, since one waited for the other.
    assert {run.status for run in runs} <= {"done", "interrupted"}
    for before, after in pairwise(runs):
        assert before.ended is not None
        assert before.ended <= after.started
    assert {run.trigger for run in runs} == {"schedule"}
    assert all(run.scheduled_for is not None for run in runs)


def test_a_run_that_fails_is_tried_again_and_one_told_wrongly_is_not(tmp_path: Path) -> None:
    place = tmp_path / "archive"
    Archive.create_or_open(str(place), RECIPE, VECTOR_SIZE)
    failing, wrong = tmp_path / "failing.yaml", tmp_path / "wrong.yaml"
    failing.write_text(
        f"archive: {place}\nindex: {{sources: {tmp_path / 'gone'}, model: debug}}\n"
        "schedule: {cron: '* * * * * *', retries: 2, backoff_s: 0.2}\n"
    )
    wrong.write_text(
        f"archive: {place}\nexport: {{format: csv, output: /gone/x.csv}}\nschedule: {{cron: '* * * * * *'}}\n"
    )
    session = serve(tmp_path, failing, wrong)
    until(
        lambda: any(run.attempt == 3 for run in ended(place, "failing")) and bool(ended(place, "wrong")),
        going=session.ended,
    )
    stopped(session)
    runs = [run for run in ended(place, "failing") if run.status == "failed"]
    assert {1, 2, 3} == {run.attempt for run in runs}
    assert all("gone" in (run.error or "") for run in runs)
    refused = ended(place, "wrong")
    assert {(run.attempt, run.status) for run in refused} == {(1, "refused")}
    pauses = [each["pause_s"] for each in events(session) if each["event"] == "will try again"]
    assert pauses[:2] == [0.2, 0.4]
    assert "given up" in {each["event"] for each in events(session)}


def test_jobs_without_a_schedule_or_of_one_name_are_refused(tmp_path: Path) -> None:
    job, other = tmp_path / "job.yaml", tmp_path / "other.yaml"
    job.write_text("archive: a\noptimize:\n")
    done = run_here("schedule", job)
    assert done.returncode == 2
    assert "has no `schedule:`" in done.stderr
    job.write_text("name: x\narchive: a\noptimize:\nschedule: {cron: '0 2 * * *'}\n")
    other.write_text(job.read_text())
    done = run_here("schedule", job, other)
    assert done.returncode == 2
    assert "two job files have the name 'x'" in done.stderr
