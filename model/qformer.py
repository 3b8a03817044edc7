"""The Q-Former, stepped online over frames with a visual memory bank and query memory banks.

Follows He et al., CVPR 2024 (arXiv 2404.05726), section 3, over the parameters of Hugging Face's
``InstructBlipQFormerModel``, unchanged and under their names. At every frame, cross-attention takes its keys
and values from the visual memory bank, and each self-attention takes its own from a query memory bank of
that layer's past inputs, for query rows and prompt rows alike.

What a plain implementation computes and this one need not, exactly:

* the input of layer 0 is the same at every frame, so all entries of its query bank are one vector, and
  attention over copies is attention over one: that layer's self-attention is computed once a pass;
* between frames only the banks carry state, so layers after the last bank run only where an output is
  wanted, and without query banks the Q-Former runs once, at the end;
* the visual bank does not depend on the prompt: K prompts share it, folded into the query length.

Shape suffixes: S segments, K prompts, R = S * K rows, T frames, N visual tokens a frame, C their channels,
Q query tokens, L prompt tokens, P = Q + L positions, D hidden size, H heads, E channels a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import InstructBlipQFormerModel

from malmm.model.bank import Bank, BankEntries
from malmm.model.policies import merge_policy

__all__ = ["MemorySettings", "OnlineQFormer", "OnlineState"]


@dataclass(frozen=True)
class MemorySettings:
    """How much a pass remembers. ``visual`` and ``query`` switch each bank; ``length`` is M."""

    length: int = 20
    policy: str = "token"
    visual: bool = True
    query: bool = True

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ValueError(f"a bank length of {self.length}: at least 1; switch a bank off instead")
        merge_policy(self.policy)


@dataclass
class OnlineState:
    """All that a pass over a batch of segments carries from frame to frame. Made by ``OnlineQFormer.start``.

    The segments are in order of falling length, so that those still going are the first ``active``.
    """

    visual: Bank
    query: Bank | None
    prompts_per_segment: int
    query_length: int
    active: int
    padding_RP: Tensor | None
    first_attention_RPD: Tensor

    @property
    def active_rows(self) -> int:
        """R: segments still going, times prompts."""
        return self.active * self.prompts_per_segment

    def retire(self, active: int) -> None:
        """Go on with the first ``active`` segments only; the others have ended."""
        self.active = active
        self.visual.retire(active)
        if self.query is not None:
            self.query.retire(self.active_rows * (self.query.rows // self.first_attention_RPD.shape[0]))

    def finish(self) -> list[BankEntries]:
        """Each segment's visual memory, compressed to the bank's length. Ends the pass."""
        return self.visual.finish()


class OnlineQFormer(nn.Module):
    """Steps a Q-Former over frames. Holds parameters only; a pass's memory is an ``OnlineState``."""

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
        """The type banks and attention are computed in."""
        return self.query_tokens.dtype

    @property
    def device(self) -> torch.device:
        """Where frames and prompts must be."""
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
        """Begin a pass of at most ``steps`` frames over S segments with K prompts each.

        ``attention_mask_SKL`` is 1 for prompt tokens and 0 for padding, None for no padding. Raises
        ValueError for prompts that are longer than the Q-Former's position table.
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
        positions = embedded_RPD.shape[1]
        policy = merge_policy(settings.policy)
        # Without query banks only frames whose output is wanted attend, so keys and values are not kept.
        banked_layers = len(self._layers) - 1 if settings.query else 0
        visual = Bank(
            rows=segments,
            length=settings.length if settings.visual else 0,
            steps=steps if settings.visual else 1,
            positions=tokens_per_frame,
            channels=self.visual_channels,
            companions=[self.hidden] * (2 * len(self._crossing)) if banked_layers else [],
            policy=policy if settings.visual else merge_policy("token"),
            device=self.device,
            dtype=self.dtype,
        )
        query = None
        if banked_layers:
            query = Bank(
                rows=rows * banked_layers,
                length=settings.length,
                steps=steps,
                positions=positions,
                channels=self.hidden,
                companions=[self.hidden, self.hidden],
                policy=policy,
                device=self.device,
                dtype=self.dtype,
                present_BN=None if padding_RP is None else padding_RP.repeat_interleave(banked_layers, dim=0),
            )
        return OnlineState(
            visual=visual,
            query=query,
            prompts_per_segment=prompts,
            query_length=queries,
            active=segments,
            padding_RP=padding_RP,
            first_attention_RPD=self._self_attention(0, embedded_RPD, padding_RP),
        )

    def step(
        self,
        state: OnlineState,
        frame_SNC: Tensor,
        *,
        want_output: bool = True,
        sizes_SN: Tensor | None = None,
    ) -> Tensor | None:
        """Take one frame of every active segment: ``frame_SNC`` [active, N, C] visual tokens.

        Gives the Q-Former's output [active * K, P, D] after the frame, or None when ``want_output`` is
        false, which skips what no later frame depends on. ``sizes_SN`` is how many frames each position
        already holds, for entries that are stored slots.
        """
        frame_SNC = frame_SNC.to(self.dtype)
        state.visual.advance(sizes_SN)
        if state.query is None:
            state.visual.write(frame_SNC)
            return self._run_without_query_bank(state) if want_output else None
        pairs = [
            projected
            for layer in self._crossing
            for projected in (
                layer.crossattention.attention.key(frame_SNC),
                layer.crossattention.attention.value(frame_SNC),
            )
        ]
        state.visual.write(frame_SNC, pairs)
        state.query.advance()
        hidden_RPD = self._layer(0, state.first_attention_RPD[: state.active_rows], state)
        for index in range(1, len(self._layers)):
            last = index == len(self._layers) - 1
            attention_RPD = self._banked_self_attention(
                index, hidden_RPD, state.query, state.padding_RP, only_store=last and not want_output
            )
            if attention_RPD is None:
                return None
            hidden_RPD = self._layer(index, attention_RPD, state)
        return hidden_RPD

    def _run_without_query_bank(self, state: OnlineState) -> Tensor:
        hidden_RPD = self._layer(0, state.first_attention_RPD[: state.active_rows], state)
        for index in range(1, len(self._layers)):
            hidden_RPD = self._layer(index, self._self_attention(index, hidden_RPD, state.padding_RP), state)
        return hidden_RPD

    def _split(self, x_BXD: Tensor) -> Tensor:
        """[B, X, D] seen as [B, H, X, E]."""
        return x_BXD.view(*x_BXD.shape[:2], self.heads, -1).transpose(1, 2)

    def _join(self, x_BHXE: Tensor) -> Tensor:
        """[B, H, X, E] as [B, X, D]."""
        return x_BHXE.transpose(1, 2).flatten(2)

    def _self_attention(self, index: int, hidden_RPD: Tensor, padding_RP: Tensor | None) -> Tensor:
        attention = self._layers[index].attention
        inner = attention.attention
        mask = None
        if padding_RP is not None:
            mask = padding_RP[: hidden_RPD.shape[0], None, None, :]
        context_RHPE = F.scaled_dot_product_attention(
            self._split(inner.query(hidden_RPD)),
            self._split(inner.key(hidden_RPD)),
            self._split(inner.value(hidden_RPD)),
            attn_mask=mask,
        )
        return attention.output(self._join(context_RHPE), hidden_RPD)

    def _banked_self_attention(
        self, index: int, hidden_RPD: Tensor, bank: Bank, padding_RP: Tensor | None, *, only_store: bool
    ) -> Tensor | None:
        attention = self._layers[index].attention
        inner = attention.attention
        rows = hidden_RPD.shape[0]
        banked_layers = len(self._layers) - 1
        place = slice(index - 1, None, banked_layers)
        bank.write_rows(place, hidden_RPD, [inner.key(hidden_RPD), inner.value(hidden_RPD)])
        if only_store:
            return None
        key_RXD, value_RXD = (
            buffer[: bank.active][place, : bank.count].flatten(1, 2) for buffer in bank.companions_BSND
        )
        mask = None
        if padding_RP is not None:
            mask = padding_RP[:rows, None, None, :].repeat(1, 1, 1, bank.count)
        context_RHPE = F.scaled_dot_product_attention(
            self._split(inner.query(hidden_RPD)), self._split(key_RXD), self._split(value_RXD), attn_mask=mask
        )
        return attention.output(self._join(context_RHPE), hidden_RPD)

    def _layer(self, index: int, attention_RPD: Tensor, state: OnlineState) -> Tensor:
        """Cross-attention and feed-forward of one layer, on the output of its self-attention."""
        layer = self._layers[index]
        query_RQD = attention_RPD[:, : state.query_length]
        if layer.has_cross_attention:
            query_RQD = self._cross_attention(layer, query_RQD, state)
        query_RQD = layer.feed_forward_chunk_query(query_RQD)
        if attention_RPD.shape[1] == state.query_length:
            return query_RQD
        text_RLD = layer.feed_forward_chunk(attention_RPD[:, state.query_length :])
        return torch.cat([query_RQD, text_RLD], dim=1)

    def _cross_attention(self, layer: Any, query_RQD: Tensor, state: OnlineState) -> Tensor:
        attention = layer.crossattention
        inner = attention.attention
        bank = state.visual
        active, count = bank.active, bank.count
        if bank.companions_BSND:
            place = 2 * self._crossing.index(layer)
            key_SXD, value_SXD = (
                buffer[:active, :count].flatten(1, 2) for buffer in bank.companions_BSND[place : place + 2]
            )
        else:
            tokens_SXC = bank.tokens_BSNC[:active, :count].flatten(1, 2)
            key_SXD, value_SXD = inner.key(tokens_SXC), inner.value(tokens_SXC)
        rows, queries, hidden = query_RQD.shape
        folded_SYD = inner.query(query_RQD).view(active, -1, hidden)
        context_SHYE = F.scaled_dot_product_attention(
            self._split(folded_SYD), self._split(key_SXD), self._split(value_SXD)
        )
        return attention.output(self._join(context_SHYE).view(rows, queries, hidden), query_RQD)


def falling_order(lengths: Sequence[int]) -> list[int]:
    """Indices of ``lengths`` from the longest on, equal ones in their given order."""
    return sorted(range(len(lengths)), key=lambda index: -lengths[index])
