"""What tests of several of pytest's processes read and never write, made by the first that asks for it."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

__all__ = ["made_once", "shared_folder"]

T = TypeVar("T")


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that all of pytest's processes of this run have in common."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], T]) -> T:
    """What ``make`` returns, of files that it makes in a folder of that name. Others wait while one makes them."""
    folder = shared_folder(factory) / name
    note = folder.with_suffix(".pickle")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if note.exists():
            found: T = pickle.loads(note.read_bytes())  # noqa: S301 - our own
            return found
        folder.mkdir()
        made = make(folder)
        note.write_bytes(pickle.dumps(made))
        return made
