"""A Ray head with its job server, as a cluster has it, started by Ray's own command."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from support.lean_ray import head_with_jobs
from support.waiting import until

__all__ = ["JobServer", "serving"]


@dataclass(frozen=True)
class JobServer:
    """``address`` is of the job server, ``metrics`` of the page that Prometheus reads; ``environment`` reaches it."""

    address: str
    metrics: str
    environment: dict[str, str]


def _free_ports(count: int) -> list[int]:
    import socket

    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def serving(cpus: int = 2, agent: int | None = None) -> Iterator[JobServer]:
    """A head of so many CPUs, whose agent listens on a free port, or where it is told, then with old metrics."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    gcs, dashboard, metrics, client, free = _free_ports(5)
    bin_folder = str(Path(sys.executable).parent)
    environment = os.environ | {
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # The agent that installs a job's packages runs `pip` by that name.
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_metrics_report_interval_ms": "500" if agent is None else "10000",
        # Ray's own, and not that of the other tests.
        "REPORTER_UPDATE_INTERVAL_MS": "5000",
        # As docs/jobs.md says for small nodes: idle workers are kept.
        "RAY_num_workers_soft_limit": "10",
        "HF_HUB_OFFLINE": "1",
    }
    environment.pop("RAY_ADDRESS", None)
    options = [
        "--head", "--block", f"--port={gcs}", f"--num-cpus={cpus}", "--object-store-memory=200000000",
        "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        # Its port is fixed unless told, and a head that finds it taken, by any Ray on the machine, never takes a job.
        f"--dashboard-agent-listen-port={agent or free}",
        f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}", f"--temp-dir={folder}",
        "--disable-usage-stats",
    ]  # fmt: skip
    said = folder / "said.txt"
    with said.open("w") as written:
        process = subprocess.Popen(
            head_with_jobs(*options),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{dashboard}"
        until(
            lambda: _answers(f"{address}/api/version"),
            going=lambda: None if process.poll() is None else said.read_text(),
        )
        yield JobServer(
            address,
            f"http://127.0.0.1:{metrics}/metrics",
            environment,
        )
    finally:
        _kill_session(process.pid)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2):  # noqa: S310 - our own server
            return True
    except URLError as error:
        # It asks for the token, so it is there.
        return getattr(error, "code", 0) in (401, 403)
    except OSError:
        return False


def _kill_session(session: int) -> None:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError):
                stat = entry.joinpath("stat").read_text().rpartition(")")[2].split()
                if int(stat[3]) == session:
                    os.kill(int(entry.name), signal.SIGKILL)
