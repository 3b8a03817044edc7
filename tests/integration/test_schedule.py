"""The scheduler as a service: real processes, schedules of seconds, and signals in the middle."""

from __future__ import annotations

import json
import signal
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from support.archive_contents import contents
from support.archive_rows import RECIPE, VECTOR_SIZE
from support.held_run import Gate
from support.media import VideoSpec, make_video
from support.processes import Session, command, run_here
from support.small_runs import SETTINGS, committed
from support.waiting import until

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.run_history import RunRecord, read_runs
from malmm.pipeline.archive.writer import Archive

SEGMENTS = 12


def serve(folder: Path, *jobs: Path, gate: Gate | None = None) -> Session:
    """`malmm schedule` as a process; with a gate, its runs go through it and run all stages in their own process."""
    notes = folder / f"notes-{time.monotonic_ns()}"
    notes.mkdir()
    options: tuple[str | Path, ...] = ("schedule", *jobs, "--log-format", "json")
    return Session(command(*options) if gate is None else gate.command(*options, ray=False), notes)


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


def test_stopped_in_the_middle_it_goes_on_when_started_again(tmp_path: Path) -> None:
    videos, place = tmp_path / "videos", tmp_path / "archive"
    videos.mkdir()
    make_video(videos, VideoSpec("a.mp4", rate="12", duration_s=float(SEGMENTS), width=64, height=48))
    fields = ", ".join(f"{name}: {value}" for name, value in SETTINGS.items())
    job = tmp_path / "job.yaml"

    def write(cron: str) -> None:
        job.write_text(
            f"archive: {place}\nindex: {{sources: ['{videos}'], {fields}}}\n"
            f"schedule: {{cron: '{cron}', backoff_s: 1}}\n"
        )

    write("*/2 * * * * *")
    gate = Gate(tmp_path)
    gate.allow(3)
    session = serve(tmp_path, job, gate=gate)
    until(lambda: committed(place) > 0, going=session.ended)
    stopped(session)
    run = read_runs(str(place), job="job")[0]
    assert (run.status, run.exit_code) == ("interrupted", 130)
    stored = committed(place)
    assert stored < SEGMENTS
    gate.open()
    # Due but once a year: only what was stopped in the middle is a reason to run.
    write("0 0 1 1 *")
    again = serve(tmp_path, job, gate=gate)
    until(lambda: len(ended(place, "job")) == 2, going=again.ended)
    stopped(again)
    assert [each["event"] for each in events(again)][:2] == ["catching up", "scheduled"]
    last = ended(place, "job")[0]
    assert (last.status, last.trigger) == ("done", "schedule")
    assert last.counts["segments_resumed"] >= stored
    reader = ArchiveReader.open(str(place))
    # Raises for rows that are there twice.
    assert len(contents(reader)["segments"]) == SEGMENTS
    assert len(reader.completed_videos()) == 1


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
