"""The graph of stages: which operator follows which, how many rows go in and come out, and what each one gets.

Read it from top to bottom: it is the picture of the system.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from ray.data import Dataset, ExecutionResources, TaskPoolStrategy

from malmm.model.memory.settings import MemorySettings
from malmm.operators.decode import DecodeSettings, decode_segments
from malmm.operators.guard import guarded
from malmm.operators.listen import listen_to_spans
from malmm.operators.model_host import ModelStep
from malmm.operators.probe import probe_files
from malmm.operators.write import write_segments
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.placement import Want, alive_nodes
from malmm.pipeline.cluster.resources import Resources
from malmm.pipeline.indexing.file_queue import FileQueueHandle
from malmm.pipeline.indexing.model_hosts import ModelHosts, through_hosts
from malmm.pipeline.indexing.survey_stages import listed_files, unfinished_segments
from malmm.pipeline.schema.cluster_use import WHOLE_CLUSTER, ClusterUse
from malmm.pipeline.schema.config import AnnotateConfig, IndexConfig, Recipe
from malmm.pipeline.schema.rows import (
    ANSWERED,
    AUDIBLE,
    DECODED,
    ENCODED,
    PLANNED,
    PROBED,
    RECEIPTS,
    REPLAYED,
    TRANSCRIBED,
    Carried,
    rows_table,
)
from malmm.pipeline.schema.transcribe_config import TranscribeConfig

__all__ = [
    "LIGHT_STAGES",
    "Wiring",
    "decoding",
    "describing",
    "indexing",
    "keep_to",
    "planned_before",
    "replaying",
    "segments_a_block",
    "surveying",
    "transcribing",
    "writing",
]

# Operators with a model. Their actors import them: torch and transformers take seconds to load, and neither the driver
# nor the workers of light stages need them.
ENCODER: type | str = "malmm.operators.encode:EncodeSegments"
GENERATOR: type | str = "malmm.operators.generate:GenerateTexts"
REPLAYER: type | str = "malmm.operators.replay:ReplayPrompts"
TRANSCRIBER: type | str = "malmm.operators.transcribe:TranscribeSpans"
_FILES_A_BLOCK = 4
# Rows that the language model is given at once, at most. What it computes together, it chooses by their size in memory.
_GENERATED_TOGETHER = 64
# With fewer blocks a decoder, some decoders would be idle while others finish.
_BLOCKS_A_DECODER = 16
_ROWS: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}
# CPUs that light stages reserve, together what ``choose_resources`` leaves free for them. Ray Data hands out shares
# from the first stage to the last, and the first one waits for the listing: a stage whose share is not left would wait
# with it. Ray fuses stages with equal shares into one task. That is wanted for probe and plan only: otherwise a video's
# segments would be decoded one after the other in the task that planned them.
_LIST_CPUS, _SURVEY_CPUS, _REGROUP_CPUS, _WRITE_CPUS = 0.01, 0.02, 0.01, 0.015
LIGHT_STAGES = tuple(
    (name, cpus, 0.0)
    for name, cpus in (("list", _LIST_CPUS), ("probe", _SURVEY_CPUS), ("write", _WRITE_CPUS))
)
"""What these stages ask for: stage, CPUs, GPUs."""


@dataclass(frozen=True)
class Wiring:
    """What the datasets of one run share. ``together`` segments go from stage to stage in one block."""

    config: IndexConfig
    recipe: Recipe
    resources: Resources
    together: int = 1
    verbose: bool = False


def _dataset(
    blocks: Sequence[pa.Table], *, use: ClusterUse = WHOLE_CLUSTER, together: int = 1, verbose: bool
) -> Dataset:
    """A dataset of these blocks. Its settings are its own: other datasets in this process keep theirs.

    With ``together`` 1, every row is a block: a row is a segment, minutes of work, and must not wait for others. With
    more, each task makes one block. A lost block (its worker died again and again) does not end the run: the driver
    knows what it planned and reports what never came back. A long time without a block does not end it either: a
    segment may take longer than any limit, and nodes may take long to start. With a share of the cluster, the run has
    that share of its CPUs and GPUs at most.
    """
    # Not from_arrow, which runs a task for each table before anything starts.
    dataset = ray.data.from_blocks(list(blocks))
    context = dataset.context
    context.target_max_block_size = 1 if together == 1 else None
    context.max_errored_blocks = -1
    context.execution_no_progress_timeout_s = -1
    keep_to(use, dataset)
    if not verbose:
        context.enable_progress_bars = context.enable_rich_progress_bars = False
    return dataset


def keep_to(use: ClusterUse, dataset: Dataset, least: Sequence[Want] = ()) -> None:
    """Have the dataset take no more than its part of the cluster, on the nodes that it may use.

    A part that is too small for one of each of the ``least`` workers is as large as they are.
    """
    options = dataset.context.execution_options
    if use.labels:
        options.label_selector = dict(use.labels)
    if use.share < 1:
        nodes = alive_nodes(use.labels)
        options.resource_limits = ExecutionResources(
            cpu=max(use.share * sum(node.cpus for node in nodes), sum(cpus for _, cpus, _ in least)),
            gpu=max(use.share * sum(node.gpus for node in nodes), sum(gpus for _, _, gpus in least)),
        )


def surveying(
    wiring: Wiring, queue: FileQueueHandle, positions: int, done: np.ndarray | None = None
) -> Dataset:
    """Listed files to planned segments, without those whose ids are in ``done`` (sorted, dtype S24).

    The output is ``PLANNED``, a row a segment. Plans go to the driver through ``queue``, and so do the failures of
    files that are not videos.
    """
    config, recipe, resources = wiring.config, wiring.recipe, wiring.resources
    blocks = [pa.table({"position": [position]}) for position in range(positions)]
    dataset = _dataset(blocks, use=config.cluster, together=wiring.together, verbose=wiring.verbose)
    # list, 1:N: a position of the queue to the files there, once they are listed
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
        # Half as many as decoders: the other half decodes what is planned.
        "compute": TaskPoolStrategy(size=max(1, resources.decode_workers // 2)),
    }
    dataset = (
        dataset
        # probe, 1:1 on CPUs: what each file is, from its headers, and its scene cuts if they are wanted
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
        # A block may hold segments of several short videos.
        dataset = _regrouped(dataset, wiring.together, strict=True)
    return dataset


def planned_before(
    rows: Sequence[Carried], *, use: ClusterUse = WHOLE_CLUSTER, verbose: bool = False
) -> Dataset:
    """Planned segments to be tried again, one a block."""
    return _dataset([rows_table([row.columns()], PLANNED) for row in rows], use=use, verbose=verbose)


def segments_a_block(segments: int, config: IndexConfig, resources: Resources) -> int:
    """How many segments go from stage to stage in one block, if at least ``segments`` are to be indexed.

    Each block and each task costs the driver CPU time, 20 ms for a segment alone. So if there are enough segments for
    all decoders, a block holds as many as an encoder takes at once; otherwise one.
    """
    enough = segments >= _BLOCKS_A_DECODER * config.batch_segments * resources.decode_workers
    return config.batch_segments if enough else 1


def indexing(
    planned: Dataset,
    wiring: Wiring,
    hosts: ModelHosts,
    archive: str,
    memories: pa.Schema,
    *,
    expected: int = 1,
) -> Dataset:
    """Planned segments to receipts. ``archive`` is the address of the tables, ``memories`` the schema of that table.

    At least ``expected`` segments will come: no more hosts than that are started for them.
    """
    described = describing(decoding(planned, wiring), wiring, hosts, expected=expected)
    return writing(described, wiring, hosts, archive, memories)


def decoding(planned: Dataset, wiring: Wiring) -> Dataset:
    """Planned segments to ``DECODED``, 1:1 on CPUs: sampled frames at the model's image size."""
    config, recipe, resources = wiring.config, wiring.recipe, wiring.resources
    settings = DecodeSettings(
        fps=recipe.fps,
        sampling=recipe.sampling,
        segment_s=recipe.segment_s,
        image_size=recipe.image_size,
        decoder=config.decoder,
        threads=max(1, round(resources.decode_cpus)),
        limit_s=config.decode_limit_s,
    )
    return planned.map_batches(
        guarded("decode", DECODED, decode_segments),
        fn_kwargs={"settings": settings},
        batch_size=None,
        num_cpus=resources.decode_cpus,
        compute=TaskPoolStrategy(size=resources.decode_workers),
        **_ROWS,
    )


def describing(decoded: Dataset, wiring: Wiring, hosts: ModelHosts, *, expected: int = 1) -> Dataset:
    """Frames to ``ANSWERED``, 1:1 in the run's actors. At least ``expected`` segments will come."""
    config, recipe = wiring.config, wiring.recipe
    # If blocks hold several segments, a batch is one block: to fill larger batches Ray would cut and copy blocks.
    batch_size = wiring.together if wiring.together > 1 else config.batch_segments
    # encode: memory slots, retrieval vectors, and a query output for each prompt
    encode = ModelStep(
        "encode",
        ENCODED,
        ENCODER,
        {
            "model": config.model,
            "retrieval_model": config.retrieval_model,
            "settings": MemorySettings(length=recipe.bank_length, policy=recipe.merge_policy),
            "tokens": recipe.tokens,
            "prompts": config.all_prompts,
            "check_vision": False,
            "compile_vision": config.compile,
        },
        batch_size,
    )
    # generate: texts
    generate = _generator(config, recipe)
    return decoded.map_batches(
        guarded("encode", ANSWERED, through_hosts),
        fn_kwargs={"route": hosts.route((encode, generate), expected=expected)},
        batch_size=batch_size,
        **_waiting(hosts),
    )


def writing(
    described: Dataset, wiring: Wiring, hosts: ModelHosts, archive: str, memories: pa.Schema
) -> Dataset:
    """Texts and memory to receipts, 1:1: fragments to the store, a receipt to the driver."""
    written = described.map_batches(
        guarded("write", RECEIPTS, write_segments),
        fn_kwargs={
            "archive": archive,
            "prompts": wiring.config.all_prompts,
            "recipe": wiring.recipe,
            "memories": memories,
        },
        batch_size=None,
        **_waiting(hosts),
    )
    return hosts.sizes.apply_to(written)


def _waiting(hosts: ModelHosts) -> dict[str, Any]:
    """Ray runs stages that reserve the same in one task: the one that mostly waits for models, and the next."""
    return {"num_cpus": _WRITE_CPUS, "compute": TaskPoolStrategy(size=hosts.batches), **_ROWS}


def replaying(
    work: Sequence[pa.Table],
    config: IndexConfig | AnnotateConfig,
    archive: Archive,
    hosts: ModelHosts,
    *,
    verbose: bool = False,
) -> Dataset:
    """Stored memory and prompts to texts, without reading a video."""
    expected = sum(block.num_rows for block in work)
    # replay, 1:1 on GPUs: query outputs of new prompts on stored slots
    replay = ModelStep(
        "replay",
        REPLAYED,
        REPLAYER,
        {
            "archive": archive.uri,
            "model": config.model,
            "settings": MemorySettings(archive.recipe.bank_length, archive.recipe.merge_policy),
            "prompts": config.all_prompts,
        },
        config.batch_segments,
    )
    # generate, 1:1 on GPUs: texts
    generate = _generator(config, archive.recipe)
    replayed = _dataset(work, use=config.cluster, verbose=verbose).map_batches(
        # replay and generate, 1:1 in the run's actors
        guarded("replay", ANSWERED, through_hosts),
        fn_kwargs={"route": hosts.route((replay, generate), expected=expected)},
        batch_size=4 * config.batch_segments,
        num_cpus=_WRITE_CPUS,
        compute=TaskPoolStrategy(size=hosts.batches),
        **_ROWS,
    )
    return hosts.sizes.apply_to(replayed)


def transcribing(
    work: Sequence[pa.Table],
    config: TranscribeConfig,
    resources: Resources,
    hosts: ModelHosts,
    *,
    verbose: bool = False,
) -> Dataset:
    """Spans of sound, a row each as ``PLANNED``, to what is said in them."""
    transcribe = ModelStep(
        "transcribe", TRANSCRIBED, TRANSCRIBER, {"model": config.model, "language": config.language}, 1
    )
    recognised = (
        _dataset(work, use=config.cluster, verbose=verbose)
        # listen, 1:1 on CPUs: samples of sound
        .map_batches(
            guarded("listen", AUDIBLE, listen_to_spans),
            fn_kwargs={"limit_s": config.decode_limit_s},
            batch_size=None,
            num_cpus=resources.decode_cpus,
            compute=TaskPoolStrategy(size=resources.decode_workers),
            **_ROWS,
        )
        # transcribe, 1:1 in the run's actors: what is said, with its times
        .map_batches(
            guarded("transcribe", TRANSCRIBED, through_hosts),
            fn_kwargs={"route": hosts.route((transcribe,), expected=sum(block.num_rows for block in work))},
            batch_size=1,
            **_waiting(hosts),
        )
    )
    return hosts.sizes.apply_to(recognised)


def _regrouped(dataset: Dataset, rows_a_block: int, *, strict: bool = False) -> Dataset:
    dataset = dataset.repartition(target_num_rows_per_block=rows_a_block, strict=strict)
    # ``repartition`` takes no resources, and would reserve a whole CPU.
    stage: Any = dataset._logical_plan.dag
    stage.ray_remote_args["num_cpus"] = _REGROUP_CPUS
    return dataset


def _generator(config: IndexConfig | AnnotateConfig, recipe: Recipe) -> ModelStep:
    options = {
        "model": config.model,
        "prompts": config.all_prompts,
        "max_new_tokens": config.max_new_tokens,
        "decoding": recipe.decoding,
        "engine": config.engine,
    }
    return ModelStep("generate", ANSWERED, GENERATOR, options, _GENERATED_TOGETHER, gathers=True)
