"""Name the model of a run before it is divided: the one asked for, the archive's own, or one that fits the workers.

A model of the hub is looked up and downloaded here, with its licence and size said first, and pinned to its commit:
workers and the archive's recipe name the same files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.hub import WANTED_FILES, fetched, is_hub_id, look_up
from malmm.model.checkpoints.resolve import (
    BUILT_IN,
    NO_RETRIEVAL,
    companion_of,
    retrieval_of,
)
from malmm.model.published.catalogue import published
from malmm.model.published.choice import choose
from malmm.pipeline.archive.creation import recipe_if_there
from malmm.pipeline.archive.location import resolve
from malmm.pipeline.archive.partitions import partitioned_at
from malmm.pipeline.cluster.equipment import Equipment, workers_equipment
from malmm.pipeline.schema.config import IndexConfig, Recipe
from malmm.pipeline.schema.progress import OnProgress, Progress

__all__ = ["CHOSEN_TOWER", "ChosenModel", "chosen_model"]

#: The retrieval model of a new archive whose run names no model: it sees frames, whatever the language model.
CHOSEN_TOWER = "google/siglip2-base-patch16-224"
# Hub ids that the catalogue of families does not have, and what their pages say.
_TOWER_LICENCES = {CHOSEN_TOWER: "apache-2.0"}


@dataclass(frozen=True)
class ChosenModel:
    """The run's settings with its model named, and ``why``: a sentence for people, empty for a model asked for."""

    config: IndexConfig
    why: str = ""


def chosen_model(config: IndexConfig, tell: OnProgress, *, verbose: bool = False) -> ChosenModel:
    """Name the model and have its files here.

    Without one in the settings it is that of the archive there is, else one that fits what the workers have. Raises
    CheckpointError if the model is not to be had, WorkerError and ArchiveError if workers or archive cannot be reached.
    """
    if config.model:
        known = published(config.model)
        name = known.name if known is not None and config.model == known.short else config.model
        named = replace(config, model=_pinned(name, tell))
        _announce_retrieval(named, tell)
        return ChosenModel(named)
    recipe = _fixed_recipe(config)
    if recipe is not None:
        try:
            return ChosenModel(_of_archive(config, recipe, tell))
        except CheckpointError as error:
            raise CheckpointError(
                f"the archive's model cannot be opened: {error}; say where it lies with --model"
            ) from error
    equipment = workers_equipment(tell, config.cluster, verbose=verbose)
    model = choose(ram_bytes=equipment.ram_bytes, gpu_bytes=equipment.gpu_bytes)
    tower = f" and {CHOSEN_TOWER} for search" if config.retrieval_model is None else ""
    why = f"{model.name}{tower} was chosen for workers with {_said(equipment)}; `malmm models` lists others for --model"
    tell(Progress("choosing", note=why, lasting=True))
    named = replace(config, model=_pinned(model.name, tell))
    if named.retrieval_model is None:
        named = replace(named, retrieval_model=_pinned(CHOSEN_TOWER, tell))
    return ChosenModel(named, why)


def _fixed_recipe(config: IndexConfig) -> Recipe | None:
    """The recipe of the archive, or of all partitions if it is one of them; None where nothing is fixed yet."""
    if config.partition is not None:
        found = partitioned_at(config.partition.parent_of(resolve(config.archive)))
        if found is not None:
            return found.recipe
    return recipe_if_there(config.archive)


def _announce_retrieval(config: IndexConfig, tell: OnProgress) -> None:
    """Download the retrieval model that comes with a named model, with its size and licence said first.

    The run and its recipe keep its name as it is, since archives have it so.
    """
    tower = config.retrieval_model
    if tower is None and config.model not in BUILT_IN:
        tower = retrieval_of(config.model)
    if tower not in (None, *BUILT_IN, NO_RETRIEVAL):
        _pinned(tower, tell)


def _of_archive(config: IndexConfig, recipe: Recipe, tell: OnProgress) -> IndexConfig:
    """The settings with the models of the archive's recipe."""
    config = replace(config, model=_pinned(recipe.model, tell))
    if config.retrieval_model is not None or recipe.retrieval_model == NO_RETRIEVAL:
        return replace(config, retrieval_model=config.retrieval_model or NO_RETRIEVAL)
    # The companion in the model's own folder is found by each worker, wherever that lies there.
    own = companion_of(config.model)
    if (
        own is not None
        and Checkpoint.open(own, model_types=None).fingerprint() == recipe.retrieval_fingerprint
    ):
        return config
    return replace(config, retrieval_model=recipe.retrieval_model)


def _pinned(name: str, tell: OnProgress) -> str:
    """A hub id with its commit, its files downloaded; a directory or a built-in model as it is."""
    if not is_hub_id(name) or Path(name).expanduser().is_dir():
        return name
    found = look_up(name)
    if found.missing_bytes:
        known = published(found.repository)
        stated = known.licence if known is not None else _TOWER_LICENCES.get(found.repository)
        licence = found.licence or stated
        size_gb = found.missing_bytes / 1e9
        said = f"{size_gb:.1f} GB" if size_gb >= 0.1 else f"{size_gb * 1000:.1f} MB"
        note = (
            f"downloading {found.repository} at revision {found.commit[:12]}: {said}, "
            f"licence {licence or 'not named on its page'}"
        )
        tell(Progress("downloading", note=note, lasting=True, bytes_total=found.missing_bytes))

        def told(there: int) -> None:
            done = min(there, found.missing_bytes)
            tell(Progress("downloading", note=note, bytes_done=done, bytes_total=found.missing_bytes))

        fetched(found.name, WANTED_FILES, on_bytes=told)
    return found.name


def _said(equipment: Equipment) -> str:
    if equipment.gpu_bytes is not None:
        return f"{equipment.gpu_bytes / 2**30:.0f} GiB of GPU memory"
    return f"{equipment.ram_bytes / 2**30:.0f} GiB of memory and no GPU"
