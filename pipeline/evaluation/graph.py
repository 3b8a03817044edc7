"""The stages of an evaluation on Ray Data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from malmm.pipeline.evaluation.config import EvaluateConfig
from malmm.pipeline.schema.progress import OnProgress

__all__ = ["ANSWERER", "Run", "Stages", "answerer_options", "asking", "picker_options"]

#: Actors import it by name: torch takes seconds to load.
ANSWERER = "malmm.operators.answer_questions:AnswerQuestions"
_ROWS: dict[str, Any] = {"batch_format": "pyarrow", "zero_copy_batch": True}


@dataclass(frozen=True)
class Stages:
    """Settings that all stages of a run share."""

    config: EvaluateConfig
    image_size: int
    tell: OnProgress
    verbose: bool = False


#: Yields tables of ``TOLD`` for tables of clips, and between them a sentence about what the run waits for, empty if
#: it waits for nothing.
Run = Callable[[Sequence[pa.Table], Stages], Iterator[pa.Table | str]]


def answerer_options(config: EvaluateConfig) -> dict[str, Any]:
    """Arguments of ``AnswerQuestions``."""
    protocol = config.protocol
    return {
        "model": config.model,
        "ways": config.watched,
        "decoding": {
            # The authors' lengths count the begin token.
            "max_new_tokens": protocol.max_length - 1,
            "min_new_tokens": max(0, protocol.min_length - 1),
            "num_beams": protocol.beams,
            "returned": protocol.returned,
            "begin_token": protocol.begin_token,
            "repetition_penalty": protocol.repetition_penalty,
            "length_penalty": protocol.length_penalty,
        },
        "writes_choices": protocol.choosing == "written",
    }


def picker_options(stages: Stages) -> dict[str, Any]:
    """Arguments of ``pick_frames``."""
    return {
        "image_size": stages.image_size,
        "limit_s": stages.config.decode_limit_s,
        "as_authors": stages.config.kind.as_authors,
    }


def asking(clips: Sequence[pa.Table], stages: Stages) -> Iterator[pa.Table | str]:
    """Clips to answers on a Ray cluster: frames are picked on CPUs, and each GPU has a worker with the whole model."""
    # Ray takes seconds to load, which a run without work need not wait for.
    import ray.data
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    from malmm.operators.guard import guarded, guarded_actor
    from malmm.operators.pick_frames import pick_frames
    from malmm.pipeline.cluster.connection import connected
    from malmm.pipeline.cluster.plan import ClusterPlan
    from malmm.pipeline.cluster.starvation import RoomWatch
    from malmm.pipeline.indexing.block_stream import received
    from malmm.pipeline.indexing.graph import keep_to
    from malmm.pipeline.schema.rows import PICKED, TOLD

    config = stages.config
    plan = ClusterPlan(config.resources, config.cluster)
    with connected(plan, verbose=stages.verbose, tell=stages.tell) as resources:
        answer_gpus = min(1.0, resources.encode_gpus + resources.generate_gpus)
        # Not from_arrow, which runs a task for each table before anything starts.
        dataset = ray.data.from_blocks(list(clips))
        context = dataset.context
        # A row a block: a clip is seconds of work and must not wait for others. The driver knows what it asked, so a
        # lost block does not end the run.
        context.target_max_block_size = 1
        context.max_errored_blocks = -1
        context.execution_no_progress_timeout_s = -1
        answerer = ("answer", resources.encode_cpus, answer_gpus)
        keep_to(config.cluster, dataset, [("pick", resources.decode_cpus, 0.0), answerer])
        if not stages.verbose:
            context.enable_progress_bars = context.enable_rich_progress_bars = False
        dataset = (
            dataset
            # pick, 1:1 on CPUs: the frames that the data set asks for
            .map_batches(
                guarded("pick", PICKED, pick_frames),
                fn_kwargs=picker_options(stages),
                batch_size=None,
                num_cpus=resources.decode_cpus,
                compute=TaskPoolStrategy(size=resources.decode_workers),
                **_ROWS,
            )
            # answer, 1:1 on GPUs: one memory of a clip, and all questions about it
            .map_batches(
                guarded_actor("answer", TOLD, ANSWERER),
                fn_constructor_kwargs=answerer_options(config),
                # Ray refuses None beside GPUs.
                batch_size=1,
                num_cpus=resources.encode_cpus,
                num_gpus=answer_gpus,
                compute=ActorPoolStrategy(min_size=1, max_size=min(resources.encode_workers, len(clips))),
                **_ROWS,
            )
        )
        room, done = RoomWatch(resources, [answerer]), 0
        for block in received(dataset):
            done += block is not None
            yield room.note(done) if block is None else block
