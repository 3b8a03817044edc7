"""The last step of an online pass, with gradients.

MA-LMM's banks hold detached past states (He et al., CVPR 2024: their implementation), so a pass learns only from its
last step. The steps before it run the shipped code, without gradients. Here the last step is computed again from the
banks' entries, with keys and values projected again, so that the projections learn too.

The input of layer 0 is the same at every frame, so its query bank holds n copies of it, of which n - 1 are detached.
Attention over n copies equals attention over one, and the input's gradient as key and value is 1 / n of the full one.

Shape suffixes: V videos, K prompts each, R rows (V x K), P positions (queries, then prompt), S entries, N
visual tokens, C channels, D hidden size, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from malmm.model.families.instructblip.qformer import OnlineQFormer

__all__ = ["last_step"]


def last_step(
    qformer: OnlineQFormer,
    input_ids_RL: Tensor,
    attention_mask_RL: Tensor,
    visual_VSNC: Tensor,
    visual_present_VS: Tensor,
    past_RSPD: Sequence[Tensor] | None = None,
    past_present_RS: Tensor | None = None,
) -> Tensor:
    """The Q-Former's output [R, P, D] for the newest frame, which is the last present entry of ``visual_VSNC``.

    ``past_RSPD`` are the entries of each layer's query bank (but the first's) before this step, and ``past_present_RS``
    their mask; None without query banks.
    """
    model: Any = qformer.qformer
    rows, videos = len(input_ids_RL), len(visual_VSNC)
    query_RQD = qformer.query_tokens.expand(rows, -1, -1)
    queries = query_RQD.shape[1]
    hidden_RPD = model.embeddings(input_ids=input_ids_RL, query_embeds=query_RQD)
    present_RP = torch.cat([attention_mask_RL.new_ones(rows, queries), attention_mask_RL], dim=1).to(
        torch.bool
    )
    tokens_VXC = visual_VSNC.flatten(1, 2)
    visible_VX = visual_present_VS.repeat_interleave(visual_VSNC.shape[2], dim=1)
    heads = qformer.heads

    def attend(inner: Any, query_BXD: Tensor, memory_BYC: Tensor, present_BY: Tensor) -> Tensor:
        def split(x_BXD: Tensor) -> Tensor:
            return x_BXD.view(*x_BXD.shape[:2], heads, -1).transpose(1, 2)

        context_BHXE = F.scaled_dot_product_attention(
            split(inner.query(query_BXD)),
            split(inner.key(memory_BYC)),
            split(inner.value(memory_BYC)),
            attn_mask=present_BY[:, None, None, :],
        )
        return context_BHXE.transpose(1, 2).flatten(2)

    for index, layer in enumerate(model.encoder.layer):
        memory_RYD, present_RY = hidden_RPD, present_RP
        if not index and past_present_RS is not None:
            copies_R11 = past_present_RS.sum(1)[:, None, None] + 1
            memory_RYD = hidden_RPD.detach() + (hidden_RPD - hidden_RPD.detach()) / copies_R11
        if index and past_RSPD is not None and past_present_RS is not None:
            before_RSPD = past_RSPD[index - 1]
            memory_RYD = torch.cat([before_RSPD.flatten(1, 2), hidden_RPD], dim=1)
            present_RSP = past_present_RS[:, :, None] & present_RP[:, None, :]
            present_RY = torch.cat([present_RSP.flatten(1), present_RP], dim=1)
        attention = layer.attention
        context_RPD = attend(attention.attention, hidden_RPD, memory_RYD, present_RY)
        hidden_RPD = attention.output(context_RPD, hidden_RPD)
        query_RQD = hidden_RPD[:, :queries]
        if layer.has_cross_attention:
            crossing = layer.crossattention
            folded_VYD = query_RQD.reshape(videos, -1, query_RQD.shape[-1])
            context_VYD = attend(crossing.attention, folded_VYD, tokens_VXC, visible_VX)
            query_RQD = crossing.output(context_VYD.reshape(query_RQD.shape), query_RQD)
        query_RQD = layer.feed_forward_chunk_query(query_RQD)
        text_RLD = layer.feed_forward_chunk(hidden_RPD[:, queries:])
        hidden_RPD = torch.cat([query_RQD, text_RLD], dim=1)
    return hidden_RPD
