"""No GPU is stranded on a cluster that runs share, whatever starts, ends, dies, leaves or joins."""

from __future__ import annotations

import random
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from ray import cloudpickle

pytestmark = pytest.mark.filterwarnings("default")  # Ray's of its own settings

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "placement.py"
ROUNDS = 10


@pytest.fixture(scope="module")
def placement() -> ModuleType:
    spec = spec_from_file_location("placement", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["placement"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    # Workers get its model itself: they could not import the file.
    cloudpickle.register_pickle_by_value(module)
    return module


@pytest.mark.faults
def test_ten_random_starts_restarts_and_losses_leave_no_gpu_empty(
    placement: ModuleType, fault_seed: int
) -> None:
    with placement.shared_cluster(random.Random(fault_seed), within_s=60.0) as shared:
        done = [shared.round() for _ in range(ROUNDS)]
        assert shared.faults == [], done
