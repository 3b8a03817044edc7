"""Let a stage of a dataset that runs have more tasks at once, when nodes have joined the cluster.

Ray Data takes the largest number of a stage's tasks when the dataset begins, and offers nothing to change it later. Its
executor calls back at each of its steps; there the number is changed where Ray Data looks it up (version 2.60: in the
operator, for shares of the cluster, and in the policy that caps concurrency), and so is the part of a shared cluster
that the dataset may take. On a version that keeps them elsewhere the stages stay as large as they began: new nodes then
have models, and decoding is as fast as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.data import Dataset
from ray.data._internal.execution.execution_callback import ExecutionCallback

if TYPE_CHECKING:
    from ray.data._internal.execution.streaming_executor import StreamingExecutor

__all__ = ["StageSizes"]


class StageSizes:
    """The largest numbers of tasks of stages, by the name of a stage's function. A number never gets smaller.

    ``cpus`` is what a dataset that has a part of the cluster may take of it; 0 if nothing was said of it. Datasets
    carry all this in their settings. Workers get an empty one with them, and do not look at it.
    """

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}
        self.cpus = 0.0

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return StageSizes, ()

    def grow(self, function: str, size: int) -> None:
        """Let the stage of this function have so many tasks at once."""
        self._sizes[function] = max(size, self._sizes.get(function, 0))

    def of(self, operator: str) -> int:
        """The number for a stage of Ray Data, named ``MapBatches(function)->...``; 0 if nothing was said of it."""
        first = operator.partition("->")[0]
        return self._sizes.get(first.removeprefix("MapBatches(").removesuffix(")"), 0)

    def apply_to(self, dataset: Dataset) -> Dataset:
        """Have the dataset follow these numbers while it runs."""
        dataset.context.custom_execution_callback_classes = [
            *dataset.context.custom_execution_callback_classes,
            _following(self),
        ]
        return dataset


def _following(sizes: StageSizes) -> type[ExecutionCallback]:
    class Following(ExecutionCallback):
        def on_execution_step(self, executor: StreamingExecutor) -> None:
            options = getattr(executor, "_options", None)
            if options is not None and options.resource_limits.cpu < sizes.cpus:
                options.resource_limits = options.resource_limits.copy(cpu=sizes.cpus)
            for operator in getattr(executor, "_topology", None) or ():
                size = sizes.of(operator.name)
                now = getattr(operator, "_max_concurrency", None)
                if now is None or size <= now:
                    continue
                operator._max_concurrency = size
                for policy in getattr(executor, "_backpressure_policies", ()):
                    caps = getattr(policy, "_concurrency_caps", {})
                    if operator in caps:
                        caps[operator] = size

    return Following
