"""Find the checkpoints that an archive was made with, and verify them by their weights' fingerprints."""

from __future__ import annotations

from collections.abc import Iterator

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.hub import is_hub_id
from malmm.model.checkpoints.resolve import (
    NO_RETRIEVAL,
    Models,
    companion_of,
    notice_of,
    open_models,
    open_retrieval,
)
from malmm.pipeline.schema.config import Recipe

__all__ = ["archive_models", "archive_retrieval"]


def archive_models(recipe: Recipe, model: str | None = None, retrieval_model: str | None = None) -> Models:
    """Open the models of a recipe, at their recorded places or at ``model`` and ``retrieval_model``.

    Raises CheckpointError if one is missing or has other weights than those that made the rows.
    """
    name = model or recipe.model
    retrieval = archive_retrieval(recipe, model, retrieval_model)
    try:
        opened = open_models(name, NO_RETRIEVAL)
    except CheckpointError as error:
        raise _not_opened(error) from error
    if opened.checkpoint.fingerprint() != recipe.model_fingerprint:
        raise CheckpointError(
            f"the model {name!r} has other weights than when the archive was made: give the path or id of the right "
            "ones with --model"
        )
    return Models(opened.checkpoint, retrieval, notice_of(name))


def archive_retrieval(
    recipe: Recipe, model: str | None = None, retrieval_model: str | None = None
) -> Checkpoint | None:
    """Open the retrieval model of a recipe; None for an archive without vectors. Does not open the language model.

    Raises CheckpointError as ``archive_models`` does.
    """
    if recipe.retrieval_model == NO_RETRIEVAL:
        return None
    missing: CheckpointError | None = None
    other = False
    for name in _candidates(recipe, model or recipe.model, retrieval_model):
        try:
            found = open_retrieval(name)
            if found.fingerprint() == recipe.retrieval_fingerprint:
                return found
            other = True
        except CheckpointError as error:
            missing = error
    if missing is not None and not other:
        raise _not_opened(missing) from missing
    raise CheckpointError(
        f"the retrieval model {retrieval_model or recipe.retrieval_model!r} has other weights than when the "
        "archive was made: give the path or id of the right ones with --retrieval-model"
    )


def _candidates(recipe: Recipe, model: str, retrieval_model: str | None) -> Iterator[str]:
    """Places to look for the retrieval model, in order."""
    if retrieval_model is not None:
        yield retrieval_model
        return
    elsewhere = is_hub_id(recipe.retrieval_model)
    if elsewhere:
        yield recipe.retrieval_model
    # The companion in the model's own folder comes before a path recorded on another machine.
    own = None
    try:
        own = companion_of(model)
    except CheckpointError:
        if elsewhere:
            raise
    if own is not None:
        yield own
    if not elsewhere:
        yield recipe.retrieval_model


def _not_opened(error: CheckpointError) -> CheckpointError:
    return CheckpointError(
        f"the archive's model cannot be opened: {error}; give its path or id with --model and --retrieval-model"
    )
