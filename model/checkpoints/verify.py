"""Checking a run's checkpoints before any worker loads them: whole, of one kind with each other, readable.

Reads files' headers and builds modules on torch's meta device, so that a wrong checkpoint is one sentence on the
driver at once instead of a worker that dies minutes later. Of the weights only the image encoders' are read, to
compare them.
"""

from __future__ import annotations

import torch
from transformers import Blip2Config, InstructBlipConfig

from malmm.model.checkpoints.resolve import Models
from malmm.model.families.instructblip.encoder import INSTRUCTBLIP_OPTIONAL, INSTRUCTBLIP_PREFIXES
from malmm.model.footprint import meta_parts
from malmm.model.memory.positions import table_rows
from malmm.model.towers.blip2 import RETRIEVAL_PREFIXES, RetrievalModel, check_same_vision

__all__ = ["verify_models"]


def verify_models(models: Models) -> None:
    """Raise CheckpointError for a missing, unexpected or wrongly sized tensor, an unreadable tokenizer, or a
    retrieval model of another image encoder.
    """
    instructblip = models.instructblip
    instructblip.check_prefixes(INSTRUCTBLIP_PREFIXES, optional=INSTRUCTBLIP_OPTIONAL)
    config = instructblip.parsed(InstructBlipConfig)
    for name, part in meta_parts(config).items():
        if name != "query_tokens":
            instructblip.check(part, f"{name}.")
    table_rows(instructblip, int(config.qformer_config.encoder_hidden_size))
    instructblip.tokenizer()
    instructblip.tokenizer("qformer_tokenizer")
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
    check_same_vision(instructblip, retrieval)
