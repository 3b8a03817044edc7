"""Jobs on a Ray cluster, through its job server: sent with the package, followed to their ends."""

from __future__ import annotations

import logging
import shlex
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malmm.jobs.clusters.wheel import write_wheel
from malmm.jobs.extras import needing
from malmm.pipeline.schema.errors import WorkerError
from malmm.pipeline.schema.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, worst_code

__all__ = ["Submission", "submit"]

_LOOK_EVERY_S = 1.0
_AGENTS_WITHIN_S, _AGENTS_POLL_S = 120.0, 2.0
_JOB_FILE = "job.yaml"


@dataclass(frozen=True)
class Submission:
    """A job to send: further ``options`` of ``malmm run``, and how its lines in the log of several are marked."""

    options: Sequence[str] = ()
    label: str = ""


def submit(
    job_file: Path,
    address: str,
    *,
    jobs: Sequence[Submission] = (Submission(),),
    variables: dict[str, str] | None = None,
    wheel: Path | None = None,
    wait: bool = True,
    say: Callable[[str], None],
) -> tuple[list[str], int]:
    """Send a job file to the cluster and run it there, once or as several jobs at the same time.

    Returns the submissions' ids and the worst exit code of the jobs. ``variables`` go to the jobs' environment. ``say``
    gets the logs as they grow. Without ``wait`` the code is 0 as soon as the jobs are taken. Interrupted, the jobs are
    stopped. Raises ConfigError where Ray has no job client here, and WorkerError when the cluster cannot be reached.
    """
    with needing("cluster", "`malmm submit`"):
        # Ray's client imports without them, and fails at its first call.
        import aiohttp  # noqa: F401
        import requests  # noqa: F401
        from ray.exceptions import AuthenticationError
        from ray.job_submission import JobSubmissionClient
    followed: list[_Followed] = []
    with tempfile.TemporaryDirectory(prefix="malmm-submit-") as name:
        folder = Path(name)
        sent = folder / "sent"
        sent.mkdir()
        (sent / _JOB_FILE).write_bytes(job_file.read_bytes())
        if wheel is None:
            wheel = write_wheel(folder)
        environment = {"working_dir": str(sent), "py_modules": [str(wheel)], "env_vars": variables or {}}
        # What it uploads is no news to whoever waits for the job's log.
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
        logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
        try:
            client = JobSubmissionClient(address)
            for job in jobs:
                # Not `malmm`: the wheel comes without its script.
                command = shlex.join(["python", "-m", "malmm.jobs.cli", "run", _JOB_FILE, *job.options])
                followed.append(
                    _Followed(client, _submitted(client, command, environment, say), job.label, say)
                )
                followed[-1].say_line(f"submitted {followed[-1].identity} to {address}")
        except KeyboardInterrupt:
            for each in followed:
                each.stop()
            raise
        except AuthenticationError as error:
            raise WorkerError(
                f"cannot submit to {address}: it asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the "
                "cluster's, which its head has as a variable or in ~/.ray/auth_token"
            ) from error
        except Exception as error:
            # All of them: the client raises RuntimeError, ConnectionError and what requests has.
            reason = " ".join(str(error).split())[:400]
            already = f" ({', '.join(each.identity for each in followed)} run already)" if followed else ""
            raise WorkerError(f"cannot submit to {address}: {reason}{already}") from error
    return [each.identity for each in followed], _follow(followed) if wait else EXIT_OK


def _submitted(client: Any, command: str, environment: dict[str, Any], say: Callable[[str], None]) -> str:
    """The job's id. The agents of a cluster that has just begun come up some time after its job server."""
    until = time.monotonic() + _AGENTS_WITHIN_S
    told = False
    while True:
        try:
            return str(client.submit_job(entrypoint=command, runtime_env=environment))
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise
            if time.monotonic() > until:
                # Ray keeps the agent alive without its port, and says so in a log of the head only.
                raise RuntimeError(
                    f"its head has had no job agent for {_AGENTS_WITHIN_S:.0f} s; where another Ray of the machine "
                    "has the agent's port, start the head with --dashboard-agent-listen-port of its own"
                ) from error
        if not told:
            say("the cluster is still starting: waiting for it to take jobs")
            told = True
        time.sleep(_AGENTS_POLL_S)


def _follow(jobs: Sequence[_Followed]) -> int:
    """Say what jobs write until all have ended, and return the worst exit code. Interrupted, stop them."""
    try:
        while True:
            codes = [each.look() for each in jobs]
            ended = [code for code in codes if code is not None]
            if len(ended) == len(jobs):
                return worst_code(ended)
            time.sleep(_LOOK_EVERY_S)
    except KeyboardInterrupt:
        for each in jobs:
            each.stop()
        return EXIT_INTERRUPTED


@dataclass
class _Followed:
    """A submitted job whose log is said as it grows."""

    client: Any
    identity: str
    label: str
    say: Callable[[str], None]
    shown: int = 0
    code: int | None = None

    def say_line(self, text: str) -> None:
        """Say text of one line or several, each marked with the job's label."""
        marked = f"{self.label}: " if self.label else ""
        self.say("\n".join(marked + line for line in text.split("\n")))

    def look(self) -> int | None:
        """Say what is new. Returns the job's exit code, one of ``malmm run``'s, once it has ended."""
        if self.code is not None:
            return self.code
        try:
            # The status first: what was written before the end is in the log then.
            info = self.client.get_job_info(self.identity)
            log = self.client.get_job_logs(self.identity)
        except (RuntimeError, OSError) as error:
            raise WorkerError(
                f"lost sight of {self.identity}, which may go on: {error}; `ray job status {self.identity}` tells"
            ) from error
        over = info.status.is_terminal()
        ready = len(log) if over else log.rfind("\n") + 1
        if ready > self.shown:
            self.say_line(log[self.shown : ready].rstrip("\n"))
            self.shown = ready
        self.code = self._code(info) if over else None
        return self.code

    def stop(self) -> None:
        """Stop the job, if it still runs."""
        if self.code is None:
            self.client.stop_job(self.identity)

    def _code(self, info: Any) -> int:
        if info.status == "SUCCEEDED":
            return EXIT_OK
        if info.status == "STOPPED":
            return EXIT_INTERRUPTED
        code = info.driver_exit_code
        if code is None:
            self.say_line(f"{self.identity} failed: {info.message}")
        return code if code is not None and 0 < code < 256 else EXIT_FAILED
