"""Qwen3.5: like Qwen3-VL, but without deepstack tensors and with linear attention, whose state changes in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen3_5VisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.families.plain.chat import chat_template
from malmm.model.families.plain.family import PlainFamily
from malmm.model.families.plain.language import Wording
from malmm.model.families.plain.vision import StepVision
from malmm.model.families.qwen3_vl import (
    FRAMES_A_STEP,
    PLACEHOLDER,
    normalised_by_qwen,
    patches,
    seen_by_qwen,
    step_vision,
    with_seen,
    without_vision,
)

__all__ = ["FAMILY"]


def _tokens(model: Any, pixels_BCHW: Tensor) -> Tensor:
    ordered, grid_S3 = patches(pixels_BCHW, model.config.patch_size, model.config.spatial_merge_size)
    found: Tensor = model(ordered, grid_thw=grid_S3, return_dict=True).pooler_output
    return found.view(len(pixels_BCHW) // FRAMES_A_STEP, -1, 1, found.shape[-1])


def _vision(checkpoint: Checkpoint, config: Any, dtype: torch.dtype, side: int) -> StepVision:
    model = checkpoint.pretrained(Qwen3_5VisionModel, config.vision_config, "model.visual.", dtype)
    return step_vision(checkpoint, model, _tokens, side)


def _inputs(model: Any, tokens_SNC: Tensor, ids_1L: Tensor) -> dict[str, Any]:
    seen = BaseModelOutputWithPooling(pooler_output=[tokens_SNC.flatten(0, 1)])
    return with_seen(model, tokens_SNC, ids_1L, seen)


def _wording(checkpoint: Checkpoint, config: Any, tokenizer: PreTrainedTokenizerBase) -> Wording:
    template = chat_template(checkpoint, tokenizer)
    return Wording(template, PLACEHOLDER, PLACEHOLDER, seen_by_qwen, _inputs, state_in_place=True)


FAMILY = PlainFamily(
    name="Qwen3.5",
    config_class="Qwen3_5Config",
    model_class="Qwen3_5ForConditionalGeneration",
    prefixes=("model.visual.", "model.language_model."),
    vision=_vision,
    normalised=normalised_by_qwen,
    without_vision=without_vision,
    vision_names=r"visual\.",
    language_names=r"language_model\.|lm_head\.",
    projector_names=r"visual\.(merger|deepstack_merger_list)\.",
    wording=_wording,
    # Multi-token prediction, which transformers does not use.
    ignored=("mtp.",),
    frames_per_step=FRAMES_A_STEP,
)
