"""The parts of an InstructBLIP model without weights, on torch's meta device: their names and shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import InstructBlipConfig, InstructBlipQFormerModel, InstructBlipVisionModel

from malmm.model.families.instructblip.language import language_class

__all__ = ["meta_parts"]


def meta_parts(config: InstructBlipConfig) -> dict[str, Any]:
    """The parts of an InstructBLIP model on the meta device, by the prefix of their parameters' names."""
    kind = language_class(config)
    with torch.device("meta"):
        query = torch.empty(1, config.num_query_tokens, config.qformer_config.hidden_size)
        language = kind._from_config(config.text_config)
        hidden = language.get_input_embeddings().weight.shape[1]
        return {
            "vision_model": InstructBlipVisionModel._from_config(config.vision_config),
            "qformer": InstructBlipQFormerModel._from_config(config.qformer_config),
            "query_tokens": nn.Parameter(query),
            "language_projection": nn.Linear(config.qformer_config.hidden_size, hidden),
            "language_model": language,
        }
