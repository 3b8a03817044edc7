from __future__ import annotations

from typing import Any

import pytest
import ray
from ray.exceptions import WorkerCrashedError

from malmm.pipeline.cluster.resources import Node, choose_resources
from malmm.pipeline.indexing.compiler_check import check_compilers
from malmm.pipeline.schema.errors import WorkerError


class Workers:
    """Stands in for Ray's: what each says of its compiler, in turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *said: str | Exception | None) -> None:
        self.said = list(said)
        self.asked: list[dict[str, Any]] = []
        monkeypatch.setattr(ray, "remote", self.remote)
        monkeypatch.setattr(ray, "get", self.get)

    def remote(self, **options: Any) -> Any:
        outer = self

        class Remote:
            def remote(self) -> str | Exception | None:
                outer.asked.append(options)
                return outer.said.pop(0)

        return lambda function: Remote()

    def get(self, given: list[Any]) -> list[Any]:
        for each in given:
            if isinstance(each, Exception):
                raise each
        return given


def test_as_many_workers_are_asked_as_there_will_be_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(monkeypatch, None, None)
    resources = choose_resources([Node(8, 2)])
    check_compilers(resources)
    assert [each["num_gpus"] for each in workers.asked] == [resources.encode_gpus] * 2
    assert {each["scheduling_strategy"] for each in workers.asked} == {"SPREAD"}


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("there is none on b: run without --compile", "there is none on b: run without --compile"),
        (WorkerCrashedError(), "a worker that was to try its compiler died: The worker died"),
    ],
)
def test_the_first_that_cannot_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, said: str | Exception, error: str
) -> None:
    Workers(monkeypatch, None, said)
    with pytest.raises(WorkerError, match=f"^{error}"):
        check_compilers(choose_resources([Node(8, 2)]))
