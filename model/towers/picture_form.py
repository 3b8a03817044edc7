"""How a dual encoder wants pictures, by the settings of its processor: squashed to a square, or resized and cropped.

Pixels are prepared by Pillow, as transformers' processors without torchvision do it; a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.normalisation import Normalisation, image_normalisation
from malmm.model.checkpoints.processor_settings import processor_settings

__all__ = ["PictureForm"]

_KEYS = ("size", "crop_size", "resample", "do_resize", "do_center_crop")


@dataclass(frozen=True)
class PictureForm:
    """Pictures of ``side`` x ``side`` pixels: squashed, or with ``shortest`` resized to that edge and cropped.

    ``resample`` is one of Pillow's filters, ``normalisation`` mean and deviation of values from 0 to 1.
    """

    side: int
    shortest: int | None
    resample: Image.Resampling
    normalisation: Normalisation

    @classmethod
    def load(cls, checkpoint: Checkpoint, side: int, *, crops: bool, default: Normalisation) -> PictureForm:
        """For an image encoder of ``side`` pixels; ``crops`` and ``default`` count where the checkpoint does not say.

        Raises CheckpointError for settings that cannot be used, or that give pictures of another size.
        """
        where, settings = next(
            (pair for pair in processor_settings(checkpoint) if any(key in pair[1] for key in _KEYS)),
            (checkpoint.directory, {}),
        )

        def refuse(why: str) -> CheckpointError:
            return CheckpointError(f"model {checkpoint.name!r}: {where} has {why}")

        try:
            resample = Image.Resampling(int(settings.get("resample", Image.Resampling.BICUBIC)))
        except (TypeError, ValueError) as error:
            raise refuse(
                f"a resample of {settings['resample']!r}, which is not a filter of Pillow"
            ) from error
        if settings.get("do_resize", True) is False:
            raise refuse("do_resize false: frames have another size than the image encoder")
        size = settings.get("size", {"shortest_edge": side} if crops else side)
        cropped = bool(settings.get("do_center_crop", crops))
        shortest = size.get("shortest_edge") if isinstance(size, dict) else size if cropped else None
        got: Any = settings.get("crop_size", side) if cropped else size
        if cropped and shortest is None and isinstance(size, dict):
            if size.get("height") != size.get("width"):
                raise refuse(f"a size of {size} before cropping, which is not a square")
            # Squashed first, then cropped: so the size before cropping must be the image encoder's.
            got = size
        edges = (got.get("height"), got.get("width")) if isinstance(got, dict) else (got, got)
        if edges != (side, side):
            raise refuse(f"a size of {got}, and the image encoder takes {side} pixels square")
        if shortest is not None and (not isinstance(shortest, int) or shortest < side):
            raise refuse(f"a shortest edge of {shortest!r}, of which {side} pixels cannot be cropped")
        return cls(side, shortest, resample, image_normalisation(checkpoint, default=default))

    def apply(self, picture: np.ndarray, shape: tuple[int, int] | None = None) -> np.ndarray:
        """A picture uint8 [H, W, 3] as uint8 [side, side, 3].

        ``shape`` is its width and height before it was squashed; None if it was not squashed.
        """
        width, height = shape or (picture.shape[1], picture.shape[0])
        target = (self.side, self.side)
        if self.shortest is not None:
            short, long = sorted((max(1, width), max(1, height)))
            longest = int(self.shortest * long / short)
            target = (self.shortest, longest) if width <= height else (longest, self.shortest)
        if target != (picture.shape[1], picture.shape[0]):
            picture = np.asarray(Image.fromarray(picture).resize(target, self.resample))
        left, top = (target[0] - self.side) // 2, (target[1] - self.side) // 2
        return picture[top : top + self.side, left : left + self.side]
