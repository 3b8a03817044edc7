"""Pixel normalisation of a checkpoint: mean and standard deviation of each channel, from its processor's settings."""

from __future__ import annotations

from typing import Any

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.processor_settings import PROCESSOR_FILES, processor_settings

__all__ = ["CLIP", "HALF", "Normalisation", "image_normalisation"]

#: Mean and standard deviation of red, green and blue, of values from 0 to 1.
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

#: Default of BLIP's image processors.
CLIP: Normalisation = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
#: Default of the processors of SmolVLM and Qwen.
HALF: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def image_normalisation(
    checkpoint: Checkpoint,
    *,
    default: Normalisation = CLIP,
    files: tuple[str, ...] = PROCESSOR_FILES,
    parts: tuple[str, ...] = ("image_processor",),
) -> Normalisation:
    """The checkpoint's normalisation, or ``default`` if it has none. Raises CheckpointError.

    Reads ``files`` in this order; of each, the first of ``parts`` that it has, else the whole file.
    """
    for path, settings in processor_settings(checkpoint, files=files, parts=parts):
        if "image_mean" in settings or "image_std" in settings:
            mean, std = (
                _channels(settings.get(key), fallback)
                for key, fallback in zip(("image_mean", "image_std"), default, strict=True)
            )
            if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
                raise CheckpointError(
                    f"model {checkpoint.name!r}: {path} has unusable image_mean or image_std "
                    f"({settings.get('image_mean')!r}, {settings.get('image_std')!r}): three numbers each, deviations "
                    "above 0, as the file in the publisher's repository has them"
                )
            return mean, std
    return default


def _channels(value: Any, fallback: tuple[float, ...]) -> tuple[float, ...]:
    try:
        return tuple(map(float, value or fallback))
    except (TypeError, ValueError):
        return ()
