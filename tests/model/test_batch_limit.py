from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from malmm.model.batch_limit import BatchLimit, Mishap

CPU = torch.device("cpu")
# Tensors can be made on it, and nothing can be read back.
SILENT = torch.device("meta")


def squares_up_to(most: int, bad: frozenset[int] = frozenset()) -> Callable[[Sequence[int]], list[int]]:
    """Square numbers, at most ``most`` at once, and none of the bad ones."""

    def work(numbers: Sequence[int]) -> list[int]:
        if len(numbers) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if bad.intersection(numbers):
            raise ValueError("a bad number")
        return [number * number for number in numbers]

    return work


@given(
    st.lists(st.integers(0, 20), max_size=30),
    st.integers(1, 8),
    st.frozensets(st.integers(0, 20), max_size=4),
)
def test_every_item_has_its_own_result(numbers: list[int], most: int, bad: frozenset[int]) -> None:
    limit = BatchLimit(CPU)
    for _ in range(2):
        results = limit.results(numbers, squares_up_to(most, bad))
        assert results == [
            Mishap("ValueError", "a bad number", "") if number in bad else number * number
            for number in numbers
        ]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 9 bytes"),
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
    ids=lambda error: str(error)[:30],
)
def test_the_size_that_fits_is_remembered(error: Exception) -> None:
    sizes: list[int] = []

    def work(numbers: Sequence[int]) -> Sequence[int]:
        sizes.append(len(numbers))
        if len(numbers) > 3:
            raise error
        return numbers

    limit = BatchLimit(CPU)
    assert limit.results(range(10), work) == list(range(10))
    assert sizes == [10, 5, 2, 2, 2, 2, 2]
    sizes.clear()
    assert limit.results(range(4), work) == list(range(4))
    assert sizes == [2, 2]


def test_one_row_that_does_not_fit_fails_alone_as_out_of_memory() -> None:
    [mishap] = BatchLimit(CPU).results([7], squares_up_to(0))
    assert isinstance(mishap, Mishap)
    assert (mishap.kind, mishap.trace) == ("OutOfMemoryError", "")


def test_a_failed_attempt_keeps_none_of_its_tensors_while_the_next_one_runs() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def work(numbers: Sequence[int]) -> Sequence[int]:
        gc.collect()
        assert all(tensor() is None for tensor in held)
        batch = torch.zeros(len(numbers), 1000)
        held.append(weakref.ref(batch))
        if len(numbers) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return numbers

    limit = BatchLimit(CPU)
    assert limit.results([1, 2, 3, 4], work) == [1, 2, 3, 4]
    assert len(held) == 6


def test_an_error_in_the_program_comes_with_its_traceback() -> None:
    def work(numbers: Sequence[int]) -> Sequence[int]:
        torch.zeros(2, 3) @ torch.zeros(2, 3)
        return numbers

    [mishap] = BatchLimit(CPU).results([1], work)
    assert isinstance(mishap, Mishap)
    assert mishap.kind == "RuntimeError"
    assert "torch.zeros(2, 3) @ torch.zeros(2, 3)" in mishap.trace


@pytest.mark.parametrize(("device", "is_lost"), [(CPU, False), (SILENT, True)])
def test_a_device_that_answers_nothing_more_is_told_from_one_failed_call(
    device: torch.device, is_lost: bool
) -> None:
    calls = []

    def work(numbers: Sequence[int]) -> Sequence[int]:
        calls.append(list(numbers))
        if 1 in numbers or (is_lost and len(calls) > 1):
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return numbers

    limit = BatchLimit(device)
    results = limit.results([0, 1, 2], work)
    assert limit.device_lost is is_lost
    failed = [isinstance(result, Mishap) for result in results]
    assert (failed, len(calls)) == (([True] * 3, 1) if is_lost else ([False, True, False], 4))


def test_an_actor_whose_device_is_lost_ends_its_process() -> None:
    program = """
import pyarrow as pa
from malmm.operators.guard import guarded_actor

class Lost:
    device_lost = True
    def __call__(self, rows):
        raise AssertionError("called all the same")

guarded_actor("encode", pa.schema([]), Lost)()(pa.table({"number": [1]}))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "malmm: encode: the GPU does not answer any more, this worker ends\n"
