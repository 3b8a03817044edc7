"""Rows of a batch that is being generated: the keys and values of each text so far, and one step for all of them.

A row is dropped when its text ends. Rows whose prompts were computed in different calls can be joined into one batch.

Shape suffixes: B rows, P positions (prompt and new tokens), V vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, LinearAttentionLayer

__all__ = ["DecoderRows", "EncoderDecoderRows", "Rows", "joined"]

# Positions that are allocated at once. Appending one at a time would copy all keys and values at each step.
_ROOM = 64


class Rows(Protocol):
    """Texts that are generated together. ``logits_BV`` are those of each row's next token."""

    logits_BV: Tensor

    def advance(self, ids_B: Tensor) -> None:
        """Append a token to each row, and compute the next logits."""

    def keep(self, kept: Tensor) -> None:
        """Drop all rows but these, given by their places."""


class DecoderRows:
    """Rows of a decoder-only model, after its prompts.

    ``mask_BP`` marks the positions in the cache that are not padding, and ``positions_B`` are the rotary positions of
    the next tokens.
    """

    def __init__(
        self, model: Any, cache: Cache, logits_BV: Tensor, mask_BP: Tensor, positions_B: Tensor
    ) -> None:
        self.model, self.cache, self.logits_BV = model, cache, logits_BV
        self.mask_BP, self.positions_B = mask_BP, positions_B

    def advance(self, ids_B: Tensor) -> None:
        """As ``Rows``."""
        self.mask_BP = F.pad(self.mask_BP, (0, 1), value=1)
        self.logits_BV = self.model(
            input_ids=ids_B[:, None],
            attention_mask=self.mask_BP,
            position_ids=self.positions_B[:, None],
            past_key_values=self.cache,
            use_cache=True,
        ).logits[:, -1]
        self.positions_B = self.positions_B + 1

    def keep(self, kept: Tensor) -> None:
        """As ``Rows``."""
        # Not batch_select_indices, which layers of linear attention do not have.
        self.cache.reorder_cache(kept)
        self.mask_BP, self.positions_B = self.mask_BP[kept], self.positions_B[kept]


class EncoderDecoderRows:
    """Rows of an encoder-decoder model, whose decoder begins with ``start``.

    ``encoded_BPE`` is the encoder's output for the prompts, and ``mask_BP`` marks what is not padding in it.
    """

    def __init__(self, model: Any, encoded_BPE: Tensor, mask_BP: Tensor, start: int) -> None:
        self.model, self.encoded_BPE, self.mask_BP = model, encoded_BPE, mask_BP
        self.cache: Cache | None = None
        self.advance(mask_BP.new_full((len(mask_BP),), start))

    def advance(self, ids_B: Tensor) -> None:
        """As ``Rows``."""
        made = self.model(
            encoder_outputs=(self.encoded_BPE,),
            attention_mask=self.mask_BP,
            decoder_input_ids=ids_B[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.cache, self.logits_BV = made.past_key_values, made.logits[:, -1]

    def keep(self, kept: Tensor) -> None:
        """As ``Rows``."""
        if self.cache is not None:
            self.cache.reorder_cache(kept)
        self.encoded_BPE, self.mask_BP = self.encoded_BPE[kept], self.mask_BP[kept]


def joined(parts: Sequence[DecoderRows]) -> list[DecoderRows]:
    """All rows of the parts in one batch, in their order, or the parts as they are.

    Keys and values of shorter prompts are padded in front. Linear attention has one state of a fixed size for all that
    was read, so there is nothing to pad. Parts whose layers keep a sliding window cannot be joined. The parts' caches
    must not be used afterwards.
    """
    kinds = {type(layer) for part in parts for layer in part.cache.layers}
    if not kinds <= {DynamicLayer, LinearAttentionLayer}:
        return list(parts)
    first = parts[0]
    longest = max(part.mask_BP.shape[1] for part in parts)
    cache = DynamicCache(config=first.model.config)
    cache.layers = [
        _joined_states(layers)
        if isinstance(layers[0], LinearAttentionLayer)
        else _RoomyLayer(layers, longest)
        for layers in zip(*(part.cache.layers for part in parts), strict=True)
    ]
    masks = [F.pad(part.mask_BP, (longest - part.mask_BP.shape[1], 0)) for part in parts]
    return [
        DecoderRows(
            first.model,
            cache,
            torch.cat([part.logits_BV for part in parts]),
            torch.cat(masks),
            torch.cat([part.positions_B for part in parts]),
        )
    ]


class _RoomyLayer(DynamicLayer):
    """Keys and values [B, H, P, D] of one layer, with room for some positions more."""

    def __init__(self, layers: Sequence[DynamicLayer], longest: int) -> None:
        super().__init__()
        keys, values = ([getattr(layer, name) for layer in layers] for name in ("keys", "values"))
        self.dtype, self.device, self.is_initialized = keys[0].dtype, keys[0].device, True
        self._length = longest
        self._all_keys, self._all_values = (
            _padded(each, longest, longest + _ROOM) for each in (keys, values)
        )
        self._show()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, H, L, D], and return all."""
        begin = self._length
        self._length += key_states.shape[2]
        if self._length > self._all_keys.shape[2]:
            lacking = self._length - self._all_keys.shape[2] + _ROOM
            self._all_keys, self._all_values = (
                F.pad(each, (0, 0, 0, lacking)) for each in (self._all_keys, self._all_values)
            )
        self._all_keys[:, :, begin : self._length] = key_states
        self._all_values[:, :, begin : self._length] = value_states
        self._show()
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these rows, in this order."""
        self._all_keys = self._all_keys.index_select(0, beam_idx)
        self._all_values = self._all_values.index_select(0, beam_idx)
        self._show()

    def _show(self) -> None:
        """Set ``keys`` and ``values``, from which transformers reads the length, to what is filled."""
        self.keys = self._all_keys[:, :, : self._length]
        self.values = self._all_values[:, :, : self._length]


def _padded(states: Sequence[Tensor], longest: int, length: int) -> Tensor:
    """States [b, H, p, D] below each other, padded to the ``longest`` in front and to ``length`` behind."""
    _, heads, _, width = states[0].shape
    whole = states[0].new_zeros(sum(map(len, states)), heads, length, width)
    begin = 0
    for part in states:
        whole[begin : begin + len(part), :, longest - part.shape[2] : longest] = part
        begin += len(part)
    return whole


def _joined_states(layers: Sequence[LinearAttentionLayer]) -> LinearAttentionLayer:
    whole = copy.copy(layers[0])
    for name in ("conv_states", "recurrent_states"):
        states = [getattr(layer, name) for layer in layers]
        found = {key: [each[key] for each in states] for key in states[0]}
        setattr(whole, name, {k: None if each[0] is None else torch.cat(each) for k, each in found.items()})
    return whole
