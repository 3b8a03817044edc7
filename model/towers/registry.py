"""The table of towers: which checkpoints find slots by words. Importing it loads neither torch nor transformers.

To add a dual encoder that transformers has as one class: a row here, with its parts in ``malmm.model.towers.dual``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.families.registry import row_of as family_row_of

if TYPE_CHECKING:
    from malmm.model.towers.tower import TextVectors, Tower

__all__ = [
    "TOWERS",
    "TowerRow",
    "open_tower",
    "refuse_unfit",
    "row_of",
    "text_vectors_of",
    "tower_of",
    "vector_size",
]


@dataclass(frozen=True)
class TowerRow:
    """One kind of tower: the ``model_type`` of its checkpoints and its ``name``.

    ``module`` has ``TOWERS``, the towers by ``model_type``. ``text_module`` has ``load_texts``, which loads the text
    side only. ``vector_size`` is the length of a vector, from ``config.json``. ``reads_tokens`` is true for a tower
    that reads the tokens of InstructBLIP's memory, and false for one that reads frames. ``can_match`` is true where a
    matching head can re-rank.
    """

    model_type: str
    name: str
    module: str
    text_module: str
    vector_size: Callable[[dict[str, Any]], int]
    reads_tokens: bool = False
    can_match: bool = False


def _stated(key: str, default: int) -> Callable[[dict[str, Any]], int]:
    return lambda config: int(config.get(key) or default)


def _siglip_size(config: dict[str, Any]) -> int:
    text = config.get("text_config") or {}
    return int(text.get("projection_size") or text.get("hidden_size") or 768)


def _dual(model_type: str, name: str, vector_size: Callable[[dict[str, Any]], int]) -> TowerRow:
    return TowerRow(model_type, name, "malmm.model.towers.dual", "malmm.model.towers.dual_text", vector_size)


TOWERS = {
    row.model_type: row
    for row in (
        TowerRow(
            "blip-2",
            "BLIP-2's image-text model",
            "malmm.model.towers.blip2_tokens",
            "malmm.model.towers.blip2_text",
            _stated("image_text_hidden_size", 256),
            reads_tokens=True,
            can_match=True,
        ),
        _dual("siglip", "SigLIP and SigLIP 2", _siglip_size),
        _dual("clip", "CLIP", _stated("projection_dim", 512)),
        _dual("metaclip_2", "MetaCLIP 2", _stated("projection_dim", 512)),
        _dual("chinese_clip", "Chinese CLIP", _stated("projection_dim", 512)),
    )
}

# What is known and cannot be taken, with the way out.
_REFUSED = {
    "siglip2": "SigLIP 2 of the NaFlex kind, which takes pictures of any shape; take one of fixed resolution, such as "
    "google/siglip2-base-patch16-224",
}


def open_tower(name: str) -> Checkpoint:
    """Open a tower's checkpoint by its directory or hub id. Raises CheckpointError, with the list of towers."""
    checkpoint = Checkpoint.open(name, model_types=None)
    found = checkpoint.config.get("model_type", "")
    if found in _REFUSED:
        raise CheckpointError(f"retrieval model {name!r} is {_REFUSED[found]}")
    if found not in TOWERS:
        known = ", ".join(f"{row.name} ({row.model_type})" for row in TOWERS.values())
        raise CheckpointError(
            f"retrieval model {name!r} is of type {found!r}, which no tower covers. Towers: {known}"
        )
    return checkpoint


def row_of(checkpoint: Checkpoint) -> TowerRow:
    """The tower's row, of a checkpoint that ``open_tower`` gave."""
    return TOWERS[checkpoint.config["model_type"]]


def refuse_unfit(checkpoint: Checkpoint, model: Checkpoint) -> None:
    """Raise CheckpointError for a tower that reads tokens which the model's memory does not hold."""
    row, family = row_of(checkpoint), family_row_of(model)
    if row.reads_tokens and family.reads_slots:
        raise CheckpointError(
            f"retrieval model {checkpoint.name!r} is {row.name}, which reads InstructBLIP's memory and not that of "
            f"{family.name} ({model.name!r}): give --retrieval-model a dual encoder, such as "
            "google/siglip2-base-patch16-224, or 'none'"
        )


def vector_size(checkpoint: Checkpoint) -> int:
    """How many numbers a vector has. Raises CheckpointError."""
    try:
        found = row_of(checkpoint).vector_size(checkpoint.config)
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"model {checkpoint.name!r}: its config.json says no length of vectors: {error!r}"
        ) from error
    if found < 1:
        raise CheckpointError(f"model {checkpoint.name!r}: its config.json says vectors of {found} numbers")
    return found


def tower_of(checkpoint: Checkpoint) -> Tower:
    """The tower's implementation; loads torch and transformers."""
    found: Tower = import_module(row_of(checkpoint).module).TOWERS[checkpoint.config["model_type"]]
    return found


def text_vectors_of(checkpoint: Checkpoint) -> TextVectors:
    """The tower's text side, loaded; nothing else of it is read. Raises CheckpointError."""
    found: TextVectors = import_module(row_of(checkpoint).text_module).load_texts(checkpoint)
    return found
