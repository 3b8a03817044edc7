"""Running the command line, in this process or in one of its own, and ending that with all that it started."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from malmm.jobs.cli import main

__all__ = ["Ended", "Session", "command", "end_decoding_process", "run_cli", "run_here"]


def command(*options: str | Path) -> list[str]:
    return [sys.executable, "-m", "malmm.jobs.cli", *map(str, options)]


def run_cli(*options: str | Path, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
    """Run ``malmm`` to its end, offline."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        command(*options), capture_output=True, text=True, check=False, timeout=timeout_s, env=environment
    )


@dataclass(frozen=True)
class Ended:
    """How a command ended, with the names of ``subprocess.CompletedProcess``."""

    returncode: int
    stdout: str
    stderr: str


def run_here(*options: str | Path) -> Ended:
    """Run ``malmm`` to its end in this process, which saves loading everything anew."""
    before = signal.getsignal(signal.SIGTERM)
    output, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            try:
                code = main([*map(str, options)])
            except SystemExit as leaving:
                # As argparse leaves.
                code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    finally:
        signal.signal(signal.SIGTERM, before)
    return Ended(code, output.getvalue(), errors.getvalue())


def end_decoding_process() -> None:
    """Kill the process that decodes for this one. The next takes on the environment as it is then."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int(entry.joinpath("stat").read_text().rpartition(")")[2].split()[1])
                if parent == os.getpid() and b"media.sandbox" in entry.joinpath("cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)


class Session:
    """A ``malmm`` process in a session of its own, so that whatever it starts can be found and ended.

    ``arguments`` are all of the process's; ``command`` makes them of the command line's options.
    """

    begun: ClassVar[list[Session]] = []

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        self.output, self.errors = folder / "stdout.txt", folder / "stderr.txt"
        with self.output.open("w") as output, self.errors.open("w") as errors:
            self.process = subprocess.Popen(arguments, stdout=output, stderr=errors, start_new_session=True)
        self.begun.append(self)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def ended(self) -> str | None:
        """What it said last, if it is over: the reason to wait no longer for what it does."""
        return (
            None
            if self.alive
            else f"the command ended with {self.process.returncode}: {self.errors.read_text()}"
        )

    def wait(self, timeout_s: float = 900) -> int:
        return self.process.wait(timeout_s)

    def signal_group(self, number: int) -> None:
        """To the process group, as a terminal's Ctrl-C or a scheduler's kill goes."""
        os.killpg(self.process.pid, number)

    def members(self) -> list[int]:
        """The processes of the session that are still there, zombies left out."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                state, _, _, session = entry.joinpath("stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(session) == self.process.pid and state != "Z":
                found.append(int(entry.name))
        return found

    def end(self, within_s: float = 600) -> list[int]:
        """Wait for the session's processes to end by themselves; kill the rest and give their ids.

        The limit is no measure of speed: a worker of Ray that was just starting looks for its cluster for 25 seconds
        before it gives up, and a busy machine takes its time.
        """
        until = time.monotonic() + within_s
        while (left := self.members()) and time.monotonic() < until:
            time.sleep(0.1)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        return left

    @classmethod
    def end_all(cls) -> None:
        """Kill what a failed test left, which would take the processors from the tests that follow."""
        while cls.begun:
            session = cls.begun.pop()
            session.end(within_s=0)
            session.wait()
