"""A Ray Dataset in this process: ``map_batches`` on blocks, one after the other, when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

__all__ = ["InlineDataset", "from_blocks", "received"]


class InlineDataset:
    """What ``malmm.pipeline.indexing.archive_sink`` uses of ``ray.data.Dataset``."""

    def __init__(self, blocks: Callable[[], Iterator[pa.Table]]) -> None:
        self._blocks = blocks
        self.context = SimpleNamespace()

    def map_batches(
        self,
        work: Any,
        *,
        fn_kwargs: dict[str, Any] | None = None,
        fn_constructor_kwargs: dict[str, Any] | None = None,
        **_: Any,
    ) -> InlineDataset:
        def blocks() -> Iterator[pa.Table]:
            # On a CPU, as the workers of a machine without cards.
            call = work(**(fn_constructor_kwargs or {}), device="cpu") if isinstance(work, type) else work
            for block in self._blocks():
                made = call(block, **(fn_kwargs or {}))
                yield from [made] if isinstance(made, pa.Table) else made

        return InlineDataset(blocks)

    def __iter__(self) -> Iterator[pa.Table]:
        return self._blocks()


def from_blocks(blocks: Sequence[pa.Table]) -> InlineDataset:
    return InlineDataset(lambda: iter(blocks))


def received(dataset: InlineDataset) -> Iterator[pa.Table | None]:
    """The blocks, and None between them as while Ray makes the next."""
    for block in dataset:
        yield None
        yield block
