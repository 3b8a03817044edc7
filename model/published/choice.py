"""Which published model fits a machine, and which one is the default.

Memory is estimated from the catalogue's figures, with a reserve for what is not counted. It was not measured on cards.
"""

from __future__ import annotations

from math import prod

from malmm.model.families.registry import row_of, token_shape
from malmm.model.published.catalogue import PublishedModel, published

__all__ = ["choose", "fits", "needed_bytes", "operations_a_segment", "speed_class"]

# The first that fits. Qwen3-VL's Instruct models answer at once. Qwen3.5 is left out because its chat templates may
# have the model think first, which was not checked on a published one. All of these have the licence Apache-2.0. On a
# CPU each word reads all weights: small language models are taken.
_ON_A_GPU = ("qwen3-vl-8b", "qwen3-vl-4b", "qwen3-vl-2b", "smolvlm2-500m", "smolvlm2-256m")
_ON_A_CPU = ("smolvlm2-500m", "smolvlm2-256m")
# Of a run as it is by default: a bank of 20 slots, a segment of 100 frames, a prompt and an answer.
_SLOTS = 20
_FRAMES = 100
_WORDS = 256
# Two processes with torch, activations of a batch of frames, allocators' gaps.
_RESERVE_BYTES = 1_500_000_000
# Operations a segment, in those of the smallest model.
_CLASSES = ((1.5, "fast"), (3.0, "medium"))
_MEASURE = "smolvlm2-256m"


def needed_bytes(model: PublishedModel, *, gpu: bool) -> int:
    """About the bytes that encoder and language model need together: weights, one bank, one cache and a reserve.

    On a GPU weights are in half precision, on a CPU in single precision; a Q-Former is in single precision on both.
    """
    each = 2 if gpu else 4
    plain = row_of(model.checkpoint).reads_slots
    weights = each * (model.vision + model.language) + (each if plain else 4) * model.projector
    shape = token_shape(model.checkpoint)
    bank = 4 * (_SLOTS + 1) * prod(shape)
    # InstructBLIP's language model reads 32 queries of a memory. A prefill is copied for each prompt.
    read = (_SLOTS * shape[0] if plain else 32) + _WORDS
    return weights + bank + 2 * read * model.kv_bytes_a_token * each // 2 + _RESERVE_BYTES


def fits(model: PublishedModel, *, ram_bytes: int, gpu_bytes: int | None) -> bool:
    """Whether a worker with that memory can hold it. With a GPU, both parts go to the GPU."""
    if gpu_bytes is not None:
        return needed_bytes(model, gpu=True) <= gpu_bytes
    return needed_bytes(model, gpu=False) <= ram_bytes


def operations_a_segment(model: PublishedModel) -> int:
    """Operations of 100 frames through vision encoder and projector, and of one prompt and its answer."""
    read = (_SLOTS * model.tokens_a_slot if row_of(model.checkpoint).reads_slots else 32) + _WORDS
    return _FRAMES * model.frame_flop + 2 * model.language * read


def speed_class(model: PublishedModel) -> str:
    """``fast``, ``medium`` or ``slow``, by the operations of a segment compared with the smallest model's."""
    measure = published(_MEASURE)
    if measure is None:
        raise LookupError(f"the catalogue has no {_MEASURE}")
    ratio = operations_a_segment(model) / operations_a_segment(measure)
    return next((name for most, name in _CLASSES if ratio <= most), "slow")


def choose(*, ram_bytes: int, gpu_bytes: int | None) -> PublishedModel:
    """The default model: the first of a short list that fits workers with that memory, else the last of the list."""
    ladder = _ON_A_GPU if gpu_bytes is not None else _ON_A_CPU
    models = [model for short in ladder if (model := published(short)) is not None]
    return next(
        (model for model in models if fits(model, ram_bytes=ram_bytes, gpu_bytes=gpu_bytes)), models[-1]
    )
