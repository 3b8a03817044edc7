"""What this machine has and lacks for malmm-ray: a finding for each thing that some command needs.

Nothing is installed, started or changed. The one file that is written, to see whether a store can be written, is
deleted at once. No finding holds a credential or the value of an environment variable.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

from malmm.jobs.extras import EXTRAS, install_command
from malmm.jobs.own_version import own_version
from malmm.jobs.terminal.text import size
from malmm.pipeline.archive.location import check_writable, is_local, resolve
from malmm.pipeline.archive.store_check import check_store
from malmm.pipeline.cluster.equipment import this_machine
from malmm.pipeline.schema.errors import MalmmError

__all__ = ["Finding", "findings", "hub_finding", "store_finding"]

#: The packages whose versions matter in a report of a bug.
PACKAGES = ("ray", "pylance", "lancedb", "pyarrow", "torch", "transformers", "av", "numpy")
_HUB = "https://huggingface.co"
_HUB_WITHIN_S = 5.0
# Ray keeps decoded frames in shared memory, and takes a slower folder where there is less.
_LEAST_SHARED_BYTES = 2 * 2**30
_BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


@dataclass(frozen=True)
class Finding:
    """One thing: its ``state`` (ok, missing or wrong), what was found, and what to do where it is not ok.

    ``needed`` says that no run works without it; all else is for some commands.
    """

    name: str
    state: str
    found: str
    advice: str = ""
    needed: bool = False


def findings(archive: str = "", *, hub: bool = True) -> Iterator[Finding]:
    """Look at this machine, one thing after the other.

    With an ``archive`` (a path or address), also whether it can be written to safely. ``hub=False`` connects to
    nothing.
    """
    yield Finding("malmm-ray", "ok", own_version())
    yield _python()
    yield Finding("system", "ok", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield from map(_package, PACKAGES)
    yield from _machine()
    yield from map(_extra, EXTRAS)
    for name, programs, advice in (
        ("player", ("mpv", "vlc"), "`malmm search --open` needs mpv or VLC"),
        ("Java", ("java",), "METEOR of `malmm evaluate` needs it; all other figures do not"),
        ("browser", _BROWSERS, "only the tests of the page need Chromium"),
    ):
        path = next(filter(None, map(shutil.which, programs)), None)
        yield Finding(name, "ok" if path else "missing", path or "not on the PATH", "" if path else advice)
    if hub:
        yield hub_finding()
    if archive:
        yield store_finding(archive)


def hub_finding(open_url: Callable[..., object] = urllib.request.urlopen) -> Finding:
    """Whether models can be downloaded. An answer of any status is an answer."""
    address = os.environ.get("HF_ENDPOINT") or _HUB
    offline = "only models in its cache and in directories can be used"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Finding("model hub", "missing", "HF_HUB_OFFLINE is set", offline)
    if not address.startswith(("http://", "https://")):
        return Finding("model hub", "wrong", "HF_ENDPOINT is not an http address", offline)
    # Without a user and a password, which an address may hold.
    host = urlsplit(address).hostname
    try:
        request = urllib.request.Request(address, method="HEAD")  # noqa: S310 - http alone, see above
        open_url(request, timeout=_HUB_WITHIN_S)
    except urllib.error.HTTPError:
        pass
    except OSError as error:
        reason = getattr(error, "reason", error)
        return Finding("model hub", "missing", f"{host} does not answer ({reason})", offline)
    return Finding("model hub", "ok", f"{host} answers")


def store_finding(archive: str) -> Finding:
    """Whether this process may write an archive there, and whether two writers would be kept apart."""
    try:
        place = resolve(archive)
        if is_local(place) and not Path(place).exists():
            check_writable(place)
        else:
            check_store(place)
    except MalmmError as error:
        return Finding("archive", "wrong", str(error), "without it nothing is stored there", needed=True)
    return Finding("archive", "ok", f"{archive} can be written", needed=True)


def _python() -> Finding:
    said = platform.python_version()
    good = sys.version_info >= (3, 11)
    return Finding("Python", "ok" if good else "wrong", said, "" if good else "3.11 or newer is needed", True)


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", version(name), needed=True)
    except PackageNotFoundError:
        return Finding(name, "missing", "not installed", "pip install malmm-ray", needed=True)


def _extra(name: str) -> Finding:
    lacking = [module for module in EXTRAS[name] if importlib.util.find_spec(module) is None]
    if not lacking:
        return Finding(f"extra {name}", "ok", "installed")
    return Finding(f"extra {name}", "missing", f"lacks {', '.join(lacking)}", install_command(name))


def _machine() -> Iterator[Finding]:
    equipment = this_machine()
    cpus = len(os.sched_getaffinity(0))
    yield Finding("CPUs", "ok", f"{cpus}, {size(equipment.ram_bytes)} of memory")
    if equipment.gpu_bytes is None:
        yield Finding(
            "GPU",
            "missing",
            "no driver, or no card that torch sees",
            "models run on CPUs; `malmm models` lists which fit",
        )
    else:
        yield Finding("GPU", "ok", f"{size(equipment.gpu_bytes)} on the smallest card")
    for name, place, least in (
        ("shared memory", Path("/dev/shm"), _LEAST_SHARED_BYTES),  # noqa: S108 - it is looked at alone
        ("temporary files", Path(tempfile.gettempdir()), _LEAST_SHARED_BYTES),
    ):
        if place.is_dir():
            free = shutil.disk_usage(place).free
            yield Finding(
                name,
                "ok" if free >= least else "wrong",
                f"{size(free)} free in {place}",
                "" if free >= least else f"Ray wants {size(least)} and more there",
            )
