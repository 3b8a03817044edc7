"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from malmm.pipeline.evaluation.catalogue import DATA_SETS, Kind
from malmm.pipeline.evaluation.protocol import Protocol
from malmm.pipeline.schema.cluster_use import WHOLE_CLUSTER, ClusterUse
from malmm.pipeline.schema.config import RESOURCES
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.ways_of_watching import WATCHING, Way

__all__ = ["EvaluateConfig"]


@dataclass(frozen=True)
class EvaluateConfig:
    """An evaluation: a data set, where it lies, and how it is asked. Raises ConfigError for values that cannot be.

    ``ways`` are ways of watching; the figures are those of the first one. ``limit`` clips are drawn with ``seed``,
    which also draws the intervals. ``allow_leak`` scores videos although they are in the training split too. ``models``
    are checkpoints by task, in place of ``model`` and ``tasks``, for a data set whose authors trained one for each.
    ``resources`` and ``cluster`` say where it runs, which no answer depends on.
    """

    dataset: str
    annotations: Path
    videos: Path
    output: Path
    protocol: Protocol
    model: str = "demo"
    models: tuple[tuple[str, str], ...] = ()
    split: str = ""
    tasks: tuple[str, ...] = ()
    ways: tuple[str, ...] = ("bank",)
    pieces: int = 4
    describe: str = "Describe the video."
    limit: int | None = None
    seed: int = 0
    allow_leak: bool = False
    decode_limit_s: float = 600.0
    resources: tuple[tuple[str, float], ...] = ()
    cluster: ClusterUse = WHOLE_CLUSTER

    def __post_init__(self) -> None:
        if self.dataset not in DATA_SETS:
            raise ConfigError(f"--dataset {self.dataset!r}: one of {', '.join(DATA_SETS)}")
        named = [task for task, _ in self.models]
        unknown_task = next((task for task in named if task not in self.kind.tasks), None)
        if unknown_task is not None:
            tasks = ", ".join(self.kind.tasks)
            known = (
                f"the tasks of {self.dataset} are {tasks}"
                if tasks
                else f"{self.dataset} has one model for all tasks"
            )
            raise ConfigError(f"--model {unknown_task}=: {known}")
        if len(set(named)) != len(named):
            raise ConfigError(f"--model {max(named, key=named.count)}=: one model a task")
        if self.models and self.tasks:
            raise ConfigError(f"--task {self.tasks[0]}: the tasks are those that --model names")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit {self.limit}: at least 1")
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed}: 0 or more")
        if self.pieces < 1:
            raise ConfigError(f"--pieces {self.pieces}: at least 1")
        unknown = [way for way in self.ways if way not in WATCHING]
        if unknown or not self.ways or len(set(self.ways)) != len(self.ways):
            raise ConfigError(f"--ways {','.join(self.ways)}: each once, of {', '.join(WATCHING)}")
        for name, _ in self.resources:
            if name not in RESOURCES:
                raise ConfigError(f"--resource {name}: one of {', '.join(RESOURCES)}")
        if not self.decode_limit_s > 0:
            raise ConfigError(f"--decode-limit-s {self.decode_limit_s:g}: above 0")

    @property
    def kind(self) -> Kind:
        """The data set's row in the catalogue."""
        return DATA_SETS[self.dataset]

    @property
    def chosen_split(self) -> str:
        """The split that is asked about."""
        return self.split or self.kind.split

    @property
    def parts(self) -> tuple[EvaluateConfig, ...]:
        """This evaluation, or one for each task with a model of its own, in a folder of the output."""
        return tuple(
            replace(self, model=model, models=(), tasks=(task,), output=self.output / task)
            for task, model in self.models
        ) or (self,)

    @property
    def watched(self) -> tuple[Way, ...]:
        """The ways of watching with their settings."""
        protocol = self.protocol
        return tuple(
            Way(way, protocol.bank_length, protocol.merge_policy, self.pieces, self.describe)
            for way in self.ways
        )
