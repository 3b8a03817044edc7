"""A job on a Ray cluster, through its job server: sent with the package, followed to its end."""

from __future__ import annotations

import logging
import shlex
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from malmm.jobs.clusters.wheel import write_wheel
from malmm.jobs.extras import needing
from malmm.pipeline.schema.errors import WorkerError
from malmm.pipeline.schema.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK

__all__ = ["submit"]

_LOOK_EVERY_S = 1.0
_AGENTS_WITHIN_S, _AGENTS_POLL_S = 120.0, 2.0
_JOB_FILE = "job.yaml"


def submit(
    job_file: Path,
    address: str,
    *,
    options: Sequence[str] = (),
    variables: dict[str, str] | None = None,
    wheel: Path | None = None,
    wait: bool = True,
    say: Callable[[str], None],
) -> tuple[str, int]:
    """Send a job file to the cluster and run it there; the submission's id and the exit code of the job.

    ``options`` are further options of ``malmm run``, ``variables`` go to the job's environment. ``say`` gets the log as
    it grows. Without ``wait`` the code is 0 as soon as the job is taken. Interrupted, the job is stopped. Raises
    ConfigError where Ray has no job client here, and WorkerError when the cluster cannot be reached.
    """
    with needing("cluster", "`malmm submit`"):
        # Ray's client imports without them, and fails at its first call.
        import aiohttp  # noqa: F401
        import requests  # noqa: F401
        from ray.job_submission import JobSubmissionClient
    with tempfile.TemporaryDirectory(prefix="malmm-submit-") as name:
        folder = Path(name)
        sent = folder / "sent"
        sent.mkdir()
        (sent / _JOB_FILE).write_bytes(job_file.read_bytes())
        if wheel is None:
            wheel = write_wheel(folder)
        # Not `malmm`: the wheel comes without its script.
        command = shlex.join(["python", "-m", "malmm.jobs.cli", "run", _JOB_FILE, *options])
        environment = {"working_dir": str(sent), "py_modules": [str(wheel)], "env_vars": variables or {}}
        # What it uploads is no news to whoever waits for the job's log.
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.WARNING)
        logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
        try:
            client = JobSubmissionClient(address)
            identity = _submitted(client, command, environment, say)
        except Exception as error:
            # All of them: the client raises RuntimeError, ConnectionError and what requests has.
            reason = " ".join(str(error).split())[:400]
            raise WorkerError(f"cannot submit to {address}: {reason}") from error
    say(f"submitted {identity} to {address}")
    return identity, _followed(client, identity, say) if wait else EXIT_OK


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


def _followed(client: Any, identity: str, say: Callable[[str], None]) -> int:
    shown = 0
    try:
        while True:
            # The status first: what was written before the end is in the log then.
            info = client.get_job_info(identity)
            log = client.get_job_logs(identity)
            ready = len(log) if info.status.is_terminal() else log.rfind("\n") + 1
            if ready > shown:
                say(log[shown:ready].rstrip("\n"))
                shown = ready
            if info.status.is_terminal():
                break
            time.sleep(_LOOK_EVERY_S)
    except KeyboardInterrupt:
        client.stop_job(identity)
        return EXIT_INTERRUPTED
    except (RuntimeError, OSError) as error:
        raise WorkerError(
            f"lost sight of {identity}, which may go on: {error}; `ray job status {identity}` tells"
        ) from error
    if info.status == "SUCCEEDED":
        return EXIT_OK
    if info.status == "STOPPED":
        return EXIT_INTERRUPTED
    code = info.driver_exit_code
    if code is None:
        say(f"{identity} failed: {info.message}")
    return code if code is not None and 0 < code < 256 else EXIT_FAILED
