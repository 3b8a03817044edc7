"""The error of this package: a checkpoint that cannot be used."""

from __future__ import annotations

__all__ = ["CheckpointError"]


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. The message names the checkpoint and the reason."""
