"""One writer at a time, and none shut out for ever by one that died."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import lance
import pytest
from support.waiting import until

from malmm.pipeline.archive import lease as leases
from malmm.pipeline.archive import lease_renewal, lease_table
from malmm.pipeline.archive.lease import Lease
from malmm.pipeline.schema.errors import ArchiveBusy

HOLD = """
import sys
from malmm.pipeline.archive.lease import Lease
lease = Lease.take(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder beats ten times a second."""
    monkeypatch.setattr(lease_renewal, "BEAT_S", 0.1)
    monkeypatch.setattr(leases, "_POLL_S", 0.05)


@pytest.fixture
def impatient(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is dead for others when it is silent for a second."""
    monkeypatch.setattr(lease_renewal, "PATIENCE_S", 1.0)


@contextmanager
def holder(place: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lease; killed at the end if it still lives."""
    command = [sys.executable, "-c", HOLD, str(place)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip() == "held"
            yield process
        finally:
            process.kill()


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this process is on another machine than those that took a lease before."""
    for module in (leases, lease_table):
        monkeypatch.setattr(module, "place", lambda: "another machine")


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    with Lease.take(str(tmp_path)), pytest.raises(ArchiveBusy, match=f"process {os.getpid()} on "):
        Lease.take(str(tmp_path))
    Lease.take(str(tmp_path)).give_back()


def test_a_writer_in_another_process_is_seen_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with (
        holder(tmp_path) as process,
        pytest.raises(ArchiveBusy, match=f"process {process.pid} on .*: wait for it to end, or stop it"),
    ):
        Lease.take(str(tmp_path))
    assert time.monotonic() - began < lease_renewal.PATIENCE_S


def test_a_killed_writer_of_this_machine_keeps_nobody_waiting(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()
    began = time.monotonic()
    Lease.take(str(tmp_path)).give_back()
    assert time.monotonic() - began < lease_renewal.PATIENCE_S / 2


@pytest.mark.usefixtures("quick")
def test_a_living_writer_of_another_machine_is_noticed_by_its_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lease.take(str(tmp_path)):
        elsewhere(monkeypatch)
        with pytest.raises(ArchiveBusy):
            Lease.take(str(tmp_path))


@pytest.mark.usefixtures("impatient")
def test_a_silent_writer_of_another_machine_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        elsewhere(monkeypatch)
        began = time.monotonic()
        lease = Lease.take(str(tmp_path))
        assert time.monotonic() - began >= lease_renewal.PATIENCE_S
        lease.check()
        lease.give_back()


@pytest.mark.usefixtures("impatient")
def test_a_writer_that_slept_too_long_commits_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = Lease.take(str(tmp_path))
    sleeper.check()
    # Its beats stop, as those of a process do that is stopped.
    sleeper._renewal.stop()
    elsewhere(monkeypatch)
    with Lease.take(str(tmp_path)) as other:
        with pytest.raises(ArchiveBusy, match="taken over by another writer"):
            sleeper.check()
        sleeper.give_back()
        other.check()
        assert lease_table.read(str(tmp_path)).holder == other.holder, (
            "the sleeper gave away what was not its own"
        )


@pytest.mark.parametrize("share", [0.1, 0.9, 100.0])
def test_a_sleep_in_which_nobody_took_over_is_forgiven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    lease = Lease.take(str(tmp_path))
    lease._renewal.stop()
    woken_s = lease_renewal.now_s() + share * lease_renewal.PATIENCE_S
    monkeypatch.setattr(lease_renewal, "now_s", lambda: woken_s)
    lease.check()
    lease.give_back()


def test_a_renewal_slower_than_the_patience_is_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = Lease.take(str(tmp_path))
    lease._renewal.stop()
    # A store that takes a minute to answer: each look at the clock is a minute after the one before.
    minutes = itertools.count(1)
    began_s = lease_renewal.now_s()
    monkeypatch.setattr(lease_renewal, "now_s", lambda: began_s + 60.0 * next(minutes))
    for _ in range(3):
        lease.check()
    lease.give_back()


def test_of_many_at_once_one_becomes_the_writer(tmp_path: Path) -> None:
    Lease.take(str(tmp_path)).give_back()
    taken, refused = [], []
    gate = threading.Barrier(6)

    def race() -> None:
        gate.wait()
        try:
            taken.append(Lease.take(str(tmp_path)))
        except ArchiveBusy:
            refused.append(1)

    threads = [threading.Thread(target=race) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1
    assert len(refused) == 5
    taken[0].give_back()


@pytest.mark.usefixtures("quick")
def test_the_clock_on_the_wall_plays_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lease.take(str(tmp_path)) as lease:
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 86_400)
        beat = lease_table.read(str(tmp_path)).beat
        until(lambda: lease_table.read(str(tmp_path)).beat > beat)
        lease.check()
        elsewhere(monkeypatch)
        with pytest.raises(ArchiveBusy):
            Lease.take(str(tmp_path))


@pytest.mark.usefixtures("quick")
def test_what_could_not_be_given_back_does_not_shut_its_own_process_out(tmp_path: Path) -> None:
    lease = Lease.take(str(tmp_path))
    (tmp_path / "writer.lance").rename(tmp_path / "away")
    (tmp_path / "writer.lance").write_text("in the way")
    lease.__exit__(None, None, None)
    (tmp_path / "writer.lance").unlink()
    (tmp_path / "away").rename(tmp_path / "writer.lance")
    Lease.take(str(tmp_path)).give_back()


@pytest.mark.usefixtures("quick")
def test_beats_do_not_pile_up_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_renewal, "_BEATS_A_CLEANING", 5)
    monkeypatch.setattr(lease_renewal, "_KEPT", timedelta(0))
    with Lease.take(str(tmp_path)) as lease:
        for _ in range(20):
            lease._renewal.renew()
    assert len(lance.dataset(str(tmp_path / "writer.lance")).versions()) < 15
