"""The published models beside what the workers have: the table of ``malmm models``."""

from __future__ import annotations

from dataclasses import dataclass

from malmm.model.families.registry import row_of
from malmm.model.published.catalogue import PublishedModel, catalogue
from malmm.model.published.choice import choose, fits, needed_bytes, speed_class
from malmm.pipeline.cluster.equipment import Equipment, workers_equipment
from malmm.pipeline.schema.progress import OnProgress

__all__ = ["ModelRow", "ModelTable", "model_table", "table_for"]


@dataclass(frozen=True)
class ModelRow:
    """One published model. ``memory_bytes`` is what a worker needs, ``fits`` whether it has that.

    ``tokens_a_frame`` counts visual tokens: half as many as a slot has where two frames make one. ``frame_flop`` are
    operations a frame in vision encoder and projector. ``chosen`` marks the one that is taken where none is named.
    """

    name: str
    short: str
    family: str
    licence: str
    download_bytes: int
    memory_bytes: int
    fits: bool
    tokens_a_frame: float
    slot_bytes: int
    frame_flop: int
    speed: str
    chosen: bool


@dataclass(frozen=True)
class ModelTable:
    """What every worker has, and the models, the smallest first. ``gpu_bytes`` is None without GPUs."""

    ram_bytes: int
    gpu_bytes: int | None
    models: tuple[ModelRow, ...]


def model_table(tell: OnProgress = lambda progress: None) -> ModelTable:
    """The table for the workers that a run begun now would have. Raises WorkerError as ``workers_equipment`` does."""
    return table_for(workers_equipment(tell))


def table_for(equipment: Equipment) -> ModelTable:
    """The table for workers with this memory."""
    taken = choose(ram_bytes=equipment.ram_bytes, gpu_bytes=equipment.gpu_bytes)
    rows = tuple(_row(model, equipment, chosen=model is taken) for model in catalogue())
    return ModelTable(equipment.ram_bytes, equipment.gpu_bytes, rows)


def _row(model: PublishedModel, equipment: Equipment, *, chosen: bool) -> ModelRow:
    return ModelRow(
        name=model.name,
        short=model.short,
        family=model.family,
        licence=model.licence,
        download_bytes=model.download_bytes,
        memory_bytes=needed_bytes(model, gpu=equipment.gpu_bytes is not None),
        fits=fits(model, ram_bytes=equipment.ram_bytes, gpu_bytes=equipment.gpu_bytes),
        tokens_a_frame=model.tokens_a_slot / row_of(model.checkpoint).frames_per_step,
        slot_bytes=model.slot_bytes,
        frame_flop=model.frame_flop,
        speed=speed_class(model),
        chosen=chosen,
    )
