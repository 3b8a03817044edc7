"""The wiring: which operator follows which, how many rows go in and come out, and what each is given.

Read top to bottom, this is the picture of the system.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray import ObjectRef
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy
from ray.data.context import AutoscalingConfig

from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.operators.decode import DecodeSettings, decode_segments
from malmm.operators.encode import EncodeSegments
from malmm.operators.generate import GenerateTexts
from malmm.operators.guard import guarded, guarded_actor
from malmm.operators.plan import plan_segments
from malmm.operators.probe import probe_files
from malmm.operators.replay import ReplayPrompts
from malmm.operators.write import write_segments
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.resources import Resources
from malmm.pipeline.indexing.file_queue import FileQueueHandle
from malmm.pipeline.schema.config import AnnotateConfig, IndexConfig, Recipe
from malmm.pipeline.schema.rows import (
    ANSWERED,
    DECODED,
    ENCODED,
    PLANNED,
    PROBED,
    RECEIPTS,
    REPLAYED,
    Carried,
    rows_table,
)

__all__ = ["Wiring", "indexing", "planned_before", "replaying", "segments_a_block", "surveying"]

_FILES_A_BLOCK = 4
# With fewer for each, some decoders would have nothing left to do while others finish.
_BLOCKS_A_DECODER = 16
_ROWS: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
# CPUs that light stages reserve, together what ``choose_resources`` leaves free for them. Ray Data hands out shares
# from the first stage to the last, and the first one waits for the listing: a stage whose share is not left would wait
# with it. Stages of equal shares are fused into one task. That is meant for probe and plan, and for no others: a
# video's segments would be decoded one after the other in the task that planned them.
_LIST_CPUS, _SURVEY_CPUS, _REGROUP_CPUS, _WRITE_CPUS = 0.01, 0.02, 0.01, 0.05
# How busy a pool must be not to lose workers: any. Ray would take them away whenever decoding falls behind for some
# seconds and start others later, and each has a model to load.
_NEVER_SHRINK = AutoscalingConfig(actor_pool_util_downscaling_threshold=-1.0)


@dataclass(frozen=True)
class Wiring:
    """What the wirings of one run share. ``together`` segments go from stage to stage in one block."""

    config: IndexConfig
    recipe: Recipe
    resources: Resources
    together: int = 1
    verbose: bool = False


def _dataset(blocks: Sequence[pa.Table], *, together: int = 1, verbose: bool) -> Dataset:
    """A dataset of these blocks. Its settings are its own: those of other datasets in this process stay as they are.

    With ``together`` 1, blocks are cut after every row: a row is a segment, minutes of work, and must not wait for
    others. With more, each task makes one block. A block that is lost (its worker died again and again) does not end
    the run: the driver knows what it planned and reports what never came. Nor does it end when no block moves for a
    long time, as a segment may take longer than any limit, and nodes may be long in coming.
    """
    # Not from_arrow, which runs a task for each table before anything starts.
    dataset = ray.data.from_blocks(list(blocks))
    context = dataset.context
    context.target_max_block_size = 1 if together == 1 else None
    context.max_errored_blocks = -1
    context.execution_no_progress_timeout_s = -1
    context.autoscaling_config = _NEVER_SHRINK
    if not verbose:
        context.enable_progress_bars = context.enable_rich_progress_bars = False
    return dataset


def surveying(
    wiring: Wiring, queue: FileQueueHandle, positions: int, done: np.ndarray | None = None
) -> Dataset:
    """Files as they are listed to segments that are not ``done``, sorted ids of dtype S24. Plans go to the driver.

    ``PLANNED``, of a video and of its segment. Files that are not videos end here: the queue has why.
    """
    config, recipe, resources = wiring.config, wiring.recipe, wiring.resources
    blocks = [pa.table({"position": [position]}) for position in range(positions)]
    dataset = _dataset(blocks, together=wiring.together, verbose=wiring.verbose)
    # list, 1:N: a position of the queue to the files that lie there, once they have been listed
    dataset = dataset.map_batches(
        listed_files,  # type: ignore[arg-type]
        fn_kwargs={"queue": queue},
        batch_size=1,
        num_cpus=_LIST_CPUS,
        compute=TaskPoolStrategy(size=1),
        **_ROWS,
    )
    if wiring.together > 1:
        # Reading key frames for scenes takes minutes a file.
        rows = 1 if config.min_segment_s else _FILES_A_BLOCK
        dataset = _regrouped(dataset, rows)
    survey: dict[str, Any] = {
        "num_cpus": _SURVEY_CPUS,
        # Half as many as decode: the others decode what is planned.
        "compute": TaskPoolStrategy(size=max(1, resources.decode_workers // 2)),
    }
    dataset = (
        dataset
        # probe, 1:1 on CPUs: what each file is, from its headers, and where its scenes part it if that is wanted
        .map_batches(
            guarded("probe", PROBED, probe_files),
            fn_kwargs={
                "min_segment_s": config.min_segment_s,
                "segment_s": config.segment_s,
                "limit_s": config.decode_limit_s,
            },
            batch_size=1,
            **survey,
            **_ROWS,
        )
        # plan, 1:N: the segments of a video that are not committed
        .map_batches(
            guarded("plan", PLANNED, unfinished_segments),
            fn_kwargs={
                "recipe_id": recipe.recipe_id,
                "segment_s": recipe.segment_s,
                "fps": recipe.fps,
                "done": None if done is None else ray.put(done),
                "note": queue.note,
            },
            batch_size=None,
            **survey,
            **_ROWS,
        )
    )
    if wiring.together > 1:
        # Also of several videos, where they are short.
        dataset = _regrouped(dataset, wiring.together, strict=True)
    return dataset


def listed_files(positions: pa.Table, *, queue: FileQueueHandle) -> pa.Table:
    """A position of the queue to the files there, ``FILES``."""
    return queue.files_at(positions["position"][0].as_py())


def unfinished_segments(videos: pa.Table, *, done: ObjectRef[np.ndarray] | None, **options: Any) -> pa.Table:
    """``plan_segments`` with the ids in Ray's object store, which every process of a node reads there."""
    return plan_segments(videos, done=None if done is None else ray.get(done), **options)


def planned_before(rows: Sequence[Carried], *, verbose: bool = False) -> Dataset:
    """Segments that were planned and are to be tried again, one in a block."""
    return _dataset([rows_table([row.columns()], PLANNED) for row in rows], verbose=verbose)


def segments_a_block(segments: int, config: IndexConfig, resources: Resources) -> int:
    """How many segments are to go from stage to stage together, of at least so many that are to be indexed.

    The driver pays Ray for each block and each task, 20 ms of CPU for a segment alone. So where there is enough for
    all decoders, it is as many as an encoder takes at once.
    """
    enough = segments >= _BLOCKS_A_DECODER * config.batch_segments * resources.decode_workers
    return config.batch_segments if enough else 1


def indexing(
    planned: Dataset, wiring: Wiring, archive: str, memories: pa.Schema, *, expected: int = 1
) -> Dataset:
    """Planned segments to receipts. ``archive`` is the address of the tables, and ``memories`` the schema of that one.

    At least as many segments are ``expected``: pools begin with no more workers.
    """
    config, recipe, resources = wiring.config, wiring.recipe, wiring.resources
    settings = MemorySettings(length=recipe.bank_length, policy=recipe.merge_policy)
    threads = max(1, round(resources.decode_cpus))
    # Blocks as they are where they hold several: to fill batches Ray would cut blocks, and copies what it cuts.
    batch_size = wiring.together if wiring.together > 1 else config.batch_segments
    return (
        planned
        # decode, 1:1 on CPUs: sampled frames at the model's image size
        .map_batches(
            guarded("decode", DECODED, decode_segments),
            fn_kwargs={
                "settings": DecodeSettings(
                    fps=recipe.fps,
                    sampling=recipe.sampling,
                    segment_s=recipe.segment_s,
                    image_size=recipe.image_size,
                    decoder=config.decoder,
                    threads=threads,
                    limit_s=config.decode_limit_s,
                )
            },
            batch_size=None,
            num_cpus=resources.decode_cpus,
            compute=TaskPoolStrategy(size=resources.decode_workers),
            **_ROWS,
        )
        # encode, 1:1 on GPUs: memory, retrieval vectors, a query output a prompt
        .map_batches(
            guarded_actor("encode", ENCODED, EncodeSegments),
            fn_constructor_kwargs={
                "model": config.model,
                "retrieval_model": config.retrieval_model,
                "settings": settings,
                "prompts": config.all_prompts,
                "check_vision": False,
                "compile_vision": config.compile,
            },
            batch_size=batch_size,
            **_encoding(resources, expected),
        )
        # generate, 1:1 on GPUs: texts
        .map_batches(
            guarded_actor("generate", ANSWERED, GenerateTexts),
            batch_size=batch_size,
            **_generating(config, resources, expected),
        )
        # write, 1:1: fragments in the store, a receipt to the driver
        .map_batches(
            guarded("write", RECEIPTS, write_segments),
            fn_kwargs={
                "archive": archive,
                "prompts": config.all_prompts,
                "recipe": recipe,
                "memories": memories,
            },
            batch_size=None,
            num_cpus=_WRITE_CPUS,
            compute=TaskPoolStrategy(size=2 * resources.encode_workers),
            **_ROWS,
        )
    )


def replaying(
    work: Sequence[pa.Table],
    config: IndexConfig | AnnotateConfig,
    archive: Archive,
    resources: Resources,
    *,
    verbose: bool = False,
) -> Dataset:
    """Stored memory and prompts to texts, without a video."""
    expected = sum(block.num_rows for block in work)
    return (
        _dataset(work, verbose=verbose)
        # replay, 1:1 on GPUs: query outputs of new prompts on stored slots
        .map_batches(
            guarded_actor("replay", REPLAYED, ReplayPrompts),
            fn_constructor_kwargs={
                "archive": archive.uri,
                "model": config.model,
                "settings": MemorySettings(archive.recipe.bank_length, archive.recipe.merge_policy),
                "prompts": config.all_prompts,
            },
            batch_size=config.batch_segments,
            **_encoding(resources, expected),
        )
        # generate, 1:1 on GPUs: texts
        .map_batches(
            guarded_actor("generate", ANSWERED, GenerateTexts),
            batch_size=4 * config.batch_segments,
            **_generating(config, resources, expected),
        )
    )


def _regrouped(dataset: Dataset, rows_a_block: int, *, strict: bool = False) -> Dataset:
    dataset = dataset.repartition(target_num_rows_per_block=rows_a_block, strict=strict)
    # A whole CPU otherwise, and ``repartition`` takes no resources.
    stage: Any = dataset._logical_plan.dag
    stage.ray_remote_args["num_cpus"] = _REGROUP_CPUS
    return dataset


def _pool(workers: int, expected: int, resources: Resources) -> ActorPoolStrategy:
    """Work begins with the first actor that is up: on a busy cluster the others may be long in coming.

    A pool begins with a worker for each segment that is expected, and grows as more are planned. Where an encoder and a
    generator share a GPU all begin at once: a generator that came later could take the place of an encoder.
    """
    if 0 < resources.encode_gpus < 1:
        return ActorPoolStrategy(size=workers)
    return ActorPoolStrategy(min_size=1, max_size=workers, initial_size=max(1, min(workers, expected)))


def _encoding(resources: Resources, expected: int) -> dict[str, Any]:
    return {
        "num_cpus": resources.encode_cpus,
        "num_gpus": resources.encode_gpus,
        "compute": _pool(resources.encode_workers, expected, resources),
        **_ROWS,
    }


def _generating(config: IndexConfig | AnnotateConfig, resources: Resources, expected: int) -> dict[str, Any]:
    return {
        "fn_constructor_kwargs": {
            "model": config.model,
            "prompts": config.all_prompts,
            "max_new_tokens": config.max_new_tokens,
        },
        "num_cpus": resources.generate_cpus,
        "num_gpus": resources.generate_gpus,
        "compute": _pool(resources.generate_workers, expected, resources),
        **_ROWS,
    }
