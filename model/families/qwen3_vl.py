"""Qwen3-VL: two frames a step, and three "deepstack" tensors beside each token, which the first layers add.

Deepstack tensors go through the bank with the tokens, and are merged with the same pairs and weights. The time of a
slot is written before it, in seconds. Positions are computed by transformers: a slot counts as one step in time.

Shape suffixes: B frames, S steps, N tokens, L layers (the token and its deepstack tensors), C channels.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Qwen3VLVisionModel
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.checkpoints.normalisation import HALF, Normalisation, image_normalisation
from malmm.model.families.family import Slots
from malmm.model.families.plain.chat import chat_template
from malmm.model.families.plain.family import PlainFamily
from malmm.model.families.plain.language import Wording
from malmm.model.families.plain.vision import StepVision

__all__ = [
    "FAMILY",
    "FRAMES_A_STEP",
    "PLACEHOLDER",
    "normalised_by_qwen",
    "patches",
    "seen_by_qwen",
    "step_vision",
    "with_seen",
    "without_vision",
]

FRAMES_A_STEP = 2
PLACEHOLDER = "<|video_pad|>"


def patches(pixels_BCHW: Tensor, patch: int, merge: int) -> tuple[Tensor, Tensor]:
    """Pixels in Qwen's order, one row a patch of two frames, and the grid [S, 3] of each step."""
    frames, _, height, width = pixels_BCHW.shape
    steps, rows, columns = frames // FRAMES_A_STEP, height // patch, width // patch
    ordered = (
        pixels_BCHW.reshape(
            steps, FRAMES_A_STEP, 3, rows // merge, merge, patch, columns // merge, merge, patch
        )
        .permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
        .reshape(steps * rows * columns, -1)
    )
    return ordered, torch.tensor([[1, rows, columns]] * steps, device=pixels_BCHW.device)


def _tokens(model: Any, pixels_BCHW: Tensor) -> Tensor:
    steps = len(pixels_BCHW) // FRAMES_A_STEP
    ordered, grid_S3 = patches(pixels_BCHW, model.config.patch_size, model.config.spatial_merge_size)
    found = model(ordered, grid_thw=grid_S3, return_dict=True)
    layers = [found.pooler_output, *found.deepstack_features]
    return torch.stack([layer.view(steps, -1, layer.shape[-1]) for layer in layers], dim=2)


def normalised_by_qwen(checkpoint: Checkpoint) -> Normalisation:
    """How Qwen's processors normalise pixels. Raises CheckpointError."""
    return image_normalisation(
        checkpoint,
        default=HALF,
        files=("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json"),
        parts=("video_processor", "image_processor"),
    )


def step_vision(checkpoint: Checkpoint, model: Any, tokens_of: Any, side: int) -> StepVision:
    """Wrap one of Qwen's vision models as a vision part."""
    return StepVision(
        model,
        tokens_of,
        normalised_by_qwen(checkpoint),
        image_size=side,
        frames_per_step=FRAMES_A_STEP,
        multiple=model.config.patch_size * model.config.spatial_merge_size,
    )


def _vision(checkpoint: Checkpoint, config: Any, dtype: torch.dtype, side: int) -> StepVision:
    model = checkpoint.pretrained(Qwen3VLVisionModel, config.vision_config, "model.visual.", dtype)
    return step_vision(checkpoint, model, _tokens, side)


def without_vision(config: Any) -> None:
    """Empty a configuration's vision part in place."""
    config.vision_config.depth = 0
    if hasattr(config.vision_config, "deepstack_visual_indexes"):
        config.vision_config.deepstack_visual_indexes = []


def seen_by_qwen(slots: Slots) -> str:
    """The text for slots, as Qwen's processor writes it in place of the template's placeholder."""
    tokens = PLACEHOLDER * slots.tokens.shape[1]
    return "".join(
        f"<{time_s:.1f} seconds><|vision_start|>{tokens}<|vision_end|>" for time_s in slots.times_s
    )


def _grid(tokens: Tensor, merge: int) -> Tensor:
    """The grid [1, 3] of steps, rows and columns of patches of square slots [S, N, ...]."""
    side = isqrt(tokens.shape[1])
    if side * side != tokens.shape[1]:
        raise ValueError(f"slots of {tokens.shape[1]} tokens, which are not square")
    return torch.tensor([[len(tokens), side * merge, side * merge]], device=tokens.device)


def with_seen(model: Any, tokens: Tensor, ids_1L: Tensor, seen: Any) -> dict[str, Any]:
    """The language model's inputs for slots [S, N, ...] whose vision output is ``seen``."""
    return {
        "mm_token_type_ids": (ids_1L == model.config.video_token_id).int() * 2,
        "video_grid_thw": _grid(tokens, model.config.vision_config.spatial_merge_size),
        "mm_encoder_outputs": {"video": seen},
    }


def _inputs(model: Any, tokens_SNLC: Tensor, ids_1L: Tensor) -> dict[str, Any]:
    token, *deepstack = tokens_SNLC.flatten(0, 1).unbind(1)
    seen = BaseModelOutputWithDeepstackFeatures(
        pooler_output=[token.contiguous()], deepstack_features=[[layer.contiguous()] for layer in deepstack]
    )
    return with_seen(model, tokens_SNLC, ids_1L, seen)


def _wording(checkpoint: Checkpoint, config: Any, tokenizer: PreTrainedTokenizerBase) -> Wording:
    return Wording(chat_template(checkpoint, tokenizer), PLACEHOLDER, PLACEHOLDER, seen_by_qwen, _inputs)


FAMILY = PlainFamily(
    name="Qwen3-VL",
    config_class="Qwen3VLConfig",
    model_class="Qwen3VLForConditionalGeneration",
    prefixes=("model.visual.", "model.language_model."),
    vision=_vision,
    normalised=normalised_by_qwen,
    without_vision=without_vision,
    vision_names=r"visual\.",
    language_names=r"language_model\.|lm_head\.",
    projector_names=r"visual\.(merger|deepstack_merger_list)\.",
    wording=_wording,
    frames_per_step=FRAMES_A_STEP,
)
