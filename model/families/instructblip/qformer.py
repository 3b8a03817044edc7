"""The Q-Former, stepped online over frames with a visual memory bank and query memory banks.

Follows He et al., CVPR 2024 (arXiv 2404.05726), section 3, with the unchanged parameters of Hugging Face's
``InstructBlipQFormerModel``. At every frame, cross-attention takes keys and values from the visual memory bank. Each
self-attention takes them from a query memory bank of that layer's past inputs, for query rows and prompt rows alike.

Savings over a plain implementation, all of them exact:

* The input of layer 0 is the same at every frame, so all entries of its query bank are equal, and attention over copies
  is attention over one. That layer's self-attention is computed once a pass.
* Between frames only the banks carry state. So layers after the last bank run only if an output is wanted, and without
  query banks the Q-Former runs once, at the end.
* A bank holds a layer's inputs, never its outputs. So a layer at one frame depends on the layer below at this and
  earlier frames, and never on its own outputs. A layer can therefore process several frames at once, as a causal
  transformer processes tokens: one matrix product for all of them, then attention frame by frame while the bank
  changes. The weights are read once for all frames, which matters because one frame is little work.
* The visual bank does not depend on the prompt. K prompts share it, folded into the query length.

Shape suffixes: S segments, K prompts, R = S * K rows, T frames, N visual tokens a frame, C their channels,
Q query tokens, L prompt tokens, P = Q + L positions, D hidden size, H heads, E channels a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import InstructBlipQFormerModel

from malmm.model.memory.bank import Bank, BankEntries
from malmm.model.memory.merge_policies import merge_policy
from malmm.model.memory.merging import Change
from malmm.model.memory.settings import MemorySettings, falling_order

# The first and the last are those of malmm.model.memory.settings.
__all__ = ["MemorySettings", "OnlineQFormer", "OnlineState", "falling_order"]


class _Recalled:
    """Keys and values of a bank for one attention layer, which follow the bank's changes."""

    def __init__(self, bank: Bank, channels: int) -> None:
        self._key_BSND = bank.buffer(channels)
        self._value_BSND = bank.buffer(channels)

    @property
    def nbytes(self) -> int:
        """Bytes allocated for keys and values."""
        return self._key_BSND.nbytes + self._value_BSND.nbytes

    def after(self, change: Change, key_BND: Tensor, value_BND: Tensor) -> tuple[Tensor, Tensor]:
        """Apply a change; return keys and values [B, X, D] of all entries, with the appended one."""
        change.apply(self._key_BSND, key_BND)
        change.apply(self._value_BSND, value_BND)
        key_BXD, value_BXD = (
            buffer[: len(key_BND), : change.count].flatten(1, 2)
            for buffer in (self._key_BSND, self._value_BSND)
        )
        return key_BXD, value_BXD


@dataclass
class OnlineState:
    """The state of a pass over a batch of segments, from frame to frame. Made by ``OnlineQFormer.start``.

    Segments are ordered from the longest to the shortest, so that the first ``active`` have not ended. ``query`` has a
    bank for each layer after the first, or is empty.
    """

    visual: Bank
    visual_recalled: list[_Recalled]
    query: list[Bank]
    query_recalled: list[_Recalled]
    prompts_per_segment: int
    query_length: int
    active: int
    padding_RP: Tensor | None
    first_attention_RPD: Tensor

    @property
    def active_rows(self) -> int:
        """R: active segments times prompts."""
        return self.active * self.prompts_per_segment

    @property
    def visual_bytes(self) -> int:
        """Bytes of the visual bank with its keys and values."""
        return self.visual.nbytes + sum(kept.nbytes for kept in self.visual_recalled)

    @property
    def query_bytes(self) -> int:
        """Bytes of the query banks with their keys and values."""
        return sum(bank.nbytes for bank in self.query) + sum(kept.nbytes for kept in self.query_recalled)

    def retire(self, active: int) -> None:
        """Continue with the first ``active`` segments; the others have ended."""
        self.active = active
        self.visual.retire(active)
        for bank in self.query:
            bank.retire(self.active_rows)

    def finish(self) -> list[BankEntries]:
        """Return each segment's visual memory, compressed to the bank's length. Ends the pass."""
        return self.visual.finish()


class OnlineQFormer(nn.Module):
    """Steps a Q-Former over frames. Has only parameters; the state of a pass is an ``OnlineState``."""

    def __init__(self, qformer: InstructBlipQFormerModel, query_tokens: nn.Parameter) -> None:
        super().__init__()
        self.qformer = qformer
        self.query_tokens = query_tokens
        config = qformer.config
        self.heads = int(config.num_attention_heads)
        self.hidden = int(config.hidden_size)
        self.visual_channels = int(config.encoder_hidden_size)
        # transformers' layers are untyped modules of modules
        self._layers: list[Any] = list(qformer.encoder.layer)
        self._crossing: list[Any] = [layer for layer in self._layers if layer.has_cross_attention]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of banks and attention."""
        return self.query_tokens.dtype

    @property
    def device(self) -> torch.device:
        """The device on which frames and prompts must be."""
        return self.query_tokens.device

    def start(
        self,
        input_ids_SKL: Tensor,
        attention_mask_SKL: Tensor | None,
        *,
        steps: int,
        tokens_per_frame: int,
        settings: MemorySettings,
    ) -> OnlineState:
        """Start a pass of at most ``steps`` frames over S segments with K prompts each.

        ``attention_mask_SKL`` is 1 for prompt tokens and 0 for padding; None if there is no padding. Raises ValueError
        for prompts longer than the Q-Former's position table.
        """
        segments, prompts, length = input_ids_SKL.shape
        longest = self.qformer.config.max_position_embeddings
        if length > longest:
            raise ValueError(f"a prompt of {length} tokens: this Q-Former takes at most {longest}")
        rows = segments * prompts
        query_RQD = self.query_tokens.expand(rows, -1, -1)
        embedded_RPD = self.qformer.embeddings(
            input_ids=input_ids_SKL.reshape(rows, length), query_embeds=query_RQD
        )
        queries = query_RQD.shape[1]
        padding_RP = None
        if attention_mask_SKL is not None and not bool(attention_mask_SKL.all()):
            present_RQ = attention_mask_SKL.new_ones(rows, queries)
            mask_RP = torch.cat([present_RQ, attention_mask_SKL.reshape(rows, length)], dim=1)
            padding_RP = mask_RP.to(torch.bool)
        policy = merge_policy(settings.policy)
        visual = Bank(
            rows=segments,
            length=settings.length if settings.visual else 0,
            steps=steps if settings.visual else 1,
            positions=tokens_per_frame,
            channels=self.visual_channels,
            policy=policy if settings.visual else merge_policy("token"),
            device=self.device,
            dtype=self.dtype,
        )
        query = [
            Bank(
                rows=rows,
                length=settings.length,
                steps=steps,
                positions=embedded_RPD.shape[1],
                channels=self.hidden,
                policy=policy,
                device=self.device,
                dtype=self.dtype,
                present_BN=padding_RP,
            )
            for _ in self._layers[1:]
            if settings.query
        ]
        # Without query banks only the last frame attends, so keys and values are not stored.
        visual_recalled = [_Recalled(visual, self.hidden) for _ in self._crossing] if query else []
        return OnlineState(
            visual=visual,
            visual_recalled=visual_recalled,
            query=query,
            query_recalled=[_Recalled(bank, self.hidden) for bank in query],
            prompts_per_segment=prompts,
            query_length=queries,
            active=segments,
            padding_RP=padding_RP,
            first_attention_RPD=self._self_attention(0, embedded_RPD, padding_RP),
        )

    def step(
        self,
        state: OnlineState,
        frames_STNC: Tensor,
        *,
        want_output: bool = True,
        sizes_STN: Tensor | None = None,
    ) -> Tensor | None:
        """Process the next T frames of every active segment: ``frames_STNC`` [active, T, N, C] visual tokens.

        Returns the Q-Former's output [active * K, P, D] after the last frame. With ``want_output`` false, skips what no
        later frame depends on and returns None. The result does not depend on how many frames come at once; time and
        memory do. ``sizes_STN`` are the numbers of frames in each position, if the entries are stored slots.
        """
        frames_STNC = frames_STNC.to(self.dtype)
        changes = [
            state.visual.append(frame_SNC, None if sizes_STN is None else sizes_STN[:, time])
            for time, frame_SNC in enumerate(frames_STNC.unbind(1))
        ]
        hidden_RTPD = state.first_attention_RPD[: state.active_rows, None]  # the same at every frame
        if not state.query:
            return self._without_query_banks(state, hidden_RTPD) if want_output else None
        recalled = iter(state.visual_recalled)
        for index, layer in enumerate(self._layers):
            # The first frame whose output is needed: all frames, except in the last layer.
            begin = 0 if layer is not self._layers[-1] else len(changes) - want_output
            if index:
                hidden_RTPD = self._banked_self_attention(index, hidden_RTPD, state, begin)
            pairs = None
            if layer.has_cross_attention:
                pairs = self._recall(layer, frames_STNC, changes, next(recalled), begin)
            hidden_RTPD = self._rest_of_layer(layer, hidden_RTPD, state, len(changes) - begin, pairs)
        return hidden_RTPD[:, 0] if want_output else None

    def _without_query_banks(self, state: OnlineState, hidden_RTPD: Tensor) -> Tensor:
        """The output after the newest frame. It depends on earlier frames only through the visual bank."""
        tokens_SXC = state.visual.tokens_BSNC[: state.active, : state.visual.count].flatten(1, 2)
        for index, layer in enumerate(self._layers):
            if index:
                hidden_RTPD = self._self_attention(index, hidden_RTPD[:, 0], state.padding_RP)[:, None]
            pairs = None
            if layer.has_cross_attention:
                inner = layer.crossattention.attention
                pairs = iter([(inner.key(tokens_SXC), inner.value(tokens_SXC))])
            hidden_RTPD = self._rest_of_layer(layer, hidden_RTPD, state, 1, pairs)
        return hidden_RTPD[:, 0]

    def _attend(
        self, query_BXD: Tensor, key_BYD: Tensor, value_BYD: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Attention [B, X, D] of all heads."""
        query_BHXE, key_BHYE, value_BHYE = (
            x.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in (query_BXD, key_BYD, value_BYD)
        )
        context_BHXE = F.scaled_dot_product_attention(query_BHXE, key_BHYE, value_BHYE, attn_mask=mask)
        return context_BHXE.transpose(1, 2).flatten(2)

    def _self_attention(self, index: int, hidden_RPD: Tensor, padding_RP: Tensor | None) -> Tensor:
        attention = self._layers[index].attention
        inner = attention.attention
        mask = None
        if padding_RP is not None:
            mask = padding_RP[: hidden_RPD.shape[0], None, None, :]
        context_RPD = self._attend(
            inner.query(hidden_RPD), inner.key(hidden_RPD), inner.value(hidden_RPD), mask
        )
        return attention.output(context_RPD, hidden_RPD)

    def _banked_self_attention(
        self, index: int, hidden_RTPD: Tensor, state: OnlineState, begin: int
    ) -> Tensor:
        """Append the inputs of all frames to the query bank; return self-attention [R, T - begin, P, D] from ``begin``
        on.
        """
        attention = self._layers[index].attention
        inner = attention.attention
        bank, recalled = state.query[index - 1], state.query_recalled[index - 1]
        key_RTPD, value_RTPD = inner.key(hidden_RTPD), inner.value(hidden_RTPD)
        wanted_RTPD = hidden_RTPD[:, begin:]
        query_RTPD = inner.query(wanted_RTPD)
        context_RTPD = torch.empty_like(query_RTPD)
        for time, (hidden_RPD, key_RPD, value_RPD) in enumerate(
            zip(hidden_RTPD.unbind(1), key_RTPD.unbind(1), value_RTPD.unbind(1), strict=True)
        ):
            change = bank.append(hidden_RPD)
            key_RXD, value_RXD = recalled.after(change, key_RPD, value_RPD)
            if time < begin:
                continue
            mask = None
            if state.padding_RP is not None:
                mask = state.padding_RP[: len(hidden_RPD), None, None, :].repeat(1, 1, 1, change.count)
            context_RTPD[:, time - begin] = self._attend(
                query_RTPD[:, time - begin], key_RXD, value_RXD, mask
            )
        return attention.output(context_RTPD, wanted_RTPD)

    def _recall(
        self, layer: Any, frames_STNC: Tensor, changes: Sequence[Change], recalled: _Recalled, begin: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The visual bank's keys and values [S, X, D] as they are at each frame from ``begin`` on.

        They are views: each pair holds until the next is asked for, and all must be.
        """
        inner = layer.crossattention.attention
        keys, values = inner.key(frames_STNC).unbind(1), inner.value(frames_STNC).unbind(1)
        for time, (change, key_SND, value_SND) in enumerate(zip(changes, keys, values, strict=True)):
            pair = recalled.after(change, key_SND, value_SND)
            if time >= begin:
                yield pair

    def _rest_of_layer(
        self,
        layer: Any,
        attention_RTPD: Tensor,
        state: OnlineState,
        frames: int,
        pairs: Iterator[tuple[Tensor, Tensor]] | None,
    ) -> Tensor:
        """Cross-attention, with the keys and values of each frame, and feed-forward: [R, ``frames``, P, D].

        ``attention_RTPD`` is the output of the layer's self-attention, one for each frame or one for all.
        """
        query_RTQD = attention_RTPD[:, :, : state.query_length]
        if pairs is not None:
            query_RTQD = self._cross_attention(layer.crossattention, query_RTQD, state, frames, pairs)
        query_RTQD = layer.feed_forward_chunk_query(query_RTQD)
        if attention_RTPD.shape[2] == state.query_length:
            return query_RTQD
        text_RTLD = layer.feed_forward_chunk(attention_RTPD[:, :, state.query_length :])
        return torch.cat([query_RTQD, text_RTLD.expand(-1, frames, -1, -1)], dim=2)

    def _cross_attention(
        self,
        attention: Any,
        query_RTQD: Tensor,
        state: OnlineState,
        frames: int,
        pairs: Iterator[tuple[Tensor, Tensor]],
    ) -> Tensor:
        rows, _, queries, hidden = query_RTQD.shape
        projected_RTQD = attention.attention.query(query_RTQD).expand(-1, frames, -1, -1)
        context_RTQD = query_RTQD.new_empty(rows, frames, queries, hidden)
        for time, (key_SXD, value_SXD) in enumerate(pairs):
            # K prompts of a segment share its keys and values: they stand in one row of queries.
            folded_SYD = projected_RTQD[:, time].reshape(state.active, -1, hidden)
            context_SYD = self._attend(folded_SYD, key_SXD, value_SXD)
            context_RTQD[:, time] = context_SYD.view(rows, queries, hidden)
        return attention.output(context_RTQD, query_RTQD)
