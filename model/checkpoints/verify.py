"""Verify a run's checkpoints before any worker loads them: complete, readable, and matching each other.

Reads the files' headers and builds modules on torch's meta device, so that a wrong checkpoint raises one sentence on
the driver at once, instead of killing workers minutes later. Reads only the weights of the image encoders, to compare
them.
"""

from __future__ import annotations

import torch
from transformers import Blip2Config

from malmm.model.checkpoints.resolve import Models
from malmm.model.families.registry import family_of
from malmm.model.towers.blip2 import RETRIEVAL_PREFIXES, RetrievalModel, check_same_vision

__all__ = ["verify_models"]


def verify_models(models: Models) -> None:
    """Raise CheckpointError for a missing, unexpected or wrongly sized tensor, an unreadable tokenizer, or a retrieval
    model with another image encoder.
    """
    family_of(models.checkpoint).verify(models.checkpoint)
    retrieval = models.retrieval
    if retrieval is None:
        return
    retrieval.check_prefixes(RETRIEVAL_PREFIXES)
    config = retrieval.parsed(Blip2Config)
    tokenizer = retrieval.tokenizer()
    with torch.device("meta"):
        queries = torch.empty(1, config.num_query_tokens, config.qformer_config.hidden_size)
        model = RetrievalModel(config, tokenizer, queries, with_images=True)
    for name, part in model.named_children():
        retrieval.check(part, f"{name}.")
    check_same_vision(models.checkpoint, retrieval)
