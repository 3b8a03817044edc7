"""Stages of Ray Data are found by their function's name, and their numbers of tasks only grow."""

from __future__ import annotations

import copy

import pytest

from malmm.pipeline.indexing.stage_sizes import StageSizes


@pytest.mark.parametrize(
    ("operator", "size"),
    [
        ("MapBatches(through_hosts)->MapBatches(write_segments)", 9),
        ("MapBatches(through_hosts)", 9),
        ("MapBatches(decode_segments)", 4),
        ("MapBatches(write_segments)", 0),
        ("Input", 0),
        ("MapBatches(probe_files)->MapBatches(decode_segments)", 0),
    ],
)
def test_a_number_is_that_of_the_first_function_of_a_fused_stage(operator: str, size: int) -> None:
    sizes = StageSizes()
    sizes.grow("through_hosts", 9)
    sizes.grow("decode_segments", 4)
    sizes.grow("through_hosts", 3)
    assert sizes.of(operator) == size


def test_workers_get_none_of_them() -> None:
    """``copy`` makes a copy as ``pickle`` does."""
    sizes = StageSizes()
    sizes.grow("through_hosts", 9)
    assert copy.copy(sizes).of("MapBatches(through_hosts)") == 0
