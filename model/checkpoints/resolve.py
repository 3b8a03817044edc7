"""Resolve the name of a model (a directory, a hub id, or one of ``BUILT_IN``) to its checkpoints, with the retrieval
companion."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.hub import fetched, is_hub_id
from malmm.model.families.registry import row_of
from malmm.model.towers.registry import open_tower, refuse_unfit

__all__ = [
    "BUILT_IN",
    "DEBUG",
    "DEBUG_NOTICE",
    "DEMO",
    "DEMO_NOTICE",
    "DEMO_SMOLVLM",
    "NO_RETRIEVAL",
    "PUBLISHED_RETRIEVAL",
    "Models",
    "cache_folder",
    "companion_of",
    "debug_checkpoint",
    "demo_checkpoint",
    "library_releases",
    "notice_of",
    "open_models",
    "open_retrieval",
    "retrieval_of",
]

DEMO = "demo"
DEMO_SMOLVLM = "demo-smolvlm"
_REAL = "For real video give --model another, which `malmm models` lists, or none."
DEMO_NOTICE = f"The demo model knows only drawn shapes: of anything else its words mean nothing. {_REAL}"
DEBUG = "debug"
BUILT_IN = (DEMO, DEMO_SMOLVLM, DEBUG)
"""Names of models that come with the package or are made by it, so that nothing is downloaded."""
_DEMO_FOLDERS = {DEMO: "weights", DEMO_SMOLVLM: "smolvlm_weights"}
DEBUG_NOTICE = f"The debug model has random weights: its words mean nothing. {_REAL}"
_DEBUG_VERSION = 2
NO_RETRIEVAL = "none"
# Trained on the same frozen ViT-g/14 as the published InstructBLIP checkpoints.
PUBLISHED_RETRIEVAL = "Salesforce/blip2-itm-vit-g"
_PUBLISHED_CHANNELS = 1408


@dataclass(frozen=True)
class Models:
    """The checkpoints of a run. ``notice`` is a warning about the model for users, or None."""

    checkpoint: Checkpoint
    retrieval: Checkpoint | None
    notice: str | None = None

    @property
    def instructblip(self) -> Checkpoint:
        """Alias of ``checkpoint``, from when InstructBLIP was the only family."""
        return self.checkpoint


def open_models(model: str, retrieval_model: str | None = None) -> Models:
    """Open a checkpoint of any family and its retrieval model. Raises CheckpointError.

    ``retrieval_model`` is a tower that fits the family. Without it the checkpoint's own ``retrieval`` folder counts,
    or for InstructBLIP the published one for published image encoders; ``none`` goes without, and so does a checkpoint
    of another family without that folder.
    """
    name = model if model not in BUILT_IN else str(_built_in(model))
    notice = notice_of(model)
    checkpoint = _whole(name, model)
    if retrieval_model == NO_RETRIEVAL:
        return Models(checkpoint, None, notice)
    if retrieval_model is None:
        retrieval_model = _own_retrieval(checkpoint, model)
        if retrieval_model is None:
            return Models(checkpoint, None, notice)
    retrieval = open_retrieval(retrieval_model)
    refuse_unfit(retrieval, checkpoint)
    return Models(checkpoint, retrieval, notice)


def _whole(name: str, model: str) -> Checkpoint:
    checkpoint = Checkpoint.open(name, model_types=None)
    for part in row_of(checkpoint).parts:
        if not isinstance(checkpoint.config.get(part), dict):
            raise CheckpointError(f"model {model!r}: its config.json has no {part}")
    return checkpoint


def retrieval_of(model: str) -> str | None:
    """The retrieval model of a directory or hub id that ``open_models`` takes unless another is named; None without.

    Raises CheckpointError as ``open_models`` does, but opens nothing of the retrieval model.
    """
    return _own_retrieval(_whole(model, model), model)


def _own_retrieval(checkpoint: Checkpoint, model: str) -> str | None:
    own = checkpoint.directory / "retrieval"
    if (own / "config.json").is_file():
        return str(own)
    if row_of(checkpoint).reads_slots:
        return None
    if checkpoint.config["vision_config"].get("hidden_size", _PUBLISHED_CHANNELS) == _PUBLISHED_CHANNELS:
        return PUBLISHED_RETRIEVAL
    raise CheckpointError(
        f"model {model!r} has no retrieval companion: give --retrieval-model a dual encoder, such as "
        "google/siglip2-base-patch16-224, a BLIP-2 image-text checkpoint of the same image encoder, or 'none' "
        "to index without search vectors"
    )


def open_retrieval(name: str) -> Checkpoint:
    """Open a retrieval model by directory or hub id, or that of ``demo`` or ``debug``. Raises CheckpointError."""
    name = companion_of(name) or name if name in BUILT_IN else name
    return open_tower(name)


def companion_of(model: str) -> str | None:
    """The retrieval model in a model's own folder; None if there is none. Opens nothing else of the model.

    From the hub, downloads only that folder. Raises CheckpointError if the hub has no such model.
    """
    if model in BUILT_IN:
        folder = _built_in(model)
    elif Path(model).expanduser().is_dir():
        folder = Path(model).expanduser()
    elif is_hub_id(model):
        folder = fetched(model, ["retrieval/*"])
    else:
        return None
    own = folder / "retrieval"
    return str(own) if (own / "config.json").is_file() else None


def notice_of(model: str) -> str | None:
    """The warning about texts of a built-in model, which knows nothing of real video; None for others."""
    return DEBUG_NOTICE if model == DEBUG else DEMO_NOTICE if model in _DEMO_FOLDERS else None


def _built_in(model: str) -> Path:
    return debug_checkpoint() if model == DEBUG else demo_checkpoint(model)


def demo_checkpoint(model: str = DEMO) -> Path:
    """A demo checkpoint that comes with the package. Raises CheckpointError if it is not installed."""
    directory = Path(__file__).parents[1] / "demo" / _DEMO_FOLDERS[model]
    if not (directory / "config.json").is_file():
        raise CheckpointError(f"the demo model is not installed: {directory} is missing")
    return directory


def cache_folder() -> Path:
    """Where this package keeps what can be made again, of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "malmm"


@lru_cache(maxsize=1)
def library_releases() -> str:
    """Of the libraries that models are built with, without loading them."""
    return "-".join(version(name).split("+")[0] for name in ("torch", "transformers"))


def debug_checkpoint(kind: str = "decoder") -> Path:
    """The debug checkpoint in the user's cache, made on first use. Several processes may call this at once."""
    cache = cache_folder()
    # Other releases of torch may draw other weights from the same seed; those of transformers may change the format.
    target = cache / f"debug-{kind}-{_DEBUG_VERSION}-{library_releases()}"
    if (target / "retrieval" / "config.json").is_file():
        return target
    # Imported here: torch and transformers take seconds to import.
    from malmm.model.checkpoints.debug import save_debug_checkpoint

    cache.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".debug-", dir=cache))
    try:
        save_debug_checkpoint(made, kind=kind)
        try:
            made.rename(target)
        except OSError:
            if not (target / "retrieval" / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return target
