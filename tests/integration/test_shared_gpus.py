"""No GPU is stranded on a cluster that runs share, whatever starts, ends, dies, leaves or joins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "placement.py"
ROUNDS = 10


@pytest.mark.faults
def test_ten_random_starts_restarts_and_losses_leave_no_gpu_empty(fault_seed: int) -> None:
    # In a process of its own: one in which Ray once used a token asks for one in every later cluster.
    apart = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, BENCHMARK, "--rounds", ROUNDS, "--seed", fault_seed, "--within-s", 60]
    done = subprocess.run(list(map(str, command)), env=apart, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # Its table has a row with the number of rounds first and of stranded GPUs last.
    cells = [cell.strip() for cell in done.stdout.splitlines()[-1].strip("|").split("|")]
    assert (cells[0], cells[-1]) == (str(ROUNDS), "0")
