"""Whether a writer's process lives: told where the system says so, and never guessed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from malmm.pipeline.archive import process_identity
from malmm.pipeline.archive.lease import Lease
from malmm.pipeline.archive.process_identity import is_alive, started
from malmm.pipeline.schema.errors import ArchiveBusy


@pytest.fixture
def ended() -> int:
    """The number of a process that was there."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        return process.pid


def test_a_process_is_alive_until_it_ends_and_is_not_one_of_the_same_number(ended: int) -> None:
    own = started(os.getpid())
    assert is_alive(own) is True
    assert is_alive(f"{own}0") is False
    assert started(ended) == ""
    assert is_alive(f"{ended}/17") is False


@pytest.mark.parametrize("written", ["", "abc/1", "-1/2"])
def test_what_names_no_process_tells_nothing(written: str) -> None:
    assert is_alive(written) is None


def test_a_hidden_process_is_neither_alive_nor_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: int
) -> None:
    own = started(os.getpid())
    monkeypatch.setattr(process_identity, "_PROC", tmp_path)  # as /proc looks that is mounted with hidepid
    assert started(os.getpid()) == str(os.getpid())
    assert is_alive(own) is None
    assert is_alive(str(os.getpid())) is None
    assert is_alive(f"{ended}/17") is False


def test_a_hidden_writer_keeps_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_identity, "_PROC", tmp_path / "hidden")
    with Lease.take(str(tmp_path)) as lease:
        monkeypatch.setattr("malmm.pipeline.archive.lease._POLL_S", 0.01)
        monkeypatch.setattr(os, "getpid", lambda: 1)  # another process, and one that cannot see the first
        lease._renewal.renew()
        watched = iter([lease._renewal.renew])
        monkeypatch.setattr("time.sleep", lambda _: next(watched, lambda: None)())
        with pytest.raises(ArchiveBusy, match="is being written by"):
            Lease.take(str(tmp_path))
