"""What a checkpoint says of its processor, in the files that the hub's checkpoints have for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError

__all__ = ["PROCESSOR_FILES", "VIDEO_FILE", "processor_settings"]

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
VIDEO_FILE = "video_preprocessor_config.json"


def processor_settings(
    checkpoint: Checkpoint,
    *,
    files: tuple[str, ...] = PROCESSOR_FILES,
    parts: tuple[str, ...] = ("image_processor",),
) -> list[tuple[Path, dict[str, Any]]]:
    """The settings of each of ``files`` that is there, with its path, in that order. Raises CheckpointError.

    Of each file the first of ``parts`` that it has counts, else the whole file.
    """
    found = []
    for name in files:
        path = checkpoint.directory / name
        if not path.is_file():
            continue
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise CheckpointError(f"model {checkpoint.name!r}: {path} cannot be read: {error}") from error
        if isinstance(settings, dict):
            settings = next((settings[part] for part in parts if part in settings), settings)
        if not isinstance(settings, dict):
            raise CheckpointError(f"model {checkpoint.name!r}: {path} holds no settings")
        found.append((path, settings))
    return found
