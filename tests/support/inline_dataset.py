"""A Ray Dataset in this process: ``map_batches`` on blocks, one after the other, when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from malmm.operators.model_host import ModelHost, ModelStep

__all__ = ["InlineDataset", "InlineHosts", "from_blocks", "received", "through_hosts"]


class InlineDataset:
    """What ``malmm.pipeline.indexing.archive_sink`` uses of ``ray.data.Dataset``."""

    def __init__(self, blocks: Callable[[], Iterator[pa.Table]]) -> None:
        self._blocks = blocks
        self.context = SimpleNamespace(execution_options=SimpleNamespace())

    def map_batches(
        self,
        work: Any,
        *,
        fn_kwargs: dict[str, Any] | None = None,
        **_: Any,
    ) -> InlineDataset:
        def blocks() -> Iterator[pa.Table]:
            for block in self._blocks():
                made = work(block, **(fn_kwargs or {}))
                yield from [made] if isinstance(made, pa.Table) else made

        return InlineDataset(blocks)

    def __iter__(self) -> Iterator[pa.Table]:
        return self._blocks()


class InlineHosts:
    """Stands in for ``ModelHosts``: one host, in this process."""

    batches = 1

    def __init__(self, *_: Any) -> None:
        self._host = ModelHost()
        self.sizes = SimpleNamespace(apply_to=lambda dataset: dataset)

    def __enter__(self) -> InlineHosts:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def route(self, steps: Sequence[ModelStep], *, expected: int) -> Any:
        # On a CPU, as the workers of a machine without cards.
        here = [replace(step, options={**step.options, "device": "cpu"}) for step in steps]
        return lambda rows: self._host.call(here, rows)

    def watched(self, blocks: Iterator[pa.Table | None]) -> Iterator[pa.Table | None]:
        return blocks


def through_hosts(rows: pa.Table, *, route: Any) -> pa.Table:
    made: pa.Table = route(rows)
    return made


def from_blocks(blocks: Sequence[pa.Table]) -> InlineDataset:
    return InlineDataset(lambda: iter(blocks))


def received(dataset: InlineDataset) -> Iterator[pa.Table | None]:
    """The blocks, and None between them as while Ray makes the next."""
    for block in dataset:
        yield None
        yield block
