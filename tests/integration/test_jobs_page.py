"""docs/jobs.md and docs/clusters.md, step by step; and jobs on a real Ray head with its job server."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from socket import socket
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from support.held_run import Gate
from support.inline_stages import InlineStages
from support.job_server import JobServer, serving
from support.processes import Session, command, run_here
from support.waiting import until

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.run_history import RunRecord, read_runs
from malmm.pipeline.indexing.metrics import METRICS

ROOT = Path(__file__).parents[2]
PAGE = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("jobs.md", "clusters.md"))
SMALL = "{model: '${env:MALMM_MODEL}', segment_s: 4, fps: 1, bank_length: 2, max_new_tokens: 4}"


def blocks() -> list[tuple[str, str]]:
    return re.findall(r"^```(sh|yaml)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server() -> Iterator[JobServer]:
    with serving() as made:
        yield made


def first_scheduled(place: Path, job: str) -> RunRecord | None:
    """The first run of a job that its schedule began and that is done; others may have followed."""
    runs = [
        run for run in read_runs(str(place), job=job) if (run.status, run.trigger) == ("done", "schedule")
    ]
    return min(runs, key=lambda run: run.started, default=None)


def lines() -> Iterator[tuple[str, str]]:
    """The page's files and its commands, with the model that is in the environment."""
    for kind, block in blocks():
        for line in [block] if kind == "yaml" else block.splitlines():
            yield kind, line.replace("${MALMM_MODEL:-demo}", "debug")


def stopped(service: Session) -> list[str]:
    """End a service, and give what it said."""
    service.process.send_signal(signal.SIGTERM)
    assert service.wait() == 0, service.errors.read_text()
    assert service.end() == []
    said = service.errors.read_text().splitlines()
    assert "stopped" in said[-1]
    return said


def scheduled(line: str, folder: Path, archive: Path) -> None:
    """The service as a process, stopped in the middle of its first run and started again."""
    # Whoever waits for it shall not wait ten seconds.
    options = shlex.split(line.replace("*/10", "*"))[1:]
    notes, gate = folder / "notes", Gate(folder)
    notes.mkdir()
    service = Session(gate.command(*options, ray=False), notes)
    until(gate.is_reached, going=service.ended)
    stopped(service)
    [cut] = read_runs(str(archive), job="nightly")
    assert (cut.status, cut.exit_code, cut.trigger) == ("interrupted", 130, "schedule")
    gate.open()
    again = Session(gate.command(*options, ray=False), notes)
    run = until(lambda: first_scheduled(archive, "nightly"), going=again.ended)
    assert any("catching up" in each for each in stopped(again))
    assert run.kinds == ("index", "annotate", "optimize")
    assert (run.counts["videos_indexed"], run.counts["videos_unchanged"]) == (1, 2)
    # Two prompts for a segment and the whole of each of three videos.
    assert run.counts["texts"] == 12


def test_the_page_goes_from_nothing_to_a_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line but the one that submits. Jobs run their stages in this process, but for those of the service."""
    archive, said = tmp_path / "archive", {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MALMM_MODEL", "debug")
    InlineStages().install(monkeypatch)
    assert sum(line.startswith("malmm ") for _, line in lines()) > 12
    for kind, line in lines():
        if kind == "yaml":
            Path("job.yaml").write_text(line)
        elif line.startswith("malmm schedule"):
            scheduled(line, tmp_path, archive)
        elif line.startswith("malmm "):
            if not line.startswith("malmm submit"):
                done = run_here(*shlex.split(line)[1:])
                assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
                said[line] = done.stdout
        else:
            subprocess.run(["bash", "-ec", line], check=True)
    reader = ArchiveReader.open(str(archive))
    assert len(reader.completed_videos()) == 3
    texts = reader.annotations().to_pylist()
    for name in ("caption", "colour", "moving"):
        assert {row["video_id"] for row in texts if row["prompt_name"] == name} == set(
            reader.completed_videos()
        )
    assert {row["text"] for row in texts if row["prompt_name"] == "moving"} <= {"yes", "no"}
    assert "schedule" in said["malmm runs --archive archive --job nightly"]
    assert "2 indexed" in said["malmm status --archive archive"]
    assert "colour" in said["malmm export --archive archive --format jsonl --prompt colour"]
    assert Path("report.html").read_text().startswith("<!doctype html>")


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A submission to a head whose agent has no port. Ray answers it after ten seconds, for which nobody need wait."""
    job = tmp_path_factory.mktemp("refused") / "job.yaml"
    job.write_text("archive: a\noptimize:\n")
    # In a process of its own, since Ray looks for a token once.
    program = (
        "import sys, pathlib; from malmm.jobs.clusters import submitting; submitting._AGENTS_WITHIN_S = 0.0;"
        "submitting.submit(pathlib.Path(sys.argv[1]), sys.argv[2], say=print)"
    )
    with socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        with (
            serving(cpus=0, agent=taken.getsockname()[1]) as server,
            subprocess.Popen(
                [sys.executable, "-c", program, str(job), server.address],
                env=server.environment,
                stderr=subprocess.PIPE,
                text=True,
            ) as process,
        ):
            yield process


@pytest.mark.usefixtures("refused")
def test_a_submitted_job_exits_as_it_ended_and_is_measured(tmp_path: Path, server: JobServer) -> None:
    """The page's line, with paths of the cluster's."""
    assert run_here("demo-videos", tmp_path / "videos", "--count", "1", "--minutes", "0.1").returncode == 0
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "job.yaml").write_text(f"archive: {tmp_path / 'archive'}\nindex: {SMALL}\n")
    [line] = [line for _, line in lines() if line.startswith("malmm submit")]
    words = shlex.split(line.replace("http://127.0.0.1:8265", server.address))[1:]
    words += ["--json", "--env", "MALMM_MODEL", "--set", f"index.sources={tmp_path / 'videos'}"]
    wanted = {f"ray_{name}" for name in METRICS}
    seen: set[str] = set()
    with subprocess.Popen(
        command(*words, "--set", "index.segment_s=1"),
        cwd=tmp_path,
        env=server.environment | {"MALMM_MODEL": "debug"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def looked_at_the_end() -> bool:
            """Read the page once more. A gauge is on it once for each time that it is set."""
            ended = process.poll() is not None
            try:
                with urlopen(server.metrics, timeout=60) as answer:  # noqa: S310 - our own server
                    page = answer.read().decode()
            except URLError:
                # The head's agent, whose page it is, comes up after its job server.
                page = ""
            seen.update(name for name in wanted if name in page)
            return ended

        until(looked_at_the_end)
        assert process.stdout is not None
        said = process.stdout.read()
    # One video failed, which is the exit code of the job, and so of the submission.
    assert process.returncode == 3, said
    summary = json.loads(said[said.index("\n{\n") :])
    assert summary["status"] == "some_failed"
    assert summary["counts"]["videos_indexed"] == 1
    assert summary["counts"]["failed.not_a_video"] == 1
    assert wanted - seen == set()
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"ray_malmm_\w+", target["expr"])
    }
    assert asked <= wanted
    assert asked != set()


def test_a_head_whose_agent_has_no_port_is_told_how_to_get_one(refused: subprocess.Popen[str]) -> None:
    _, errors = refused.communicate()
    assert refused.returncode == 1
    assert re.search(r"no job agent .* --dashboard-agent-listen-port", errors.splitlines()[-1]), errors


def test_a_submission_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("archive: a\noptimize:\n")
    done = run_here("submit", job, "--address", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot submit to http://127.0.0.1:9" in done.stderr
    assert run_here("submit", job).returncode == 2
