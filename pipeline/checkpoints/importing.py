"""Importing a checkpoint of the authors' training code: the base opened by its name, and then ``model`` does it."""

from __future__ import annotations

from pathlib import Path

from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.checkpoints.lavis_import import Imported, import_lavis
from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.families.registry import row_of

__all__ = ["Imported", "import_checkpoint"]


def import_checkpoint(source: str, *, base: str, output: str) -> Imported:
    """Write the base, a hub id or a directory, with the trained tensors of the file ``source`` to ``output``.

    Raises CheckpointError as ``import_lavis`` does, and for a base of another family than InstructBLIP.
    """
    checkpoint = open_models(base, NO_RETRIEVAL).checkpoint
    row = row_of(checkpoint)
    if row.model_type != "instructblip":
        raise CheckpointError(
            f"base {base!r} is a {row.name} checkpoint: the authors' code trains InstructBLIP, so give the one "
            "that the training began from"
        )
    return import_lavis(Path(source).expanduser(), checkpoint, Path(output).expanduser())
