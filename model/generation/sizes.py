"""Memory that a text takes while it is generated, and how much of a device's memory a batch may take."""

from __future__ import annotations

from typing import Any

import torch

from malmm.model.decoding import Decoding

__all__ = ["budget_bytes", "kv_bytes", "label_bytes", "text_bytes"]

# The rest is for activations, for copies when batches are put together, and for the vision part on the same device.
_SHARE_OF_FREE = 0.25
# What a process may take of the main memory cannot be known in general: containers have limits of their own.
_CPU_BYTES = 2**30
# Logits are copied and scored in float32.
_LOGIT_COPIES = 3
# An answer with a schema rarely comes near the longest text that matches.
_MOST_EXPECTED_TOKENS = 256
# Labels that are scored at once.
_LABELS_AT_ONCE = 32


def kv_bytes(text_config: Any, *, number_bytes: int) -> int:
    """Bytes of one token's keys and values in all layers, by a language model's configuration.

    Layers of linear attention keep none.
    """
    heads = getattr(text_config, "num_key_value_heads", None) or text_config.num_attention_heads
    width = (
        getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
    )
    kinds = getattr(text_config, "layer_types", None)
    layers = kinds.count("full_attention") if kinds else text_config.num_hidden_layers
    return int(2 * number_bytes * layers * heads * width)


def text_bytes(model: Any, prompt_tokens: int, decoding: Decoding) -> int:
    """Bytes that a request takes while its text is generated: keys, values and logits of each beam."""
    new_tokens = min(decoding.max_new_tokens, _MOST_EXPECTED_TOKENS)
    return decoding.num_beams * (
        (prompt_tokens + new_tokens) * _token_bytes(model) + _LOGIT_COPIES * _logit_bytes(model)
    )


def label_bytes(model: Any, prompt_tokens: int, labels: int, label_tokens: int) -> int:
    """Bytes that a request takes while so many labels, of so many tokens at most, are scored."""
    return min(labels, _LABELS_AT_ONCE) * (
        (prompt_tokens + label_tokens) * _token_bytes(model)
        + _LOGIT_COPIES * label_tokens * _logit_bytes(model)
    )


def budget_bytes(device: torch.device) -> int:
    """Bytes that a batch may take at first: a quarter of what is free on a CUDA device, 1 GiB elsewhere."""
    if device.type != "cuda":
        return _CPU_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    # What the allocator keeps and nothing uses is free, too.
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(1, int(_SHARE_OF_FREE * (free + unused)))


def _token_bytes(model: Any) -> int:
    return kv_bytes(model.config.get_text_config(), number_bytes=model.dtype.itemsize)


def _logit_bytes(model: Any) -> int:
    return 4 * int(model.config.get_text_config().vocab_size)
