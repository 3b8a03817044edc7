"""The wiring: which operator follows which, how many rows go in and come out, and what each is given.

Read top to bottom, this is the picture of the system.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, Dataset, TaskPoolStrategy

from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.operators.decode import decode_segments
from malmm.operators.metering import MeteredEncodeSegments, MeteredGenerateTexts
from malmm.operators.plan import plan_segments
from malmm.operators.probe import probe_files
from malmm.operators.replay import ReplayPrompts
from malmm.operators.write import write_segments
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.resources import Resources
from malmm.pipeline.schema.config import AnnotateConfig, IndexConfig, Recipe

__all__ = ["indexing", "probing", "replaying", "segments_a_block"]

_FILES_A_BLOCK = 16
# With fewer for each, some decoders would have nothing left to do while others finish.
_BLOCKS_A_DECODER = 16
_ROWS: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
# Stages with equal resources are fused into one task, and a video's segments would be decoded one after the
# other in the task that planned them; a share that no other stage has keeps these light stages apart.
_LIGHT_CPUS = 0.05
# Ray's types of a function know only its first argument, so those with `fn_kwargs` are marked for mypy below.


def _dataset(blocks: Sequence[pa.Table], *, verbose: bool) -> Dataset:
    """A dataset of these blocks. Its settings are its own: those of other datasets in this process stay as they are.

    Blocks are cut after every row: a row is a segment, minutes of work, and must not wait for others, unless
    ``indexing`` is told otherwise. A block that is lost (its worker died again and again) does not end the run: the
    driver knows what it planned and reports what never came. Nor does it end when no block moves for a long time, as
    a segment may take longer than any limit, and nodes may be long in coming.
    """
    # Not from_arrow, which runs a task for each table before anything starts.
    dataset = ray.data.from_blocks(list(blocks))
    context = dataset.context
    context.target_max_block_size = 1
    context.max_errored_blocks = -1
    context.execution_no_progress_timeout_s = -1
    if not verbose:
        context.enable_progress_bars = context.enable_rich_progress_bars = False
    return dataset


def _parts(rows: pa.Table, rows_a_block: int) -> list[pa.Table]:
    return [rows.slice(begin, rows_a_block) for begin in range(0, rows.num_rows, rows_a_block)]


def probing(files: pa.Table, config: IndexConfig, resources: Resources, *, verbose: bool = False) -> Dataset:
    """Files to videos: what each is and where its scenes part it, or why it is none."""
    dataset = _dataset(_parts(files, _FILES_A_BLOCK), verbose=verbose)
    return dataset.map_batches(  # 1:1, headers only unless scenes are wanted
        probe_files,
        fn_kwargs={
            "min_segment_s": config.min_segment_s,
            "segment_s": config.segment_s,
            "limit_s": config.decode_limit_s,
        },
        batch_size=1,
        num_cpus=resources.decode_cpus,
        compute=TaskPoolStrategy(size=resources.decode_workers),
        **_ROWS,
    )


def segments_a_block(segments: int, config: IndexConfig, resources: Resources) -> int:
    """How many segments are to go from stage to stage together, of so many that are to be indexed.

    The driver pays Ray for each block and each task, 20 ms of CPU for a segment alone. So where there is enough for
    all decoders, it is as many as an encoder takes at once.
    """
    enough = segments >= _BLOCKS_A_DECODER * config.batch_segments * resources.decode_workers
    return config.batch_segments if enough else 1


def indexing(
    videos: pa.Table,
    config: IndexConfig,
    recipe: Recipe,
    archive: Archive,
    resources: Resources,
    together: int = 1,
    *,
    verbose: bool = False,
) -> Dataset:
    """Videos to receipts, ``together`` segments in a block."""
    settings = MemorySettings(length=recipe.bank_length, policy=recipe.merge_policy)
    threads = max(1, round(resources.decode_cpus))
    dataset = _dataset(_parts(videos, 1), verbose=verbose)
    batch_size = config.batch_segments
    if together > 1:
        dataset.context.target_max_block_size = None  # a block a task
        # Blocks as they are: to fill batches Ray would cut blocks, and copies what it cuts.
        batch_size = together
    # plan, 1:N: the segments of a video that are not committed
    dataset = dataset.map_batches(
        plan_segments,  # type: ignore[arg-type]
        fn_kwargs={"recipe_id": recipe.recipe_id, "segment_s": recipe.segment_s, "fps": recipe.fps},
        num_cpus=_LIGHT_CPUS,
        # Each is a process: without a limit, a thousand videos would start as many as fit into the light share.
        compute=TaskPoolStrategy(size=resources.decode_workers),
        **_ROWS,
    )
    if together > 1:
        # Also of several videos, where they are short.
        dataset = dataset.repartition(target_num_rows_per_block=together, strict=True)
    return (
        dataset
        # decode, 1:1 on CPUs: sampled frames at the model's image size
        .map_batches(
            decode_segments,  # type: ignore[arg-type]
            fn_kwargs={
                "fps": recipe.fps,
                "sampling": recipe.sampling,
                "segment_s": recipe.segment_s,
                "image_size": recipe.image_size,
                "decoder": config.decoder,
                "threads": threads,
                "limit_s": config.decode_limit_s,
            },
            batch_size=None,
            num_cpus=resources.decode_cpus,
            compute=TaskPoolStrategy(size=resources.decode_workers),
            **_ROWS,
        )
        # encode, 1:1 on GPUs: memory, retrieval vectors, a query output a prompt
        .map_batches(
            MeteredEncodeSegments,
            fn_constructor_kwargs={
                "model": config.model,
                "retrieval_model": config.retrieval_model,
                "settings": settings,
                "prompts": config.all_prompts,
                "check_vision": False,
                "compile_vision": config.compile,
            },
            batch_size=batch_size,
            num_cpus=resources.encode_cpus,
            num_gpus=resources.encode_gpus,
            compute=_pool(resources.encode_workers),
            **_ROWS,
        )
        # generate, 1:1 on GPUs: texts
        .map_batches(MeteredGenerateTexts, batch_size=batch_size, **_generating(config, resources))
        # write, 1:1: fragments in the store, a receipt to the driver
        .map_batches(
            write_segments,  # type: ignore[arg-type]
            fn_kwargs={
                "archive": archive.uri,
                "prompts": config.all_prompts,
                "model": recipe.model,
                "model_fingerprint": recipe.model_fingerprint,
                "recipe_id": recipe.recipe_id,
                "memories": archive.schema("memories"),
            },
            batch_size=None,
            num_cpus=_LIGHT_CPUS,
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
    return (
        _dataset(work, verbose=verbose)
        # replay, 1:1 on GPUs: query outputs of new prompts on stored slots
        .map_batches(
            ReplayPrompts,
            fn_constructor_kwargs={
                "archive": archive.uri,
                "model": config.model,
                "settings": MemorySettings(archive.recipe.bank_length, archive.recipe.merge_policy),
                "prompts": config.all_prompts,
            },
            batch_size=config.batch_segments,
            num_cpus=resources.encode_cpus,
            num_gpus=resources.encode_gpus,
            compute=_pool(resources.encode_workers),
            **_ROWS,
        )
        # generate, 1:1 on GPUs: texts
        .map_batches(
            MeteredGenerateTexts, batch_size=4 * config.batch_segments, **_generating(config, resources)
        )
    )


def _pool(workers: int) -> ActorPoolStrategy:
    """Work begins with the first actor that is up: on a busy cluster the others may be long in coming.

    The size is fixed: Ray would take actors away whenever decoding falls behind for some seconds and not give them
    back, and each has a model to load.
    """
    return ActorPoolStrategy(size=workers)


def _generating(config: IndexConfig | AnnotateConfig, resources: Resources) -> dict[str, Any]:
    return {
        "fn_constructor_kwargs": {
            "model": config.model,
            "prompts": config.all_prompts,
            "max_new_tokens": config.max_new_tokens,
        },
        "num_cpus": resources.generate_cpus,
        "num_gpus": resources.generate_gpus,
        "compute": _pool(resources.generate_workers),
        **_ROWS,
    }
