from __future__ import annotations

from itertools import pairwise

import pytest

from malmm.model.published.catalogue import catalogue
from malmm.model.published.choice import choose, fits, needed_bytes, operations_a_segment, speed_class

GIB = 2**30


@pytest.mark.parametrize(
    ("ram_gib", "gpu_gib", "short"),
    [
        (2, None, "smolvlm2-256m"),
        (3, None, "smolvlm2-256m"),
        (8, None, "smolvlm2-500m"),
        (512, None, "smolvlm2-500m"),
        (64, 2, "smolvlm2-256m"),
        (64, 4, "smolvlm2-500m"),
        (64, 8, "qwen3-vl-2b"),
        (64, 16, "qwen3-vl-4b"),
        (64, 24, "qwen3-vl-8b"),
        (64, 80, "qwen3-vl-8b"),
        (4, 24, "qwen3-vl-8b"),
    ],
)
def test_the_choice_by_memory(ram_gib: int, gpu_gib: int | None, short: str) -> None:
    gpu_bytes = None if gpu_gib is None else gpu_gib * GIB
    assert choose(ram_bytes=ram_gib * GIB, gpu_bytes=gpu_bytes).short == short


def test_whatever_is_chosen_fits_is_free_to_use_and_reads_slots() -> None:
    for gib in range(4, 100):
        for gpu_bytes in (None, gib * GIB):
            model = choose(ram_bytes=gib * GIB, gpu_bytes=gpu_bytes)
            assert fits(model, ram_bytes=gib * GIB, gpu_bytes=gpu_bytes)
            assert model.licence == "apache-2.0"


def test_more_memory_never_holds_less() -> None:
    for gpu in (False, True):
        held = [
            {
                model.short
                for model in catalogue()
                if fits(model, ram_bytes=gib * GIB, gpu_bytes=gib * GIB if gpu else None)
            }
            for gib in range(1, 100)
        ]
        assert all(less <= more for less, more in pairwise(held))
        assert held[-1] == {model.short for model in catalogue()}
    for model in catalogue():
        each = 4 if model.family == "InstructBLIP" else 2
        assert needed_bytes(model, gpu=True) > 2 * model.parameters + (each - 2) * model.projector
        assert needed_bytes(model, gpu=False) > 4 * model.parameters


def test_speed_follows_operations() -> None:
    order = sorted(catalogue(), key=operations_a_segment)
    classes = [("fast", "medium", "slow").index(speed_class(model)) for model in order]
    assert classes == sorted(classes)
    assert set(classes) == {0, 1, 2}
