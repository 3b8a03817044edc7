"""A head that was killed leaves its address behind, and is told from one that is there."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from malmm.pipeline.cluster.discovery import listens, recorded_head


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for Ray, with the short path that its sockets need."""
    with tempfile.TemporaryDirectory(prefix="m", dir="/tmp", ignore_cleanup_errors=True) as made:
        (Path(made) / "ray").mkdir()
        yield Path(made)


def record(folder: Path, content: bytes) -> dict[str, str]:
    (folder / "ray" / "ray_current_cluster").write_bytes(content)
    return {"TMPDIR": str(folder)}


def test_without_a_record_there_is_no_head(folder: Path) -> None:
    assert recorded_head({"TMPDIR": str(folder)}) is None


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"127.0.0.1:", b":6379", b"127.0.0.1:99999", b"\xff\x00:1"]
)
def test_a_record_that_names_no_place_is_of_a_dead_head(folder: Path, content: bytes) -> None:
    head = recorded_head(record(folder, content))
    assert head is not None
    assert not head.alive
    assert str(folder / "ray" / "ray_current_cluster") in head.note


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_head_is_alive_while_something_listens_there(folder: Path, family: socket.AddressFamily) -> None:
    with socket.socket(family) as server:
        server.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        host, port = server.getsockname()[:2]
        address = f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
        environment = record(folder, f"{address}\n".encode())
        server.listen()
        head = recorded_head(environment)
        assert head is not None
        assert (head.address, head.alive, head.note) == (address, True, "")
    # Closed by now, and the port is the test's own: nobody else listens on it in an instant.
    assert listens(address, within_s=5) is not None
