"""LLaVA-OneVision: SigLIP, a two-layer projector, pooling to 196 tokens a frame, Qwen2.

Like its processor, writes no times between frames. One learned "newline" token follows the last slot.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlavaOnevisionModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.checkpoints.normalisation import HALF, Normalisation, image_normalisation
from malmm.model.checkpoints.parts import load_without
from malmm.model.families.family import Slots
from malmm.model.families.plain.chat import chat_template
from malmm.model.families.plain.family import PlainFamily
from malmm.model.families.plain.language import Wording
from malmm.model.families.plain.vision import StepVision

__all__ = ["FAMILY"]

_LANGUAGE = r"language_model\.|lm_head\."


def _tokens(model: Any, pixels_BCHW: Tensor) -> Tensor:
    """Tokens [B, N, 1, C], without the newline token after the last frame."""
    found: Tensor = model.get_video_features(pixels_BCHW[None], return_dict=True).pooler_output[0, :-1]
    return found.view(len(pixels_BCHW), -1, 1, found.shape[-1])


def _vision(checkpoint: Checkpoint, config: Any, dtype: torch.dtype, side: int) -> StepVision:
    config.text_config.num_hidden_layers = 0
    config.text_config.vocab_size = 1
    config.text_config.layer_types = []
    model = load_without(checkpoint, LlavaOnevisionModel, config, dtype, left_out=_LANGUAGE)
    return StepVision(model, _tokens, _normalised(checkpoint), image_size=side)


def _normalised(checkpoint: Checkpoint) -> Normalisation:
    return image_normalisation(
        checkpoint,
        default=HALF,
        files=(
            "processor_config.json",
            "video_preprocessor_config.json",
            "video_processor/preprocessor_config.json",
            "preprocessor_config.json",
        ),
        parts=("video_processor", "image_processor"),
    )


def _without_vision(config: Any) -> None:
    config.vision_config.num_hidden_layers = 0


def _seen(slots: Slots) -> str:
    return "<video>" * (slots.tokens.shape[0] * slots.tokens.shape[1] + 1)


def _inputs(model: Any, tokens_SNC: Tensor, ids_1L: Tensor) -> dict[str, Any]:
    newline = model.model.image_newline[None].to(tokens_SNC.dtype)
    features = torch.cat([tokens_SNC.flatten(0, 1), newline])[None]
    return {"mm_encoder_outputs": {"video": BaseModelOutputWithPooling(pooler_output=features)}}


def _wording(checkpoint: Checkpoint, config: Any, tokenizer: PreTrainedTokenizerBase) -> Wording:
    return Wording(chat_template(checkpoint, tokenizer), "<video>", "<video>", _seen, _inputs)


FAMILY = PlainFamily(
    name="LLaVA-OneVision",
    config_class="LlavaOnevisionConfig",
    model_class="LlavaOnevisionForConditionalGeneration",
    prefixes=("vision_tower.", "multi_modal_projector.", "image_newline", "language_model.model."),
    vision=_vision,
    normalised=_normalised,
    without_vision=_without_vision,
    vision_names=r"vision_tower\.",
    language_names=_LANGUAGE,
    projector_names=r"multi_modal_projector\.|image_newline",
    wording=_wording,
    # Published files have the vision tower's inner model in their names; files saved by transformers 5 do not.
    renamed=(
        (r"^vision_tower\.(vision_model\.)?", "model.vision_tower."),
        (r"^language_model\.model\.", "model.language_model."),
        (r"^language_model\.lm_head\.", "lm_head."),
        (r"^(multi_modal_projector\.|image_newline)", r"model.\1"),
    ),
    optional=("language_model.lm_head.weight",),
    pools_projected=True,
)
