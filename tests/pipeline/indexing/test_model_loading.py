"""What a run says before its first result: who loads which model, and how long that took before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from malmm.pipeline.archive.run_history import RunRecord
from malmm.pipeline.indexing.model_loading import ModelLoading, loaded_before_s


@dataclass(frozen=True)
class Workers:
    loading: int = 0
    loaded_s: float | None = None


@pytest.mark.parametrize(
    ("workers", "before_s", "note"),
    [
        (Workers(), None, ""),
        (Workers(1), None, "a worker loads the model, 17.5 GB of weights"),
        (Workers(2), 41.2, "2 workers load the model, 17.5 GB of weights; in the last run this took 41 s"),
        (
            Workers(1),
            300.0,
            "a worker loads the model, 17.5 GB of weights; in the last run this took 5 minutes",
        ),
        (Workers(1, 12.3), 41.2, "the model was loaded in 12 s, and the first result is being made"),
    ],
)
def test_workers_that_load_are_named_with_the_time_of_the_last_run(
    workers: Workers, before_s: float | None, note: str
) -> None:
    assert ModelLoading(17_500_000_000, before_s).note(workers) == note


def run(*kinds: str, hours_ago: int, loaded_s: float) -> RunRecord:
    started = datetime(2026, 11, 30, tzinfo=UTC) - timedelta(hours=hours_ago)
    return RunRecord("job", kinds, started=started, counts={"loaded_s": loaded_s})


def test_the_latest_run_of_a_kind_that_loaded_a_model_counts() -> None:
    runs = [
        run("index", hours_ago=5, loaded_s=50),
        run("index", "optimize", hours_ago=3, loaded_s=30),
        # It had nothing to do.
        run("index", hours_ago=2, loaded_s=0),
        # A sum of two.
        run("index", "annotate", hours_ago=1, loaded_s=90),
        run("annotate", hours_ago=4, loaded_s=20),
    ]
    assert loaded_before_s(runs, "index") == 30
    assert loaded_before_s(runs, "annotate") == 20
    assert loaded_before_s(runs, "transcribe") is None
