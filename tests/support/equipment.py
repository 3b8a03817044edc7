"""What some tests need of the machine beside Python: whether it is there, and how to get it.

A test says ``@pytest.mark.needs("browser")``. It is skipped where that is missing, and the run says so at its end.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["NEEDS", "Need", "browser_program", "missing"]

_BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
# Playwright's own folder, looked up before tests have a cache of their own.
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_PLAYWRIGHT = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or _CACHE / "ms-playwright")


@dataclass(frozen=True)
class Need:
    """``name`` with its article, ``get`` for how to get it, ``there`` for whether this machine has it."""

    name: str
    get: str
    there: Callable[[], bool]

    @property
    def reason(self) -> str:
        """Why a test is skipped."""
        return f"needs {self.name}: {self.get}"


@functools.cache
def browser_program() -> Path | None:
    """A Chromium: the system's, else the newest of Playwright's own."""
    for name in _BROWSERS:
        if found := shutil.which(name):
            return Path(found)
    own = [*_PLAYWRIGHT.glob("chromium-*/chrome-linux*/chrome")]
    own += _PLAYWRIGHT.glob("chromium-*/chrome-mac*/Chromium.app/Contents/MacOS/Chromium")
    return max(own, default=None, key=lambda path: path.stat().st_mtime)


def _small_disks() -> bool:
    unshare = shutil.which("unshare")
    if unshare is None:
        return False
    mount = [unshare, "-Urm", "sh", "-c", "mount -t tmpfs -o size=1m none /mnt"]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


def _package(name: str) -> Need:
    return Need(
        f"the package {name}",
        f"`pip install {name}`",
        lambda: importlib.util.find_spec(name) is not None,
    )


NEEDS = {
    **{name: _package(name) for name in ("adlfs", "gcsfs", "paramiko", "sshfs", "webdav4")},
    "browser": Need(
        "a Chromium browser",
        "`playwright install chromium`, or the system's package (`apt-get install chromium`)",
        lambda: browser_program() is not None,
    ),
    "clock": Need(
        "Linux and a C compiler, for a process with a clock of its own",
        "the system's package `gcc`",
        lambda: sys.platform.startswith("linux") and shutil.which("cc") is not None,
    ),
    "compiler": Need(
        "a C++ compiler",
        "the system's package `g++`, or CXX set to another one",
        lambda: shutil.which(os.environ.get("CXX", "g++")) is not None,
    ),
    "meteor": Need(
        "pycocoevalcap and Java",
        "`pip install pycocoevalcap`, and the system's package `default-jre-headless`",
        lambda: importlib.util.find_spec("pycocoevalcap") is not None and shutil.which("java") is not None,
    ),
    "small disk": Need(
        "a small file system of its own",
        "`unshare` of util-linux, on a kernel that lets users make namespaces",
        _small_disks,
    ),
    "proc": Need(
        "a file system that refuses everyone, as /proc does", "run on Linux", Path("/proc/self").exists
    ),
    "ordinary user": Need(
        "a user who may not write everywhere", "run as somebody else than root", lambda: os.geteuid() != 0
    ),
}


@functools.cache
def missing(name: str) -> str | None:
    """The reason to skip a test that needs ``name``; None where it is there."""
    need = NEEDS[name]
    return None if need.there() else need.reason
