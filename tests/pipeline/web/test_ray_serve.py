"""Serving on a cluster says what it waits for while there is no room for its replicas."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.archive_rows import RECIPE, VECTOR_SIZE

from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster import starvation
from malmm.pipeline.cluster.resources import Node
from malmm.pipeline.schema.progress import Progress
from malmm.pipeline.web import ray_serve
from malmm.pipeline.web.settings import ServeConfig


class FullCluster:
    """The requests of a cluster whose only CPU another job holds."""

    def ask(self) -> None:
        """See ``Requests``."""

    def answer(self) -> frozenset[tuple[float, float]]:
        return frozenset({(1.0, 0.0)})

    def room(self) -> tuple[list[Node], dict[str, float]]:
        return [Node(1)], {"CPU": 0.0}


class Serve:
    """Stands in for ``ray.serve``: ``run`` returns once its user was told something, or fails."""

    def __init__(self, told: threading.Event, error: BaseException | None) -> None:
        self.told, self.error = told, error
        self.done: list[str] = []

    def start(self, **_: Any) -> None:
        self.done.append("start")

    def run(self, *_: Any, **__: Any) -> None:
        assert self.told.wait(900)
        self.done.append("run")
        if self.error is not None:
            raise self.error

    def shutdown(self) -> None:
        self.done.append("shutdown")


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), RuntimeError("deploy failed")])
def test_no_room_is_told_and_whatever_ends_it_serve_is_shut_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | None
) -> None:
    Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)
    for name in ("SAY_AFTER_S", "_ASK_EVERY_S", "_LOOK_EVERY_S"):
        monkeypatch.setattr(starvation, name, 0.001)
    told, notes, ready = threading.Event(), list[Progress](), list[str]()
    serve = Serve(told, error)

    @contextmanager
    def connection(**_: Any) -> Iterator[None]:
        yield

    def tell(progress: Progress) -> None:
        notes.append(progress)
        told.set()

    def leave(address: str) -> None:
        ready.append(address)
        raise KeyboardInterrupt

    monkeypatch.setattr(starvation, "RequestsOfRay", FullCluster)
    monkeypatch.setattr(ray_serve, "serve", serve)
    monkeypatch.setattr(ray_serve, "connection", connection)
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        ray_serve.serve_on_ray(ServeConfig(str(tmp_path / "archive"), port=8765), on_ready=leave, tell=tell)
    note = notes[0].note
    assert note.startswith(
        "nothing gets on, and no node has room for the models (1 CPU), the page (1 CPU): 1 node with 1 CPU, of which 0"
    )
    assert ready == (["http://127.0.0.1:8765/"] if error is None else [])
    assert serve.done == ["start", "run", "shutdown"]
