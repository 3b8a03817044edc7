"""Say what a run waits for before its first result: workers that load the model, and how long that took before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from malmm.pipeline.archive.run_history import RunRecord

__all__ = ["Loading", "ModelLoading", "loaded_before_s", "size_of_weights"]

# Kinds of jobs whose workers load models. Counts of several such steps in one run are summed, so they say nothing.
_LOADING_KINDS = ("index", "annotate", "transcribe")


class Loading(Protocol):
    """Workers that load a model: how many do so now, and after how many seconds the first were ready, if they are."""

    @property
    def loading(self) -> int:
        """Workers that have been started and have not loaded their models yet."""

    @property
    def loaded_s(self) -> float | None:
        """Seconds from the start of the first worker to the first ones that could begin; None before."""


@dataclass(frozen=True)
class ModelLoading:
    """A model of ``weights_bytes`` that workers load, and the seconds which that took in an earlier run, if known."""

    weights_bytes: int
    before_s: float | None = None

    def note(self, workers: Loading) -> str:
        """One sentence about the time before the first result. Changes only when something has happened."""
        if workers.loaded_s is not None:
            return f"the model was loaded in {_time(workers.loaded_s)}, and the first result is being made"
        if not workers.loading:
            return ""
        who = "a worker loads" if workers.loading == 1 else f"{workers.loading} workers load"
        before = f"; in the last run this took {_time(self.before_s)}" if self.before_s is not None else ""
        return f"{who} the model, {size_of_weights(self.weights_bytes)}{before}"


def loaded_before_s(runs: Iterable[RunRecord], kind: str) -> float | None:
    """Seconds until workers had loaded their models in the latest of these runs that was of this ``kind``."""
    for run in sorted(runs, key=lambda run: run.started, reverse=True):
        if [each for each in run.kinds if each in _LOADING_KINDS] == [kind] and run.counts.get("loaded_s"):
            return run.counts["loaded_s"]
    return None


def size_of_weights(count_bytes: int) -> str:
    """Format the size of a model: ``17.5 GB of weights``."""
    size = f"{count_bytes / 1e9:.1f} GB" if count_bytes >= 1e8 else f"{count_bytes / 1e6:.0f} MB"
    return f"{size} of weights"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
