"""Batch limit: find by trying how many rows an actor can process at once, and notice when its GPU stops answering."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

__all__ = ["BatchLimit", "Mishap"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

# What allocators say that raise no class of their own: cudaMalloc, cuBLAS, and PyTorch on a CPU.
_OUT_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
_MESSAGE_CHARS, _TRACE_CHARS = 500, 1500


@dataclass(frozen=True)
class Mishap:
    """Why a row could not be processed: the exception's class, and its message on one line.

    ``trace`` is the end of the traceback; it is empty where the row or the device caused the error, not the program.
    The exception itself is not kept: its traceback would keep the batch's tensors in memory.
    """

    kind: str
    message: str
    trace: str


class BatchLimit:
    """Processes rows in batches that fit the device's memory.

    ``most`` is the largest size of a batch at first; None is no limit. A batch's size is that of its largest row, to
    which the others are padded, times its rows. When memory runs out, the batch is halved, and later batches are no
    larger than the size that fitted. When a batch fails for another reason, each of its rows is tried alone, so that a
    bad row fails alone. After a CUDA error that leaves the device unusable, all remaining rows fail and ``device_lost``
    is set: every further call in this process would fail too, so the owner of the process should end it.
    """

    def __init__(self, device: torch.device, most: int | None = None) -> None:
        self.device = device
        self.most = most
        self.device_lost = False

    def results(
        self,
        items: Sequence[_Item],
        work: Callable[[Sequence[_Item]], Sequence[_Result]],
        *,
        sizes: Sequence[int] | None = None,
    ) -> list[_Result | Mishap]:
        """``work``'s results for all items, in their order. It takes a batch and returns a result for each item.

        ``sizes`` are those of the items, in a unit of the caller's; without, each is 1. An item that is larger than a
        batch may be is tried alone. A RuntimeError or ValueError of ``work`` is caught; other exceptions are raised.
        """
        found: list[_Result | Mishap] = []
        of_items = [1] * len(items) if sizes is None else sizes
        alone_until = 0
        while len(found) < len(items):
            at = len(found)
            end = at + 1 if at < alone_until else self._end(of_items, at)
            batch = items[at:end]
            # Retried here and not inside ``except``: there the failed attempt's tensors would still be in memory.
            results, mishap, out_of_memory = self._tried(batch, work)
            if mishap is None:
                found += results
            elif self.device_lost:
                found += [mishap] * (len(items) - at)
            elif len(batch) == 1:
                found.append(mishap)
            elif out_of_memory:
                self.most = max(of_items[at:end]) * (len(batch) // 2)
            else:
                alone_until = end
        return found

    def _end(self, sizes: Sequence[int], at: int) -> int:
        """Where the batch that begins at ``at`` ends."""
        if self.most is None:
            return len(sizes)
        end, largest = at + 1, sizes[at]
        while end < len(sizes):
            largest = max(largest, sizes[end])
            if largest * (end + 1 - at) > self.most:
                break
            end += 1
        return end

    def _tried(
        self, batch: Sequence[_Item], work: Callable[[Sequence[_Item]], Sequence[_Result]]
    ) -> tuple[Sequence[_Result], Mishap | None, bool]:
        try:
            return work(batch), None, False
        except (RuntimeError, ValueError) as error:
            out_of_memory = isinstance(error, torch.OutOfMemoryError) or any(
                words in str(error) for words in _OUT_OF_MEMORY
            )
            kind = torch.OutOfMemoryError.__name__ if out_of_memory else type(error).__name__
            message = " ".join(str(error).split())[:_MESSAGE_CHARS]
            by_device = isinstance(error, torch.AcceleratorError)
            expected = out_of_memory or by_device or isinstance(error, ValueError)
            trace = "".join(traceback.format_exception(error))
            mishap = Mishap(kind, message, "" if expected else trace[-_TRACE_CHARS:])
        if by_device and not self._answers():
            self.device_lost = True
        elif out_of_memory and self.device.type == "cuda":
            torch.cuda.empty_cache()
        return [], mishap, out_of_memory

    def _answers(self) -> bool:
        """Whether the device can still compute. After an illegal access or a failed assertion on it, it cannot."""
        try:
            return int(torch.ones(1, dtype=torch.int64, device=self.device).sum().item()) == 1
        except RuntimeError:
            return False
