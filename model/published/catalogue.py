"""The published checkpoints that this package knows: one JSON file each, beside this module.

A file holds the configuration's shapes, the licence, where both were seen (``sources``), and figures that follow from
the shapes. No weights of them were loaded where this was developed; a test builds each from its configuration by
transformers' own classes and compares the figures. Importing this loads neither torch nor transformers.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.families.registry import row_of, token_shape

__all__ = ["PublishedModel", "catalogue", "published"]


@dataclass(frozen=True)
class PublishedModel:
    """One published checkpoint. ``name`` is its hub id and ``short`` a shorter name for the command line.

    ``stored_bytes`` is what a number takes in its files. ``vision``, ``projector`` and ``language`` count the numbers
    of each part. ``frame_flop`` are operations a frame through vision encoder and projector, two for each
    multiplication and addition, and ``kv_bytes_a_token`` what a language model in half precision keeps of a token.
    """

    name: str
    short: str
    licence: str
    stored_bytes: int
    vision: int
    projector: int
    language: int
    frame_flop: int
    kv_bytes_a_token: int
    sources: tuple[str, ...] = field(repr=False)
    config: dict[str, Any] = field(repr=False)

    @property
    def checkpoint(self) -> Checkpoint:
        """A checkpoint of the configuration alone: it has no files."""
        return Checkpoint(self.name, Path(), self.config)

    @property
    def family(self) -> str:
        """The name of its family."""
        return row_of(self.checkpoint).name

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return self.vision + self.projector + self.language

    @property
    def download_bytes(self) -> int:
        """About the size of its files; the hub says it exactly."""
        return self.parameters * self.stored_bytes

    @property
    def tokens_a_slot(self) -> int:
        """Visual tokens of one memory slot."""
        return token_shape(self.checkpoint)[0]

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot's tokens in half precision."""
        return 2 * prod(token_shape(self.checkpoint))


@functools.cache
def catalogue() -> tuple[PublishedModel, ...]:
    """All of them, the smallest first."""
    found = []
    for path in sorted(Path(__file__).parent.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        found.append(PublishedModel(**(content | {"sources": tuple(content["sources"])})))
    return tuple(sorted(found, key=lambda model: model.parameters))


def published(name: str) -> PublishedModel | None:
    """The checkpoint of a hub id, of any revision, or of a short name; None for one that is not in the catalogue."""
    repository = name.partition("@")[0].lower()
    return next(
        (model for model in catalogue() if repository in (model.name.lower(), model.short)),
        None,
    )
