"""The compiled vision encoder, for a few fixed batch sizes.

Compiled code, and a CUDA graph even more so, is for one shape. A run's batches have any number of frames: the last one
of a segment is smaller, and segments end at different times. So frames go in batches of the sizes ``BATCHES``, the last
one padded. All sizes are compiled when the encoder is loaded, so that nothing is compiled while videos wait, and a
worker that cannot compile fails before it takes any.

Shape suffixes: B frames, H and W pixels, C colours, N tokens.
"""

from __future__ import annotations

import socket
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from malmm.model.families.instructblip.vision import VisionEncoder

__all__ = ["BATCHES", "CompileError", "CompiledVision", "batch_sizes", "try_compiler"]

#: Batch sizes in frames: a large one, and a small one for the rest. Each is a multiple of the smallest.
BATCHES = (32, 8)
# The first call of a CUDA graph warms up, the second records, and from the third on it is replayed.
_CALLS_BEFORE_REPLAY = 3
_LONGEST_REASON = 300


class CompileError(RuntimeError):
    """This machine cannot compile. The message says what is missing and what to do."""


def batch_sizes(count: int, sizes: Sequence[int] = BATCHES) -> Iterator[int]:
    """Yield the sizes of batches for ``count`` frames. All together have less padding than the smallest size."""
    smallest = min(sizes)
    while count > 0:
        padded = -(-count // smallest) * smallest
        taken = max(size for size in sizes if size <= padded)
        yield taken
        count -= taken


class CompiledVision:
    """Runs a ``VisionEncoder`` as compiled code; on CUDA by replaying a CUDA graph.

    Not a module: the encoder keeps its parameters under their own names. It must stay on its device and keep its dtype.
    """

    def __init__(self, vision: VisionEncoder, sizes: Sequence[int] = BATCHES) -> None:
        """Compile for every size. Raises CompileError."""
        self._vision = vision
        self._sizes = tuple(sizes)
        self._device = vision.mean.device
        self._buffers: dict[int, Tensor] = {}
        on_cuda = self._device.type == "cuda"
        self._compiled = torch.compile(
            vision.forward, fullgraph=True, dynamic=False, mode="reduce-overhead" if on_cuda else None
        )
        # CUDA graphs belong to the thread that records them, and Ray Data calls an actor from another thread than the
        # one that created it. In our own thread, inference mode is always off, whatever the caller's thread does:
        # compiled code depends on that mode, and on that of its inputs.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="malmm-compiled")
        try:
            self._thread.submit(self._warm_up).result()
        except Exception as error:
            raise CompileError(_sentence(error)) from error

    def __call__(self, frames_BHWC: Tensor) -> Tensor:
        """Visual tokens [B, N, C] of uint8 frames [B, H, W, 3]. Raises ValueError for another frame size."""
        self._vision.check(frames_BHWC)
        return self._thread.submit(self._tokens, frames_BHWC).result()

    @torch.no_grad()
    def _warm_up(self) -> None:
        side = self._vision.image_size
        with warnings.catch_warnings():
            # Warnings of torch's own modules, on import.
            warnings.simplefilter("ignore")
            for size in self._sizes:
                self._buffers[size] = torch.zeros(size, side, side, 3, dtype=torch.uint8, device=self._device)
                for _ in range(_CALLS_BEFORE_REPLAY if self._device.type == "cuda" else 1):
                    self._run(size)

    @torch.no_grad()
    def _tokens(self, frames_BHWC: Tensor) -> Tensor:
        vision = self._vision
        shape = (len(frames_BHWC), vision.tokens_per_frame, vision.channels)
        tokens_BNC = torch.empty(shape, dtype=vision.model.dtype, device=self._device)
        begin = 0
        for size in batch_sizes(len(frames_BHWC), self._sizes):
            part_BHWC = vision.on_device(frames_BHWC[begin : begin + size])
            count = len(part_BHWC)
            # The rest of the buffer has earlier frames, which do not change these frames' tokens.
            self._buffers[size][:count].copy_(part_BHWC)
            # A copy, since the next replay of the CUDA graph overwrites its output.
            tokens_BNC[begin : begin + count].copy_(self._run(size)[:count])
            begin += count
        return tokens_BNC

    def _run(self, size: int) -> Tensor:
        if self._device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        return self._compiled(self._buffers[size])


def try_compiler(device: torch.device) -> str | None:
    """Compile a tiny function. Returns None if that works, else the reason as a sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.compile(_next_to_nothing)(torch.ones(64, device=device))
    except Exception as error:  # noqa: BLE001 - any exception means that compiling does not work here
        return _sentence(error)
    return None


def _next_to_nothing(values: Tensor) -> Tensor:
    return (values * 2).exp() + 1


def _sentence(error: Exception) -> str:
    host = socket.gethostname()
    if any(type(each).__name__ == "InvalidCxxCompiler" for each in _causes(error)):
        return (
            f"--compile needs a C++ compiler, and {host} has none: install g++ there, name another in the environment "
            "variable CXX, or run without --compile"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # The line with the error is somewhere in the middle of a compiler's output.
    reason = next((line for line in lines if "error: " in line), lines[0])[:_LONGEST_REASON]
    return f"--compile does not work on {host}: {reason}; fix that or run without --compile"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those inside it: torch wraps the exceptions of its compilers."""
    while error is not None:
        yield error
        error = getattr(error, "inner_exception", None) or error.__cause__
