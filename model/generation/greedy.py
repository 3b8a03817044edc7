"""Greedy decoding of a batch whose rows leave it as soon as their text has ended.

transformers' `generate` computes ended rows until the last one ends, and has no way to drop them. Scores, processors
and stopping are as there: a row's tokens do not depend on what else is in the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessorList, MinNewTokensLengthLogitsProcessor
from transformers.generation.streamers import BaseStreamer

from malmm.model.decoding import Decoding, TextTokens
from malmm.model.generation.rows import Rows

__all__ = ["greedy_ids"]


@torch.inference_mode()
def greedy_ids(
    rows: Rows,
    decoding: Decoding,
    tokens: TextTokens,
    processors: LogitsProcessorList,
    *,
    before: int | None = None,
    streamer: BaseStreamer | None = None,
) -> Tensor:
    """The new ids [B, L] of each row with the token that ends it, padded at the end.

    ``before`` is a token before the new ones, which ``processors`` are shown and which is not returned. ``rows`` is
    used up.
    """
    count, device = len(rows.logits_BV), rows.logits_BV.device
    history = torch.full((count, before is not None), before or 0, device=device)
    scoring = LogitsProcessorList(processors)
    if decoding.min_new_tokens and tokens.end:
        shortest = MinNewTokensLengthLogitsProcessor(
            history.shape[1], decoding.min_new_tokens, list(tokens.end), device=str(device)
        )
        scoring.insert(0, shortest)
    ends = frozenset(tokens.end)
    made: list[list[int]] = [[] for _ in range(count)]
    places = list(range(count))
    if streamer is not None:
        streamer.put(history.cpu())
    while True:
        scores_BV = scoring(history, rows.logits_BV.to(torch.float32, copy=True))
        ids_B = scores_BV.argmax(-1)
        chosen = ids_B.tolist()
        if streamer is not None:
            streamer.put(ids_B.cpu())
        for place, token in zip(places, chosen, strict=True):
            made[place].append(token)
        unended = [row for row, token in enumerate(chosen) if token not in ends]
        if not unended or len(made[places[0]]) == decoding.max_new_tokens:
            break
        history = torch.cat([history, ids_B[:, None]], dim=1)
        if len(unended) < len(places):
            kept = torch.tensor(unended, device=device)
            rows.keep(kept)
            history, ids_B = history[kept], ids_B[kept]
            places = [places[row] for row in unended]
        rows.advance(ids_B)
    if streamer is not None:
        streamer.end()
    longest = max(map(len, made))
    padded = [ids + [tokens.padding] * (longest - len(ids)) for ids in made]
    return torch.tensor(padded, device=device)
