"""SmolVLM2: SigLIP, a pixel shuffle and a linear layer, a small Llama. 64 or 81 tokens a frame.

The smallest family, so read this one first: a vision part, the text around slots, and ``FAMILY``.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, SmolVLMModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.checkpoints.normalisation import HALF, Normalisation, image_normalisation
from malmm.model.checkpoints.parts import load_without
from malmm.model.families.family import Slots
from malmm.model.families.number_words import in_words
from malmm.model.families.plain.family import PlainFamily
from malmm.model.families.plain.language import Wording
from malmm.model.families.plain.vision import StepVision

__all__ = ["FAMILY", "WORDING", "step_vision"]

# The template that its processor uses for videos, whatever the checkpoint has.
_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == "
    "'image' %}{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}"
    "{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% elif line['type'] == 'video' %}{{ '<video>' }}"
    "{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_INTRODUCTION = "You are provided the following series of {count} frames from a {length} [H:MM:SS] video.\n"
_LANGUAGE = r"text_model\.|lm_head\."
_FENCE = "<fake_token_around_image>"
_FRAME = f"\nFrame from {{minutes:02d}}:{{seconds:02d}}:{_FENCE}<global-img>{{tokens}}{_FENCE}"


def _tokens(model: Any, pixels_BCHW: Tensor) -> Tensor:
    """Tokens [B, N, 1, C]. ``get_image_features`` would drop pictures whose normalised pixels are all 0."""
    batch, _, height, width = pixels_BCHW.shape
    patch = model.config.vision_config.patch_size
    mask = torch.ones(batch, height // patch, width // patch, dtype=torch.bool, device=pixels_BCHW.device)
    seen = model.vision_model(pixel_values=pixels_BCHW, patch_attention_mask=mask).last_hidden_state
    tokens_BNC: Tensor = model.connector(seen)
    return tokens_BNC[:, :, None]


def _vision(checkpoint: Checkpoint, config: Any, dtype: torch.dtype, side: int) -> StepVision:
    config.text_config.num_hidden_layers = 0
    config.text_config.vocab_size = 1
    config.text_config.pad_token_id = None
    model = load_without(checkpoint, SmolVLMModel, config, dtype, left_out=_LANGUAGE)
    return step_vision(model, _normalised(checkpoint), side)


def step_vision(model: Any, normalisation: Normalisation, side: int) -> StepVision:
    """The vision part of a ``SmolVLMModel`` for frames of ``side`` pixels."""
    return StepVision(model, _tokens, normalisation, image_size=side)


def _normalised(checkpoint: Checkpoint) -> Normalisation:
    return image_normalisation(checkpoint, default=HALF, parts=("video_processor", "image_processor"))


def _without_vision(config: Any) -> None:
    config.vision_config.num_hidden_layers = 0


def _seen(slots: Slots) -> str:
    """The text for slots, as SmolVLM's processor writes it for frames."""
    tokens = "<image>" * slots.tokens.shape[1]
    length = timedelta(seconds=int(slots.end_s))
    said = [_INTRODUCTION.format(count=in_words(len(slots.tokens)), length=length)]
    for time_s in slots.times_s:
        said.append(_FRAME.format(minutes=int(time_s // 60), seconds=int(time_s % 60), tokens=tokens))
    return "".join(said) + "\n\n"


def _inputs(model: Any, tokens_SNC: Tensor, ids_1L: Tensor) -> dict[str, Any]:
    return {
        "mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=[tokens_SNC.flatten(0, 1)])}
    }


def _wording(checkpoint: Checkpoint, config: Any, tokenizer: PreTrainedTokenizerBase) -> Wording:
    return WORDING


WORDING = Wording(_TEMPLATE, "<video>", "<image>", _seen, _inputs)
"""How slots are written into a prompt, by every checkpoint of the family."""

FAMILY = PlainFamily(
    name="SmolVLM2",
    config_class="SmolVLMConfig",
    model_class="SmolVLMForConditionalGeneration",
    prefixes=("model.vision_model.", "model.connector.", "model.text_model."),
    vision=_vision,
    normalised=_normalised,
    without_vision=_without_vision,
    vision_names=r"vision_model\.",
    language_names=_LANGUAGE,
    projector_names=r"connector\.",
    wording=_wording,
)
