"""Importing a checkpoint of the authors' training code: the base opened by its name, and then ``model`` does it."""

from __future__ import annotations

from pathlib import Path

from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.checkpoints.derived import refuse_taken
from malmm.model.checkpoints.lavis import read_lavis
from malmm.model.checkpoints.lavis_import import Imported, import_lavis
from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.families.registry import row_of

__all__ = ["Imported", "import_checkpoint"]


def import_checkpoint(source: str, *, base: str, output: str) -> Imported:
    """Write the base, a hub id or a directory, with the trained tensors of the file ``source`` to ``output``.

    Raises CheckpointError as ``import_lavis`` does, and for a base of another family than InstructBLIP.
    """
    file, place = Path(source).expanduser(), Path(output).expanduser()
    # The base may be a download of 32 GB, which a wrong path or file need not wait for.
    refuse_taken(place)
    read_lavis(file)
    checkpoint = open_models(base, NO_RETRIEVAL).checkpoint
    row = row_of(checkpoint)
    if row.model_type != "instructblip":
        raise CheckpointError(
            f"base {base!r} is a {row.name} checkpoint: the authors' code trains InstructBLIP, so give the one "
            "that the training began from"
        )
    return import_lavis(file, checkpoint, place)
