"""The table of model families. Importing it loads neither torch nor transformers.

To add a family, add a file or folder beside this one with a ``malmm.model.families.family.Family``, and a row here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from math import ceil
from typing import TYPE_CHECKING, Any

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.processor_settings import PROCESSOR_FILES, VIDEO_FILE, processor_settings

if TYPE_CHECKING:
    from malmm.model.families.family import Family

__all__ = [
    "FAMILIES",
    "FamilyRow",
    "family_of",
    "image_size",
    "refuse_other_processor",
    "row_of",
    "token_shape",
]


@dataclass(frozen=True)
class FamilyRow:
    """One family: the ``model_type`` of its checkpoints, its ``name``, and the module that has ``FAMILY``.

    ``parts`` are the sections that ``config.json`` must have. ``image_size`` returns the side of its square frames in
    pixels from ``config.json``; it is part of the recipe. ``reads_slots`` is false for Q-Former families, whose
    retrieval model reads their memory. ``token_shape`` returns the shape of a slot's tokens, (N, C), or (N, L, C) for
    families with L tensors a token; ``frames_per_step`` frames make one. ``licence`` is that of the publisher's page.
    ``processors`` are beginnings of the class names of its processors.
    """

    model_type: str
    name: str
    module: str
    parts: tuple[str, ...]
    image_size: Callable[[dict[str, Any]], int]
    token_shape: Callable[[dict[str, Any]], tuple[int, ...]]
    processors: tuple[str, ...]
    reads_slots: bool = True
    frames_per_step: int = 1
    licence: str = "Apache-2.0"


def _own_size(default: int) -> Callable[[dict[str, Any]], int]:
    """The size in the vision encoder's configuration."""
    return lambda config: int(config["vision_config"].get("image_size", default))


def _qwen_size(config: dict[str, Any]) -> int:
    """The size with 64 tokens a frame: Qwen's own depends on a clip's length, but a bank needs one size."""
    vision = config["vision_config"]
    return 8 * int(vision.get("patch_size", 16)) * int(vision.get("spatial_merge_size", 2))


def _patches(config: dict[str, Any], size: int, patch: int) -> int:
    """Patches on a side of a frame; ``size`` and ``patch`` are transformers' defaults."""
    vision = config["vision_config"]
    return int(vision.get("image_size", size)) // int(vision.get("patch_size", patch))


def _channels(config: dict[str, Any]) -> int:
    return int(config["text_config"]["hidden_size"])


def _instructblip_shape(config: dict[str, Any]) -> tuple[int, ...]:
    return _patches(config, 224, 14) ** 2 + 1, int(config["vision_config"].get("hidden_size", 1408))


def _smolvlm_shape(config: dict[str, Any]) -> tuple[int, ...]:
    return (_patches(config, 224, 32) // int(config.get("scale_factor", 2))) ** 2, _channels(config)


def _llava_shape(config: dict[str, Any]) -> tuple[int, ...]:
    return ceil(_patches(config, 384, 14) / 2) ** 2, _channels(config)


def _qwen_shape(config: dict[str, Any]) -> tuple[int, ...]:
    return 64, _channels(config)


def _deepstack_shape(config: dict[str, Any]) -> tuple[int, ...]:
    layers = 1 + len(config["vision_config"].get("deepstack_visual_indexes", (8, 16, 24)))
    return 64, layers, _channels(config)


_PLAIN = ("vision_config", "text_config")
# Published ones go up to 512. Each frame of a segment is held in memory decoded.
_LARGEST_SIDE = 2048

FAMILIES = {
    row.model_type: row
    for row in (
        FamilyRow(
            "instructblip",
            "InstructBLIP",
            "malmm.model.families.instructblip.family",
            ("vision_config", "qformer_config", "text_config"),
            _own_size(224),
            _instructblip_shape,
            ("InstructBlip", "Blip"),
            reads_slots=False,
            licence="other (LLaMA's) with Vicuna, MIT with FLAN-T5",
        ),
        FamilyRow(
            "smolvlm",
            "SmolVLM2",
            "malmm.model.families.smolvlm",
            _PLAIN,
            _own_size(512),
            _smolvlm_shape,
            ("SmolVLM", "Idefics3"),
        ),
        FamilyRow(
            "llava_onevision",
            "LLaVA-OneVision",
            "malmm.model.families.llava_onevision",
            _PLAIN,
            _own_size(384),
            _llava_shape,
            ("LlavaOnevision",),
        ),
        FamilyRow(
            "qwen3_vl",
            "Qwen3-VL",
            "malmm.model.families.qwen3_vl",
            _PLAIN,
            _qwen_size,
            _deepstack_shape,
            ("Qwen",),
            frames_per_step=2,
        ),
        FamilyRow(
            "qwen3_5",
            "Qwen3.5",
            "malmm.model.families.qwen3_5",
            _PLAIN,
            _qwen_size,
            _qwen_shape,
            ("Qwen",),
            frames_per_step=2,
        ),
    )
}


def row_of(checkpoint: Checkpoint) -> FamilyRow:
    """The family of a checkpoint. Raises CheckpointError, with the list of families, if there is none."""
    row = FAMILIES.get(checkpoint.config.get("model_type", ""))
    if row is None:
        known = ", ".join(f"{row.name} ({row.model_type})" for row in FAMILIES.values())
        raise CheckpointError(
            f"model {checkpoint.name!r} is of type {checkpoint.config.get('model_type')!r}, which no model family "
            f"covers. Families: {known}"
        )
    return row


def refuse_other_processor(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError if a processor's file in the checkpoint is by its class another family's.

    Its mean, deviation and size would be taken for this one's. Classes of no family are not looked at.
    """
    row = row_of(checkpoint)
    for path, settings in processor_settings(checkpoint, files=(*PROCESSOR_FILES, VIDEO_FILE), parts=()):
        for key in ("processor_class", "image_processor_type", "video_processor_type"):
            name = settings.get(key)
            if not isinstance(name, str) or name.startswith(row.processors):
                continue
            others = [other.name for other in FAMILIES.values() if name.startswith(other.processors)]
            if others:
                raise CheckpointError(
                    f"model {checkpoint.name!r} is of {row.name}, but {path} has {key} {name!r}, which is of "
                    f"{others[0]}: take the file of the publisher's repository"
                )


def family_of(checkpoint: Checkpoint) -> Family:
    """The family's implementation. Raises CheckpointError as ``row_of`` does."""
    found: Family = import_module(row_of(checkpoint).module).FAMILY
    return found


def image_size(checkpoint: Checkpoint) -> int:
    """Side in pixels of a checkpoint's square frames. Raises CheckpointError, also for frames that are too large."""
    side = _positive(checkpoint, "image size", lambda row: (row.image_size(checkpoint.config),))[0]
    if side > _LARGEST_SIDE:
        raise CheckpointError(
            f"model {checkpoint.name!r}: by vision_config in its config.json frames have a side of {side} pixels, and "
            f"{_LARGEST_SIDE} are taken at most: take the config.json of the publisher's repository"
        )
    return side


def token_shape(checkpoint: Checkpoint) -> tuple[int, ...]:
    """The shape of one slot's tokens, (N, C) or (N, L, C). Raises CheckpointError."""
    return _positive(checkpoint, "shape of tokens", lambda row: row.token_shape(checkpoint.config))


def _positive(
    checkpoint: Checkpoint, what: str, read: Callable[[FamilyRow], tuple[int, ...]]
) -> tuple[int, ...]:
    try:
        found = read(row_of(checkpoint))
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"model {checkpoint.name!r}: its config.json says no {what}: {error!r}"
        ) from error
    if min(found) < 1:
        raise CheckpointError(f"model {checkpoint.name!r}: its config.json says a {what} of {found}")
    return found
