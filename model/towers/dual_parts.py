"""Load one side of a dual encoder, by transformers' own class with an almost empty other side.

transformers builds image and text side as one model. To load one of them, the other's configuration is made as small as
possible, so that none of its weights are read or held.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.normalisation import CLIP, HALF, Normalisation
from malmm.model.checkpoints.parts import load_without, tokenizer_for

__all__ = ["KINDS", "DualKind", "image_side", "kind_of", "text_side", "verify_tensors"]

_IMAGES = r"^(vision_model|visual_projection)\."
_TEXTS = r"^(text_model|text_projection)\."
# As small as attention allows. The text side keeps a few tokens, since padding and end must be among them.
_NO_IMAGES = {
    "num_hidden_layers": 0,
    "hidden_size": 1,
    "num_attention_heads": 1,
    "intermediate_size": 1,
    "image_size": 1,
    "patch_size": 1,
}
_NO_TEXTS = {
    "num_hidden_layers": 0,
    "hidden_size": 1,
    "num_attention_heads": 1,
    "intermediate_size": 1,
    "vocab_size": 8,
}


@dataclass(frozen=True)
class DualKind:
    """What differs between dual encoders: names of transformers' classes, and how texts and pictures are prepared.

    ``pads_to_end`` pads every text to the length of the table of positions. ``lower_case`` lower-cases texts: all
    checkpoints of such a kind were trained so, but not all of their tokenizers do it. ``crops`` and ``normalisation``
    are the defaults of the kind's processor, for a checkpoint that does not set them.
    """

    model_class: str
    config_class: str
    pads_to_end: bool = False
    lower_case: bool = False
    crops: bool = True
    normalisation: Normalisation = CLIP


KINDS = {
    # SigLIP 2 of fixed resolution is of the same type, with Gemma's tokenizer.
    "siglip": DualKind(
        "SiglipModel", "SiglipConfig", pads_to_end=True, lower_case=True, crops=False, normalisation=HALF
    ),
    "clip": DualKind("CLIPModel", "CLIPConfig"),
    "metaclip_2": DualKind("MetaClip2Model", "MetaClip2Config"),
    "chinese_clip": DualKind("ChineseCLIPModel", "ChineseCLIPConfig"),
}


def kind_of(checkpoint: Checkpoint) -> DualKind:
    """The kind of a dual encoder's checkpoint."""
    return KINDS[checkpoint.config["model_type"]]


def image_side(checkpoint: Checkpoint, dtype: torch.dtype) -> PreTrainedModel:
    """The model without its text side, for ``get_image_features``. Raises CheckpointError."""
    config = _config(checkpoint)
    _shrink(config.text_config, _NO_TEXTS)
    model = load_without(checkpoint, _class(checkpoint), config, dtype, left_out=_TEXTS)
    return _without(model, "text_model", "text_projection")


def text_side(
    checkpoint: Checkpoint, dtype: torch.dtype
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, int]:
    """The model without its image side, for ``get_text_features``, its tokenizer and the longest text in tokens.

    Raises CheckpointError.
    """
    config = _config(checkpoint)
    tokenizer, longest = _tokenizer(checkpoint, config)
    _shrink(config.vision_config, _NO_IMAGES)
    model = load_without(checkpoint, _class(checkpoint), config, dtype, left_out=_IMAGES)
    return _without(model, "vision_model", "visual_projection"), tokenizer, longest


def verify_tensors(checkpoint: Checkpoint) -> None:
    """Compare all tensors with the model's from headers alone, and read the tokenizer. Raises CheckpointError."""
    config = _config(checkpoint)
    with torch.device("meta"):
        model = _class(checkpoint)._from_config(config)
    checkpoint.check(model, "")
    _tokenizer(checkpoint, config)


def _config(checkpoint: Checkpoint) -> Any:
    config = copy.deepcopy(checkpoint.parsed(getattr(transformers, kind_of(checkpoint).config_class)))
    for part in ("text_config", "vision_config"):
        if getattr(config, part, None) is None:
            raise CheckpointError(f"model {checkpoint.name!r}: its config.json has no {part}")
    return config


def _class(checkpoint: Checkpoint) -> Any:
    return getattr(transformers, kind_of(checkpoint).model_class)


def _tokenizer(checkpoint: Checkpoint, config: Any) -> tuple[PreTrainedTokenizerBase, int]:
    text = config.text_config
    tokenizer = tokenizer_for(checkpoint, int(text.vocab_size), part="the text side")
    if tokenizer.pad_token_id is None:
        raise CheckpointError(f"model {checkpoint.name!r}: its tokenizer has no padding token")
    return tokenizer, min(int(text.max_position_embeddings), int(tokenizer.model_max_length))


def _shrink(config: Any, sizes: dict[str, int]) -> None:
    for name, value in sizes.items():
        setattr(config, name, value)


def _without(model: PreTrainedModel, *parts: str) -> PreTrainedModel:
    for part in parts:
        if hasattr(model, part):
            delattr(model, part)
    return model.eval().requires_grad_(False)
