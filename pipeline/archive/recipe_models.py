"""The checkpoints that an archive was made with, found again and known by their weights."""

from __future__ import annotations

from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.checkpoints.resolve import NO_RETRIEVAL, Models, open_models
from malmm.pipeline.schema.config import Recipe

__all__ = ["archive_models"]


def archive_models(recipe: Recipe, model: str | None = None, retrieval_model: str | None = None) -> Models:
    """The models of a recipe, from where they were or from where ``model`` and ``retrieval_model`` say.

    Raises CheckpointError when one is not there or has other weights than those that made the rows.
    """
    name = model or recipe.model
    wanted = None if recipe.retrieval_model == NO_RETRIEVAL else recipe.retrieval_fingerprint
    found: Models | None = None
    # The companion in the model's own folder comes before an address that another machine had.
    for companion in [retrieval_model] if retrieval_model else [None, recipe.retrieval_model]:
        try:
            found = open_models(name, NO_RETRIEVAL if wanted is None else companion)
        except CheckpointError as error:
            if companion == recipe.retrieval_model or retrieval_model:
                raise CheckpointError(
                    f"the archive's model cannot be opened: {error}; say where it lies with --model and "
                    "--retrieval-model"
                ) from error
            continue
        if found.retrieval is None or found.retrieval.fingerprint() == wanted:
            break
    if found is None or (found.retrieval is not None and found.retrieval.fingerprint() != wanted):
        raise CheckpointError(
            f"the retrieval model {retrieval_model or recipe.retrieval_model!r} has other weights than when the "
            "archive was made: say with --retrieval-model where those lie"
        )
    if found.checkpoint.fingerprint() != recipe.model_fingerprint:
        raise CheckpointError(
            f"the model {name!r} has other weights than when the archive was made: say with --model where those lie"
        )
    return found
