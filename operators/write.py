"""Write: finished segments to Lance fragments. One row in, one receipt out; the driver commits them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from malmm.operators.typed_answers import moments_in
from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.schema.config import Prompt, Recipe
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.schema.ids import ONLINE, annotation_id, memory_id, moments_version, whole_video_subject
from malmm.pipeline.schema.rows import RECEIPTS, Carried, array_at, carried, rows_table
from malmm.pipeline.schema.tables import ANNOTATIONS, MOMENT, SEGMENTS

__all__ = ["Answer", "annotation_rows", "answers_at", "write_segments"]


@dataclass(frozen=True)
class Answer:
    """An answer to a prompt. ``label_scores`` has the probability of each of the prompt's labels, in their order."""

    prompt: Prompt
    text: str
    score: float | None = None
    label_scores: Sequence[float] | None = None

    def by_label(self) -> list[dict[str, Any]] | None:
        """The labels with their probabilities; None if the prompt has no labels."""
        if self.label_scores is None:
            return None
        return [
            {"label": label, "score": score}
            for label, score in zip(self.prompt.labels, self.label_scores, strict=True)
        ]


def answers_at(rows: pa.Table, index: int, prompts: Sequence[Prompt]) -> list[Answer]:
    """The answers in a row of ``ANSWERED``, or of replayed rows with texts. ``prompts`` are the run's prompts."""
    columns = [rows[name][index].as_py() for name in ("prompts", "texts", "scores", "label_scores")]
    return [
        Answer(prompts[place], text, score, labels)
        for place, text, score, labels in zip(*columns, strict=True)
    ]


def annotation_rows(
    row: Carried, answers: Sequence[Answer], recipe: Recipe, *, mode: str, end_s: float
) -> list[dict[str, Any]]:
    """Rows of ``annotations`` about a segment, or about a whole video if the row has no segment.

    A list of timed records is a row, and each of its records another, with its own span.
    """
    if row.video is None:
        raise ValueError("an annotation is about a video")
    if row.segment is not None:
        subject, start_s = row.segment.segment_id, row.segment.start_s
    else:
        subject = whole_video_subject(row.video.video_id, row.video.fingerprint, recipe.recipe_id)
        start_s = row.video.start_s
    now = datetime.now(UTC)
    rows: list[dict[str, Any]] = [
        {
            "annotation_id": annotation_id(subject, answer.prompt.version, recipe.model_fingerprint, mode),
            "video_id": row.video.video_id,
            "segment_id": row.segment.segment_id if row.segment else None,
            "start_s": start_s,
            "end_s": end_s,
            "task": answer.prompt.task,
            "prompt_name": answer.prompt.name,
            "prompt": answer.prompt.text,
            "prompt_version": answer.prompt.version,
            "text": answer.text,
            "score": answer.score,
            "label_scores": answer.by_label(),
            "mode": mode,
            "model": recipe.model,
            "created_at": now,
        }
        for answer in answers
    ]
    timed = {answer.prompt.version: answer for answer in answers if answer.prompt.spans}
    return rows + [
        row | moment
        for row in rows
        if row["prompt_version"] in timed
        for moment in _moments(row["annotation_id"], timed[row["prompt_version"]])
    ]


def _moments(answer_id: str, answer: Answer) -> Iterator[dict[str, Any]]:
    """What the row of each timed record has otherwise than that of the answer which it was taken out of."""
    for place, (start_s, end_s, text) in enumerate(moments_in(answer.text)):
        yield {
            "annotation_id": f"{answer_id}-{place:04d}",
            "start_s": start_s,
            "end_s": end_s,
            "task": MOMENT,
            "prompt_version": moments_version(answer.prompt.version),
            "text": text,
        }


def write_segments(
    rows: pa.Table,
    *,
    archive: str,
    prompts: tuple[Prompt, ...],
    recipe: Recipe,
    memories: pa.Schema,
) -> pa.Table:
    """``ANSWERED`` to ``RECEIPTS``: write fragments for the driver to commit. Readers see no change yet.

    ``archive`` is the address of the tables, and ``memories`` the schema of that table.
    """
    recipe_id = recipe.recipe_id
    results = []
    for index, row in enumerate(carried(rows)):
        if row.failure is not None or row.segment is None:
            results.append(row.columns())
            continue
        end_s = rows["decoded_end_s"][index].as_py()
        answers = answers_at(rows, index, prompts)
        annotations = annotation_rows(row, answers, recipe, mode=ONLINE, end_s=end_s)
        segment = {
            "segment_id": row.segment.segment_id,
            "video_id": row.segment.video_id,
            "index": row.segment.index,
            "start_s": row.segment.start_s,
            "end_s": end_s,
            "frame_count": rows["frame_count"][index].as_py(),
            "recipe_id": recipe_id,
        }
        try:
            tables = {
                "segments": pa.Table.from_pylist([segment], schema=SEGMENTS),
                "annotations": pa.Table.from_pylist(annotations, schema=ANNOTATIONS),
                "memories": pa.Table.from_pylist(_memory_rows(rows, index, row), schema=memories),
            }
            receipt = write_rows(archive, tables)[0]
        except (ArchiveError, ValueError) as error:  # Arrow's errors are ValueErrors
            results.append(row.failed("write", type(error).__name__, str(error)).columns())
            continue
        problem = rows["problem"][index].as_py()
        results.append(row.columns() | {"problem": problem, "receipt": vars(receipt)})
    return rows_table(results, RECEIPTS)


def _memory_rows(rows: pa.Table, index: int, row: Carried) -> list[dict[str, Any]]:
    if row.segment is None:
        raise ValueError("memory belongs to a segment")
    scales = None
    if rows["token_scales"][index].is_valid:
        scales = array_at(rows, "token_scales", index, np.float16)
    tokens = array_at(rows, "tokens", index, np.float16 if scales is None else np.int8)
    sizes = array_at(rows, "sizes", index, np.int32)
    vectors = None
    if rows["vectors"][index].is_valid:
        vectors = array_at(rows, "vectors", index, np.float16)
    return [
        {
            "memory_id": memory_id(row.segment.segment_id, slot),
            "segment_id": row.segment.segment_id,
            "video_id": row.segment.video_id,
            "slot": slot,
            **span,
            "vectors": None if vectors is None else list(vectors[slot]),
            "tokens": tokens[slot].tobytes(),
            "token_shape": list(tokens[slot].shape),
            "token_scales": None if scales is None else scales[slot].ravel(),
            "sizes": sizes[slot],
        }
        for slot, span in enumerate(rows["slots"][index].as_py())
    ]
