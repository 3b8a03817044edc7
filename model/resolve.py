"""From what a user names to checkpoints: a directory, a hub id, ``debug``, and the retrieval companion."""

from __future__ import annotations

from dataclasses import dataclass

from malmm.model.checkpoint import Checkpoint, CheckpointError
from malmm.model.debug import DEBUG, DEBUG_NOTICE, debug_checkpoint
from malmm.model.retrieval import RETRIEVAL_MODEL_TYPES

__all__ = ["NO_RETRIEVAL", "PUBLISHED_RETRIEVAL", "Models", "open_models"]

NO_RETRIEVAL = "none"
# Trained on the same frozen ViT-g/14 as the published InstructBLIP checkpoints.
PUBLISHED_RETRIEVAL = "Salesforce/blip2-itm-vit-g"
_PUBLISHED_CHANNELS = 1408


@dataclass(frozen=True)
class Models:
    """The checkpoints of a run. ``notice`` is what a user must be told of the model, if anything."""

    instructblip: Checkpoint
    retrieval: Checkpoint | None
    notice: str | None = None


def open_models(model: str, retrieval_model: str | None = None) -> Models:
    """Open an InstructBLIP checkpoint and its retrieval companion. Raises CheckpointError.

    Without ``retrieval_model`` the companion is the checkpoint's own ``retrieval`` folder, or the published
    one for published image encoders; ``none`` goes without.
    """
    notice = None
    name = model
    if model == DEBUG:
        name, notice = str(debug_checkpoint()), DEBUG_NOTICE
    instructblip = Checkpoint.open(name, model_types=("instructblip",))
    for part in ("vision_config", "qformer_config", "text_config"):
        if not isinstance(instructblip.config.get(part), dict):
            raise CheckpointError(f"model {model!r}: its config.json has no {part}")
    if retrieval_model == NO_RETRIEVAL:
        return Models(instructblip, None, notice)
    if retrieval_model is None:
        own = instructblip.directory / "retrieval"
        if (own / "config.json").is_file():
            retrieval_model = str(own)
        elif (
            instructblip.config["vision_config"].get("hidden_size", _PUBLISHED_CHANNELS)
            == _PUBLISHED_CHANNELS
        ):
            retrieval_model = PUBLISHED_RETRIEVAL
        else:
            raise CheckpointError(
                f"model {model!r} has no retrieval companion: give --retrieval-model a BLIP-2 image-text "
                "checkpoint of the same image encoder, or 'none' to index without search vectors"
            )
    elif retrieval_model == DEBUG:
        retrieval_model = str(debug_checkpoint() / "retrieval")
    return Models(instructblip, Checkpoint.open(retrieval_model, model_types=RETRIEVAL_MODEL_TYPES), notice)
