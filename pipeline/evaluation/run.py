"""Evaluate: from annotations and videos to answers, figures and a report.

A folder keeps the answers, a line a clip, so that the same command again asks only unanswered clips.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from malmm.pipeline.evaluation.answer_file import AnswerFile, write_whole
from malmm.pipeline.evaluation.config import EvaluateConfig
from malmm.pipeline.evaluation.formats.reading import Reading, Source
from malmm.pipeline.evaluation.graph import Run, Stages, asking
from malmm.pipeline.evaluation.leaks import leaked_videos
from malmm.pipeline.evaluation.questions import Clip, Question, by_clip
from malmm.pipeline.evaluation.report import EvaluationReport, Part, make_report, markdown
from malmm.pipeline.evaluation.video_folder import VideoFolder
from malmm.pipeline.indexing.model_loading import size_of_weights
from malmm.pipeline.schema.errors import DataSetError
from malmm.pipeline.schema.progress import OnProgress, Progress
from malmm.pipeline.schema.records import Segment
from malmm.pipeline.schema.rows import ASKED, Carried, carried, rows_table

__all__ = ["evaluate"]


def evaluate(
    config: EvaluateConfig,
    *,
    on_progress: OnProgress | None = None,
    verbose: bool = False,
    run: Run | None = None,
) -> EvaluationReport:
    """Ask a data set's questions about its videos and score the answers.

    Writes ``report.json`` and ``report.md`` into the output folder unless the run is interrupted. Videos that are
    missing or cannot be read are named in the report, and the others are scored. Tasks with models of their own are
    asked one after the other, each with a folder of the output, and reported as one. ``run`` are the stages, by default
    those on Ray.

    Raises DataSetError for annotations of another form, for a leak between training and test, and if no video is there;
    ConfigError for an output folder with answers by another recipe; CheckpointError for the model.
    """
    began = time.monotonic()
    tell = on_progress or (lambda progress: None)
    tell(Progress("reading annotations"))
    # All is checked before the first is asked.
    parts = [_prepared(part) for part in config.parts]
    files = [AnswerFile(part.config.output, part.recipe) for part in parts]
    interrupted = False
    try:
        for part, told in zip(parts, files, strict=True):
            if left := part.left(told):
                _ask(part, left, told, run or asking, Stages(part.config, part.image_size, tell, verbose))
    except KeyboardInterrupt:
        interrupted = True
    found = [Part(part.reading, part.clips, told.rows) for part, told in zip(parts, files, strict=True)]
    report = make_report(
        config,
        _joined([part.recipe for part in parts]),
        found,
        missing=sorted({video for part in parts for video in part.missing}),
        leaked=sorted({video for part in parts for video in part.leaked}),
    )
    report.interrupted, report.elapsed_s = interrupted, time.monotonic() - began
    if interrupted:
        return report
    for part, told in zip(parts, files, strict=True):
        report.failures += [
            _lost(clip, source) for clip, source in part.left(told).items() if clip.clip_id not in told.rows
        ]
    if report.answered:
        _write(config.output, report)
    if len(parts) > 1:
        for part, own in zip(parts, found, strict=True):
            of_task = make_report(part.config, part.recipe, [own], missing=part.missing, leaked=part.leaked)
            if of_task.answered:
                _write(part.config.output, of_task)
    return report


def _write(output: Path, report: EvaluationReport) -> None:
    write_whole(output / "report.md", markdown(report))
    write_whole(output / "report.json", report.to_json())


@dataclass(frozen=True, eq=False)
class _Prepared:
    """An evaluation that can begin: its questions by clip, where each clip's video lies, and its recipe."""

    config: EvaluateConfig
    reading: Reading
    clips: dict[Clip, list[Question]]
    sources: dict[Clip, str | None]
    leaked: list[str]
    recipe: dict[str, Any]
    image_size: int
    weights_bytes: int

    @property
    def missing(self) -> list[str]:
        """Names of videos that are not there."""
        return sorted({clip.video for clip, source in self.sources.items() if source is None})

    def left(self, told: AnswerFile) -> dict[Clip, str]:
        """Clips without answers whose video is there."""
        answered = told.answered()
        return {
            clip: source for clip, source in self.sources.items() if source and clip.clip_id not in answered
        }


def _prepared(config: EvaluateConfig) -> _Prepared:
    reading = _read(config)
    names = {question.clip.video for question in reading.questions} | {name for _, name in reading.training}
    folder = VideoFolder(config.videos, names)
    leaked = leaked_videos(reading, folder)
    if leaked and not config.allow_leak:
        raise DataSetError(
            f"{len(leaked)} videos are in training and in the {config.chosen_split} split, such as {leaked[0]}: "
            "figures over them say nothing; take them out, or score them all the same with --allow-leak",
            path=str(config.annotations),
        )
    clips = _drawn(by_clip(reading.questions), config)
    sources = {clip: folder.find(clip.video) for clip in clips}
    if not any(sources.values()):
        raise DataSetError(
            f"{config.videos} has none of the {len({clip.video for clip in clips})} videos that are asked about, "
            f"such as {next(iter(clips)).video}",
            path=str(config.videos),
        )
    # Checkpoints load transformers' configuration classes, which a wrong option need not wait for.
    from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
    from malmm.model.families.registry import image_size

    checkpoint = open_models(config.model, NO_RETRIEVAL).checkpoint
    recipe = _recipe(config, reading, checkpoint.fingerprint())
    return _Prepared(
        config, reading, clips, sources, leaked, recipe, image_size(checkpoint), checkpoint.half_bytes
    )


def _joined(recipes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The recipe of a report over several evaluations, which differ by task and model."""
    if len(recipes) == 1:
        return recipes[0]
    models = {recipe["tasks"][0]: (recipe["model"], recipe["model_fingerprint"]) for recipe in recipes}
    return recipes[0] | {
        "tasks": list(models),
        "model": ", ".join(f"{task}={model}" for task, (model, _) in models.items()),
        "model_fingerprint": hashlib.sha256(repr(sorted(models.items())).encode()).hexdigest(),
        "models": {task: {"model": model, "fingerprint": of} for task, (model, of) in models.items()},
    }


def _lost(clip: Clip, source: str) -> dict[str, str]:
    message = f"{source}: its worker ended without an answer; run again to ask it again"
    return {"video": clip.video, "clip": clip.clip_id, "kind": "lost", "stage": "answer", "message": message}


def _read(config: EvaluateConfig) -> Reading:
    protocol = config.protocol
    return config.kind.read(
        Source(
            config.annotations,
            config.chosen_split,
            protocol.frames,
            config.tasks,
            protocol.template,
            protocol.choosing,
        )
    )


def _drawn(clips: dict[Clip, list[Question]], config: EvaluateConfig) -> dict[Clip, list[Question]]:
    """All clips, or as many as the limit, drawn with the seed; in their order."""
    if config.limit is None or config.limit >= len(clips):
        return clips
    chosen = set(random.Random(config.seed).sample(sorted(clip.clip_id for clip in clips), config.limit))  # noqa: S311
    return {clip: asked for clip, asked in clips.items() if clip.clip_id in chosen}


def _recipe(config: EvaluateConfig, reading: Reading, fingerprint: str) -> dict[str, Any]:
    """The settings that decide the answers."""
    return {
        "dataset": config.dataset,
        "split": config.chosen_split,
        "tasks": list(config.tasks),
        "annotations": {path.name: _sha256(path) for path in reading.files},
        "model": config.model,
        "model_fingerprint": fingerprint,
        "protocol": config.protocol.to_dict(),
        "ways": list(config.ways),
        "pieces": config.pieces,
        "describe": config.describe,
        "limit": config.limit,
        "seed": config.seed,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _ask(part: _Prepared, left: Mapping[Clip, str], told: AnswerFile, run: Run, stages: Stages) -> None:
    """Ask the remaining clips, and write each clip's answers as soon as they arrive."""
    began = time.monotonic()
    asked = {clip.clip_id: part.clips[clip] for clip in left}
    blocks = [_block(clip, source, part.clips[clip]) for clip, source in left.items()]
    stages.tell(Progress("starting"))
    loading = f"a worker loads the model, {size_of_weights(part.weights_bytes)}, and answers its first clip"
    done = failed = 0
    for block in run(blocks, stages):
        if not isinstance(block, str):
            for index, row in enumerate(carried(block)):
                answer = _row(block, index, row, asked)
                failed += "failure" in answer
                done += 1
                told.add(answer)
        stages.tell(
            Progress(
                "evaluating",
                videos_done=done,
                videos_total=len(left),
                failures=failed,
                elapsed_s=time.monotonic() - began,
                note=(block if isinstance(block, str) else "") or ("" if done else loading),
            )
        )


def _block(clip: Clip, source: str, questions: Sequence[Question]) -> pa.Table:
    segment = Segment(clip.clip_id, clip.video, source, 0, clip.start_s, clip.end_s, is_last=False)
    row = Carried(None, segment, None).columns() | {
        "cells": list(clip.frames) if clip.frames is not None else None,
        "count": clip.count,
        "prompts": [question.prompt for question in questions],
        "choices": [list(question.choices) for question in questions],
    }
    return rows_table([row], ASKED)


def _row(
    block: pa.Table, index: int, row: Carried, asked: Mapping[str, Sequence[Question]]
) -> dict[str, Any]:
    """A clip's line: the texts of each question by each way, or its failure."""
    if row.segment is None:
        raise ValueError("a row without a clip")
    clip = row.segment.segment_id
    if row.failure is not None:
        failure = row.failure
        return {
            "clip": clip,
            "failure": {"kind": failure.kind, "message": failure.message, "stage": failure.stage},
        }
    ids = [question.question_id for question in asked[clip]]
    ways = {}
    for way in block["ways"][index].as_py():
        name, texts = way.pop("way"), way.pop("texts")
        ways[name] = {"texts": dict(zip(ids, texts, strict=True))} | way
    return {"clip": clip, "ways": ways}
