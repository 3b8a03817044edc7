"""Runs in the history of their archive, its status, and reports, of real runs in this process."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support.archive_rows import RECIPE, VECTOR_SIZE
from support.drawn_archive import Drawn, make_archive
from support.inline_stages import InlineStages

from malmm.jobs.cli import main
from malmm.jobs.report_page.page import report_page, stage_times, throughput
from malmm.jobs.run_recorder import Recorder, recorded
from malmm.jobs.terminal.log_lines import JsonLines
from malmm.pipeline.archive.optimize import optimize
from malmm.pipeline.archive.run_history import RunRecord, read_run, read_runs, write_run
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.config import OptimizeConfig
from malmm.pipeline.schema.errors import ArchiveError, ConfigError
from malmm.pipeline.schema.progress import Progress
from malmm.pipeline.schema.records import Failure


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    return make_archive(
        tmp_path_factory.mktemp("mine"), videos=2, seconds=20.0, model="debug", segment_s=10.0
    )


@pytest.fixture
def empty(tmp_path: Path) -> str:
    place = str(tmp_path / "archive")
    Archive.create_or_open(place, RECIPE, VECTOR_SIZE)
    return place


def said(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    code = main(list(options))
    return code, capsys.readouterr().out


def test_a_job_of_several_steps_is_one_run(
    mine: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    InlineStages().install(monkeypatch)
    sources = Path(mine.place).parent / "videos"
    job = tmp_path / "all.yaml"
    job.write_text(
        f"archive: {mine.place}\nsteps:\n"
        f"  - index: {{sources: '{sources}/*.mp4', model: debug, segment_s: 10}}\n"
        f"  - optimize:\n  - export: {{format: csv, output: {tmp_path / 'x.csv'}}}\n"
    )
    before = len(read_runs(mine.place))
    assert said(capsys, "run", str(job), "--dry-run", "-q")[0] == 0
    assert len(read_runs(mine.place)) == before
    code, out = said(capsys, "run", str(job), "--json", "-q", "--scheduled-for", "2026-11-24T02:00:00+01:00")
    assert code == 0
    summary = json.loads(out)
    assert [step["kind"] for step in summary["steps"]] == ["index", "optimize", "export"]
    run = read_run(mine.place, summary["run_id"][:10])
    assert (run.job, run.status, run.trigger) == ("all", "done", "schedule")
    assert run.scheduled_for == datetime(2026, 11, 24, 1, tzinfo=UTC)
    assert run.counts["videos_unchanged"] == 2
    assert run.counts["texts"] == mine.reader.count("annotations")
    assert (tmp_path / "x.csv").exists()


@pytest.mark.parametrize("command", [("optimize", "-q"), ("export", "--format", "jsonl")])
def test_plain_commands_are_in_the_history(
    mine: Drawn, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    assert said(capsys, command[0], "--archive", mine.place, *command[1:])[0] == 0
    run = read_runs(mine.place)[0]
    assert (run.job, run.kinds, run.status, run.trigger) == (command[0], (command[0],), "done", "command")
    code, out = said(capsys, "runs", "--archive", mine.place, "--json", "--limit", "1")
    assert code == 0
    assert json.loads(out)["runs"][0]["run_id"] == run.run_id
    assert run.run_id[:8] in said(capsys, "runs", "--archive", mine.place)[1]


def test_a_step_that_fails_ends_the_job_and_the_history_says_why(
    mine: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "bad.yaml"
    job.write_text(
        f"archive: {mine.place}\nsteps:\n  - export: {{format: csv, prompts: [gone]}}\n  - optimize:\n"
    )
    assert main(["run", str(job), "-q"]) == 2
    assert "'gone'" in capsys.readouterr().err
    run = read_runs(mine.place, job="bad")[0]
    assert (run.status, run.exit_code) == ("refused", 2)
    assert "'gone'" in (run.error or "")


def test_what_was_never_an_archive_becomes_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "archive"
    assert main(["index", str(tmp_path / "gone"), "--archive", str(place), "-q", "--model", "debug"]) == 1
    assert "gone" in capsys.readouterr().err
    assert not place.exists()


def test_an_error_is_recorded_and_goes_on(empty: str) -> None:
    for error, status, code in (
        (KeyboardInterrupt(), "interrupted", 130),
        (ConfigError("no"), "refused", 2),
        (ArchiveError("away", uri="x"), "failed", 1),
        (ZeroDivisionError("oh"), "failed", 1),
    ):
        run = RunRecord("j", ("index",))
        with pytest.raises(type(error)), recorded(empty, run):
            raise error
        found = read_run(empty, run.run_id)
        assert (found.status, found.exit_code) == (status, code)
        assert found.ended is not None


def test_a_history_that_cannot_be_written_ends_no_run(
    empty: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*arguments: object) -> bool:
        raise ArchiveError("the store is away", uri=empty)

    monkeypatch.setattr("malmm.jobs.run_recorder.write_run", away)
    with recorded(empty, RunRecord("j", ("index",))) as recorder:
        recorder.end(0)
    assert capsys.readouterr().err == "note: not in the run history: the store is away\n"


def test_samples_stay_few_and_keep_every_stage(empty: str) -> None:
    recorder = Recorder(empty, RunRecord("j", ("index",)))
    for number in range(5000):
        stage = "listing" if number < 3 else "indexing"
        recorder.watch(Progress(stage, segments_done=number, video_s_done=float(number)))
    samples = recorder.run.samples
    assert len(samples) <= 250
    assert samples[0][1] == "listing"
    assert samples[-1][2] == 4999


def test_a_run_whose_process_is_gone_is_lost(empty: str) -> None:
    live = RunRecord("j", ("index",))
    gone = replace(RunRecord("j", ("index",)), process=f"{os.getpid()}/1")
    elsewhere = replace(RunRecord("j", ("index",)), place="another machine")
    silent = replace(elsewhere, run_id="0" * 24, updated=datetime.now(UTC) - timedelta(hours=1))
    for run in (live, gone, elsewhere, silent):
        assert write_run(empty, run)
    status = {run.run_id: run.status for run in read_runs(empty)}
    assert [status[run.run_id] for run in (live, gone, elsewhere, silent)] == [
        "running", "lost", "running", "lost"
    ]  # fmt: skip


def test_many_writes_leave_few_files(empty: str) -> None:
    run = RunRecord("j", ("index",))
    for _ in range(40):
        write_run(empty, run)
        write_run(empty, replace(run, ended=datetime.now(UTC), status="done", run_id=f"{_:024x}"))
    assert len(read_runs(empty)) == 41
    assert len(list((Path(empty) / "runs.lance" / "data").iterdir())) < 200
    assert optimize(OptimizeConfig(empty)).exit_code == 0
    assert len(read_runs(empty)) == 41


def test_status_says_how_an_archive_stands(mine: Drawn, capsys: pytest.CaptureFixture[str]) -> None:
    running = replace(
        RunRecord("j", ("index",)),
        progress=vars(Progress("indexing", videos_done=2, videos_total=5, segments_done=4, segments_total=9)),
    )
    write_run(mine.place, running)
    content = json.loads(said(capsys, "status", "--archive", mine.place, "--json")[1])
    assert content["videos"] == {"indexed": 2, "pending": 3, "failed": 0}
    assert content["rows"]["segments"] == 4
    assert content["storage"]["memories"]["bytes"] > 1000
    assert content["rows_unindexed"] == 0
    assert content["running"]["run_id"] == running.run_id
    assert "indexing, 4 of 9 segments, 2 of 5 videos" in said(capsys, "status", "--archive", mine.place)[1]
    write_run(mine.place, replace(running, status="done", ended=datetime.now(UTC)))
    assert "Running   nothing" in said(capsys, "status", "--archive", mine.place)[1]


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs


def test_a_report_shows_a_run_and_escapes_whatever_it_shows(tmp_path: Path) -> None:
    drawn = make_archive(tmp_path, videos=1, seconds=20.0, model="debug", segment_s=10.0)
    archive = Archive.open(drawn.place)
    evil = "<script>alert(1)</script>\"'"
    with archive.held():
        archive.record_failures([Failure("v", None, f"/x/{evil}.mp4", "probe", "not_a_video", evil)])
    began = datetime.now(UTC) - timedelta(seconds=60)
    samples = [[0.0, "listing", 0, 0.0, 0], [1.0, "indexing", 0, 0.0, 0], [3.0, "indexing", 1, 10.0, 0],
               [4.0, "indexing", 1, 11.0, 0],
               [5.0, evil, 2, 20.0, 1]]  # fmt: skip
    run = replace(
        RunRecord(evil, ("index",)), started=began, ended=datetime.now(UTC), status="some_failed",
        counts={"videos_indexed": 1, f"failed.{evil}": 1, evil: 2}, samples=samples, error=evil,
    )  # fmt: skip
    page = report_page(drawn.reader, run)
    tags = Tags()
    tags.feed(page)
    assert "script" not in tags.names
    assert {"svg", "table", "figure", "img"} <= set(tags.names)
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    pictures = [value or "" for name, value in tags.attributes if name == "src"]
    assert len(pictures) == 2
    assert all(value.startswith("data:image/jpeg;base64,/9j/") for value in pictures)
    svgs = re.findall(r"<svg.*?</svg>", page)
    assert len(svgs) == 3
    for svg in svgs:
        ElementTree.fromstring(svg)  # noqa: S314 - our own
    assert throughput(run) == [(3.0, 5.0), (4.0, 1.0)]
    assert [(name, round(took)) for name, took in stage_times(run)] == [
        ("listing", 1),
        ("indexing", 4),
        (evil, 55),
    ]


def test_a_report_is_written_or_refused(
    mine: Drawn, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(mine.place, RunRecord("j", ("index",)))
    output = str(tmp_path / "report.html")
    assert said(capsys, "report", "--archive", mine.place, "--output", output) == (0, f"{output}\n")
    assert main(["report", "--archive", mine.place, "zzz", "--output", output]) == 1
    assert "no run 'zzz'" in capsys.readouterr().err
    assert main(["report", "--archive", mine.place, "--output", "/gone/x.html"]) == 2
    assert "cannot write /gone/x.html" in capsys.readouterr().err


def test_progress_is_lines_of_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 1.0, 2.0, 30.0])
    with JsonLines(now=lambda: next(clock)) as lines:
        for done in (0, 1, 2, 3):
            lines(Progress("indexing", segments_done=done, segments_total=3))
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(each["event"], each.get("segments_done", 0)) for each in said] == [
        ("progress", 0), ("progress", 3), ("ended", 0)
    ]  # fmt: skip
    assert all({"time", "level", "event"} <= each.keys() for each in said)
