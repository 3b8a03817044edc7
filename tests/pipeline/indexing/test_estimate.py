"""The estimate of a dry run follows the archive's own runs on such workers, else arithmetic."""

from __future__ import annotations

import pytest

from malmm.pipeline.archive.run_history import RunRecord
from malmm.pipeline.indexing.estimate import estimated

FLOP = 521_000_000_000


def ran(*, frames: float, encoder_s: float, gpus: float, steps: int = 1) -> RunRecord:
    """A run as it is recorded: sums of its steps' numbers."""
    counts = {"frames": frames, "encoder_s": encoder_s, "gpus": gpus}
    return RunRecord("index", ("index",) * steps, counts=counts)


ON_GPUS = [
    ran(frames=1000, encoder_s=40, gpus=4),
    ran(frames=3000, encoder_s=120, gpus=2),
]
ON_CPUS = [ran(frames=100, encoder_s=50, gpus=0)]
# What says nothing: a run that indexed nothing, one of an earlier release, and one of several steps.
SILENT = [
    ran(frames=0, encoder_s=20, gpus=4),
    RunRecord("index", ("index",), counts={"frames": 500, "indexing_s": 1}),
    ran(frames=10, encoder_s=8e6, gpus=8, steps=2),
]


@pytest.mark.parametrize("encoders", [1, 8])
def test_gpu_hours_are_those_of_earlier_runs_whatever_the_number_of_gpus(encoders: int) -> None:
    found = estimated(8000, FLOP, encoders=encoders, on_gpus=True, runs=[*ON_GPUS, *ON_CPUS, *SILENT])
    # 160 seconds of a GPU for 4,000 frames.
    assert found.gpu_hours == pytest.approx(320 / 3600)
    assert found.hours == pytest.approx(320 / 3600 / encoders)
    assert found.basis == "what 2 earlier runs of this archive took"


def test_workers_without_a_gpu_have_a_pace_of_their_own() -> None:
    found = estimated(1000, FLOP, encoders=2, on_gpus=False, runs=[*ON_GPUS, *ON_CPUS, *SILENT])
    assert found.hours == pytest.approx(500 / 2 / 3600)
    assert found.gpu_hours is None
    assert found.basis == "what 1 earlier run of this archive took"


def test_without_a_run_it_is_arithmetic_for_gpus_and_nothing_for_cpus() -> None:
    found = estimated(229 * 3600, FLOP, encoders=4, on_gpus=True, runs=[*ON_CPUS, *SILENT])
    # docs/cost.md: an A100 encodes 229 frames a second.
    assert found.gpu_hours == pytest.approx(1, rel=0.06)
    assert found.hours == pytest.approx(0.25, rel=0.06)
    assert "A100" in found.basis
    nothing = estimated(1000, FLOP, encoders=4, on_gpus=False, runs=[*ON_GPUS, *SILENT])
    assert (nothing.hours, nothing.gpu_hours) == (None, None)
    assert nothing.basis.startswith("no earlier run")


def test_nothing_to_do_takes_no_time() -> None:
    assert estimated(0, FLOP, encoders=0, on_gpus=True, runs=ON_GPUS).hours == 0
