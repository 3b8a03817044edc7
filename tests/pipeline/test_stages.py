from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa
import pytest
import ray.data

from malmm.model.resolve import NO_RETRIEVAL, open_models
from malmm.operators.encode import EncodeSegments
from malmm.pipeline.cluster import Node, choose_resources
from malmm.pipeline.config import IndexConfig
from malmm.pipeline.indexing import make_recipe
from malmm.pipeline.stages import indexing


class Recorder:
    """Stands in for a dataset, and keeps what each stage is given."""

    def __init__(self) -> None:
        self.stages: list[tuple[Any, dict[str, Any]]] = []

    def map_batches(self, function: Any, **options: Any) -> Recorder:
        self.stages.append((function, options))
        return self


class Nowhere:
    """What the wiring asks of an archive."""

    uri = "nowhere"

    def schema(self, name: str) -> pa.Schema:
        return pa.schema([])


@pytest.mark.parametrize("wanted", [False, True])
def test_encoders_compile_if_the_run_is_told_to(monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    recorder = Recorder()
    monkeypatch.setattr(ray.data, "from_arrow", lambda parts: recorder)
    config = dataclasses.replace(IndexConfig(("v",), "a"), compile=wanted)
    recipe = make_recipe(config, open_models("demo", NO_RETRIEVAL))
    archive: Any = Nowhere()
    indexing(pa.table({"x": [1]}), config, recipe, archive, choose_resources([Node(2)]))
    [given] = [
        options["fn_constructor_kwargs"]
        for function, options in recorder.stages
        if isinstance(function, type) and issubclass(function, EncodeSegments)
    ]
    assert given["compile_vision"] is wanted
