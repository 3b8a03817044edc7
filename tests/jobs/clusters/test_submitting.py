"""Several jobs followed together, at a job server of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import AuthenticationError

from malmm.jobs.cli import main
from malmm.jobs.clusters import submitting
from malmm.jobs.clusters.submitting import Submission, submit
from malmm.jobs.commands import submit as command
from malmm.jobs.files.loading import load
from malmm.pipeline.schema.errors import ConfigError, WorkerError


@dataclass(frozen=True)
class Status(str):
    """As ``ray.job_submission.JobStatus``: a text that knows whether it is the last."""

    text: str

    def __eq__(self, other: object) -> bool:
        return self.text == other

    __hash__ = str.__hash__

    def is_terminal(self) -> bool:
        """Whether the job has ended."""
        return self.text in ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass
class Info:
    """What the server says of a job."""

    status: Status
    driver_exit_code: int | None
    message: str = "it was killed"


@dataclass
class Server:
    """Takes jobs, in the place of Ray's client; each has written one more line whenever it is looked at."""

    codes: list[int | None]
    refuses_from: int = 99
    interrupts_at: int = 999
    sent: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    looks: dict[str, int] = field(default_factory=dict)

    def submit_job(self, *, entrypoint: str, runtime_env: dict[str, Any]) -> str:
        """Take a job."""
        if len(self.sent) >= self.refuses_from:
            raise ConnectionError("the head is gone")
        assert Path(runtime_env["working_dir"], "job.yaml").read_text() == "archive: a"
        self.sent.append(entrypoint)
        return f"job-{len(self.sent) - 1}"

    def get_job_info(self, identity: str) -> Info:
        """Ended once it has written as many lines as its number and one."""
        number = int(identity.removeprefix("job-"))
        looks = self.looks[identity] = self.looks.get(identity, 0) + 1
        if sum(self.looks.values()) == self.interrupts_at:
            raise KeyboardInterrupt
        code = self.codes[number]
        ended = "SUCCEEDED" if code == 0 else "FAILED"
        return Info(Status(ended if looks > number else "RUNNING"), code)

    def get_job_logs(self, identity: str) -> str:
        """All of its log so far."""
        return "".join(f"line {each}\n" for each in range(self.looks[identity]))

    def stop_job(self, identity: str) -> None:
        """Stop it."""
        self.stopped.append(identity)


@pytest.fixture
def send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    job = tmp_path / "job.yaml"
    job.write_text("archive: a")
    wheel = tmp_path / "malmm.whl"
    wheel.touch()
    monkeypatch.setattr(submitting, "_LOOK_EVERY_S", 0.0)
    said: list[str] = []

    def run(server: Server, *, wait: bool = True, labels: tuple[str, ...] = ("a", "b")) -> Any:
        monkeypatch.setattr("ray.job_submission.JobSubmissionClient", lambda address: server)
        jobs = [Submission(["--partition", str(number)], label) for number, label in enumerate(labels)]
        return submit(job, "http://head", jobs=jobs, wheel=wheel, wait=wait, say=said.append), said

    return run


@pytest.mark.parametrize(
    ("codes", "code"), [([0, 0], 0), ([3, 0], 3), ([3, 1], 1), ([0, None], 1), ([0, 137], 137)]
)
def test_jobs_run_at_once_and_the_worst_code_is_all_of_theirs(
    send: Any, codes: list[int | None], code: int
) -> None:
    server = Server(codes)
    (identities, found), said = send(server)
    assert (identities, found) == (["job-0", "job-1"], code)
    assert [each.rpartition(" run job.yaml ")[2] for each in server.sent] == [
        "--partition 0",
        "--partition 1",
    ]
    told = [line for each in said for line in each.split("\n")]
    assert told[:2] == ["a: submitted job-0 to http://head", "b: submitted job-1 to http://head"]
    # No line is lost or said twice, and none is without its job's label.
    assert [line for line in told if line.startswith("a: line")] == ["a: line 0"]
    assert [line for line in told if line.startswith("b: line")] == ["b: line 0", "b: line 1"]
    assert ("b: job-1 failed: it was killed" in told) == (None in codes)


def test_one_job_has_no_label_and_need_not_be_waited_for(send: Any) -> None:
    (identities, code), said = send(Server([1]), wait=False, labels=("",))
    assert (identities, code, said) == (["job-0"], 0, ["submitted job-0 to http://head"])


def test_an_interruption_stops_those_that_go_on(send: Any) -> None:
    server = Server([0, 0, 0], interrupts_at=4)
    (_, code), _ = send(server, labels=("a", "b", "c"))
    assert code == 130
    assert server.stopped == ["job-1", "job-2"]


def test_a_server_that_goes_away_leaves_word_of_what_runs(send: Any) -> None:
    with pytest.raises(WorkerError, match=r"the head is gone \(job-0 run already\)"):
        send(Server([0, 0], refuses_from=1))


def test_a_cluster_that_asks_for_a_token_says_where_it_goes(
    send: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(**_: object) -> str:
        raise AuthenticationError("Authentication required: Unauthorized. " * 20)

    server = Server([0])
    monkeypatch.setattr(server, "submit_job", refused)
    with pytest.raises(
        WorkerError, match=r"^cannot submit to http://head: it asks for a token: set RAY_AUTH_MODE"
    ):
        send(server)


@pytest.mark.parametrize(("given", "run"), [([], []), (["--dry-run"], ["--dry-run"])])
def test_a_dry_run_is_one_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], run: list[str]
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("archive: s3://index/films\nindex: {sources: v}\ncluster: {address: http://head:8265}\n")
    sent: list[Submission] = []

    def submit(job: Path, address: str, *, jobs: list[Submission], **_: object) -> tuple[list[str], int]:
        sent.extend(jobs)
        return [], 0

    monkeypatch.setattr(submitting, "submit", submit)
    assert main(["submit", str(path), "--set", "index.fps=2", *given]) == 0
    assert [each.options for each in sent] == [["--set", "index.fps=2", *run, "--log-format", "text"]]


def test_each_partition_is_a_job_with_its_part_of_the_share(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("archive: a\npartitions: 4\nindex: {sources: v}\ncluster: {share: 0.5}\n")
    job = load(str(path)).job
    each = command._each_job(job, None)
    assert [label for label, _ in each] == ["part-0000", "part-0001", "part-0002", "part-0003"]
    assert each[3][1] == ["--partition", "3", "--set", "cluster.share=0.125"]
    assert command._each_job(job, 2) == [each[2]]
    for number, (_, options) in enumerate(each):
        step = load(str(path), sets=options[3:], partition=int(options[1])).steps[0].config
        assert (step.cluster.share, step.partition.index) == (0.125, number)
    with pytest.raises(ConfigError, match="--partition 4: from 0 to 3"):
        command._each_job(job, 4)
    path.write_text("archive: a\nindex: {sources: v}\n")
    assert command._each_job(load(str(path)).job, None) == [("", [])]
    with pytest.raises(ConfigError, match="has no partitions"):
        command._each_job(load(str(path)).job, 0)
