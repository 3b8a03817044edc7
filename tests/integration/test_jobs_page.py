"""docs/jobs.md and docs/clusters.md, step by step; and jobs on a real Ray head with its job server."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from socket import socket
from urllib.request import urlopen

import pytest
from support.held_run import Gate
from support.job_server import JobServer, serving
from support.processes import run_cli
from support.waiting import until

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.run_history import RunRecord, read_runs
from malmm.pipeline.indexing.metrics import METRICS

ROOT = Path(__file__).parents[2]
PAGE = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("jobs.md", "clusters.md"))
SMALL = "{model: debug, segment_s: 4, fps: 1, bank_length: 2, max_new_tokens: 4}"


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


def shell(line: str, folder: Path, given: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=given, capture_output=True, text=True, check=False
    )


def on_path(folder: Path, program: Sequence[str], given: dict[str, str]) -> dict[str, str]:
    """The environment with a command `malmm` that runs this program."""
    folder.mkdir()
    command = folder / "malmm"
    command.write_text(f'#!/bin/sh\nexec {shlex.join(program)} "$@"\n')
    command.chmod(0o755)
    return given | {"PATH": f"{folder}:{given['PATH']}"}


def test_the_page_goes_from_nothing_to_a_schedule(tmp_path: Path, server: JobServer) -> None:
    """Every line as a process. Jobs run their stages in it, but for the one that is submitted to a cluster."""
    archive, gate = tmp_path / "archive", Gate(tmp_path)
    gate.open()
    given = server.environment | {"MALMM_MODEL": "debug"}
    running = on_path(tmp_path / "bin", gate.command(ray=False), given)
    said = {}
    lines = [
        (kind, line)
        for kind, block in blocks()
        for line in ([block] if kind == "yaml" else block.splitlines())
    ]
    assert sum(line.startswith("malmm ") for _, line in lines) > 12
    for kind, line in lines:
        if kind == "yaml":
            (tmp_path / "job.yaml").write_text(line)
        elif line.startswith("malmm schedule"):
            with subprocess.Popen(
                ["bash", "-c", f"exec {line}"],
                cwd=tmp_path,
                env=running,
                stderr=subprocess.PIPE,
                text=True,
            ) as service:
                run = until(
                    lambda: first_scheduled(archive, "nightly"),
                    going=lambda: None if service.poll() is None else f"it ended with {service.returncode}",
                )
                service.send_signal(signal.SIGTERM)
                _, errors = service.communicate(timeout=900)
            assert service.returncode == 0, errors
            assert run is not None
            assert "stopped" in errors.splitlines()[-1]
            assert run.kinds == ("index", "annotate", "optimize")
            assert (run.counts["videos_indexed"], run.counts["videos_unchanged"]) == (1, 2)
            # Two prompts for a segment and the whole of each of three videos.
            assert run.counts["texts"] == 12
        elif line.startswith("malmm submit"):
            # On the cluster, paths are the cluster's.
            there = line.replace("http://127.0.0.1:8265", server.address)
            there += f" --set archive={archive} --set steps.0.index.sources={tmp_path / 'videos'} --env MALMM_MODEL"
            done = shell(there, tmp_path, given)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "3 unchanged, 3 listed" in done.stdout
        else:
            done = shell(line, tmp_path, running if line.startswith("malmm run ") else given)
            assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
            said[line] = done.stdout
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
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_a_submitted_job_exits_as_it_ended_and_is_measured(tmp_path: Path, server: JobServer) -> None:
    assert run_cli("demo-videos", tmp_path / "videos", "--count", "1", "--minutes", "0.2").returncode == 0
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    job = tmp_path / "job.yaml"
    job.write_text(f"archive: {tmp_path / 'archive'}\nindex: {SMALL}\n")
    wanted = {f"ray_{name}" for name in METRICS}
    seen: set[str] = set()
    with subprocess.Popen(
        [sys.executable, "-m", "malmm.jobs.cli", "submit", str(job), "--address", server.address, "--json",
         "--set", f"index.sources={tmp_path / 'videos'}", "--set", "index.segment_s=1"],
        env=server.environment, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip

        def looked_at_the_end() -> bool:
            """Read the page once more. A gauge is on it once for each time that it is set."""
            ended = process.poll() is not None
            with urlopen(server.metrics, timeout=60) as answer:  # noqa: S310 - our own server
                page = answer.read().decode()
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


def test_a_head_whose_agent_has_no_port_is_told_how_to_get_one(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("archive: a\noptimize:\n")
    # In a process of its own, since Ray looks for a token once.
    program = (
        "import sys, pathlib; from malmm.jobs.clusters import submitting; submitting._AGENTS_WITHIN_S = 0.0;"
        "submitting.submit(pathlib.Path(sys.argv[1]), sys.argv[2], say=print)"
    )
    with socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        with serving(agent=taken.getsockname()[1]) as server:
            done = subprocess.run(
                [sys.executable, "-c", program, job, server.address],
                env=server.environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
    said = done.stderr.splitlines()[-1]
    assert re.search(r"no job agent .* --dashboard-agent-listen-port", said), done.stderr


def test_a_submission_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("archive: a\noptimize:\n")
    done = run_cli("submit", job, "--address", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot submit to http://127.0.0.1:9" in done.stderr
    assert run_cli("submit", job).returncode == 2
