"""What all tests share."""

from __future__ import annotations

import gc
import os
import signal
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from support.equipment import NEEDS, missing
from support.made_once import made_once, shared_folder

if TYPE_CHECKING:
    from support.drawn_archive import Drawn

# What collecting makes stays to the end: looking through it again and again for what to free takes a fifth of the time.
gc.disable()

# Tests and the commands that they start share this machine: threads that wait for each other in their turns cost
# more than they save. Read when torch is loaded, here and in each command.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray lets its workers yield to all other programs (niceness 15), so that on a busy machine they would starve.
os.environ.setdefault("RAY_worker_niceness", "0")

# Nothing is told to Ray's makers, for which each cluster would have a process.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# And none reads every five seconds what each of Ray's processes takes.
os.environ.setdefault("REPORTER_UPDATE_INTERVAL_MS", "600000")

# Neither this process nor what tests start looks for garbage as often as Python does by itself.
gc.set_threshold(50_000, 20, 20)
_OWN = str(Path(__file__).parent / "support" / "every_process")
if _OWN not in os.environ.get("PYTHONPATH", ""):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_OWN, os.environ.get("PYTHONPATH")]))

# Shells start jobs in the background with SIGINT ignored, and all that tests start would inherit it: Ctrl-C would do
# nothing there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests check what comes out and never how long it took: the machine may be busy.
settings.register_profile("malmm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("malmm")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what goes to the user's cache and state, such as the debug checkpoint, in directories of the session."""
    names = ("XDG_CACHE_HOME", "XDG_STATE_HOME")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: str(shared_folder(tmp_path_factory) / name.lower()) for name in names})
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """An archive that tests read and never write."""
    # Loads torch, Ray and Lance, which few tests of a small selection need.
    from support.drawn_archive import make_archive

    return made_once(tmp_path_factory, "drawn", partial(make_archive, segment_s=20.0))


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many rounds campaigns of faults have, and where their chance begins."""
    group = parser.getgroup("faults")
    group.addoption("--fault-sample", type=int, default=1, metavar="N", help="rounds of each campaign")
    group.addoption("--fault-seed", type=int, default=0, metavar="S", help="the first round's seed")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A round for each seed; a round that fails is had again by its seed."""
    if "fault_seed" in metafunc.fixturenames:
        first, rounds = metafunc.config.getoption("--fault-seed"), metafunc.config.getoption("--fault-sample")
        metafunc.parametrize("fault_seed", range(first, first + rounds))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs something that this machine does not have."""
    for item in items:
        for mark in item.iter_markers("needs"):
            for name in mark.args:
                if reason := missing(name):
                    item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """Take what collecting made out of every later garbage collection: nearly a million objects that stay."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Say last what was left out, and how to get what it needs."""
    yield
    skipped = terminalreporter.getreports("skipped")
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    for need in NEEDS.values():
        if count := reasons[need.reason]:
            what = "1 test that needs" if count == 1 else f"{count} tests that need"
            terminalreporter.write_line(f"Left out {what} {need.name}: {need.get}", yellow=True)
