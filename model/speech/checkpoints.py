"""Open checkpoints of models that recognise speech. Loads neither torch nor transformers."""

from __future__ import annotations

from malmm.model.checkpoints.checkpoint import Checkpoint

__all__ = ["open_whisper"]


def open_whisper(name: str) -> Checkpoint:
    """Open a Whisper checkpoint by directory or hub id. Raises CheckpointError, also for weights that are pickles."""
    checkpoint = Checkpoint.open(name, model_types=("whisper",))
    # Before any worker starts.
    _ = checkpoint.files
    return checkpoint
