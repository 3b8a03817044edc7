"""Exports for people who label video: Label Studio's tasks, FiftyOne's temporal detections, and reviewed answers.

Each text carries its id, by which it is known when it comes back. Where a person has reviewed a text, what that person
said is exported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.reviews import Key, Review, key_of

__all__ = ["REVIEWED_COLUMNS", "fiftyone", "label_studio", "reviewed_rows"]

REVIEWED_COLUMNS = ("video", "start_s", "end_s", "prompt", "answer")
_USUAL_FPS = 25.0

Reviews = Mapping[Key, Review]


def label_studio(archive: ArchiveReader, texts: Sequence[Mapping[str, Any]], reviews: Reviews) -> str:
    """One task a video, with each text as a region of a timeline that has a text of its own.

    Regions are in frames, counted from 1 from the video's first. docs/review.md has the labelling configuration.
    """
    tasks = []
    for video, rows in _by_video(texts).items():
        about = archive.video_rows([video]).to_pylist()[0]
        fps = about["fps"] or _USUAL_FPS
        results = []
        for row in rows:
            ranges = [_frames(row, fps)]
            region = {"id": row["annotation_id"], "to_name": "video"}
            score = {} if row["score"] is None else {"score": row["score"]}
            label = {"ranges": ranges, "timelinelabels": [row["prompt_name"]]}
            results += [
                {**region, "from_name": "timeline", "type": "timelinelabels", "value": label, **score},
                {
                    **region,
                    "from_name": "text",
                    "type": "textarea",
                    "value": {"ranges": ranges, "text": [_said(row, reviews)]},
                },
            ]
        data = {
            "video": about["uri"],
            "name": PurePosixPath(about["uri"]).name,
            "video_id": video,
            "fps": fps,
        }
        models = sorted({row["model"] for row in rows if row["model"]})
        tasks.append(
            {
                "data": data,
                "predictions": [{"model_version": ", ".join(models) or "given", "result": results}],
            }
        )
    return _json(tasks)


def fiftyone(texts: Sequence[Mapping[str, Any]], reviews: Reviews) -> str:
    """``labels.json`` of a ``FiftyOneTemporalDetectionDataset``, in seconds from each video's first frame."""
    labels: dict[str, list[dict[str, Any]]] = {}
    for rows in _by_video(texts).values():
        for row in rows:
            begin, end = (max(0.0, row[name] - row["video_start_s"]) for name in ("start_s", "end_s"))
            confidence = {} if row["score"] is None else {"confidence": row["score"]}
            labels.setdefault(PurePosixPath(row["uri"]).stem, []).append(
                {
                    "label": _said(row, reviews),
                    "timestamps": [round(begin, 6), round(end, 6)],
                    **confidence,
                    "attributes": {
                        "prompt": row["prompt_name"],
                        "annotation_id": row["annotation_id"],
                        "video_id": row["video_id"],
                    },
                }
            )
    return _json({"classes": None, "labels": labels})


def reviewed_rows(
    archive: ArchiveReader, reviews: Reviews, texts: Sequence[Mapping[str, Any]]
) -> list[list[Any]]:
    """Rows of ``REVIEWED_COLUMNS``, for training: what people said is right, by video and time.

    Of the ``texts``, those that are right, and corrections. A text that is wrong and has no correction is left out.
    """
    found = []
    for row in texts:
        review = reviews.get(key_of(row))
        if review is not None and review.answer is not None:
            found.append([row["uri"], row["start_s"], row["end_s"], row["prompt"], review.answer])
    return found


def _said(row: Mapping[str, Any], reviews: Reviews) -> str:
    review = reviews.get(key_of(row))
    return str(row["text"] if review is None or review.answer is None else review.answer)


def _frames(row: Mapping[str, Any], fps: float) -> dict[str, int]:
    begin, end = (max(0.0, row[name] - row["video_start_s"]) for name in ("start_s", "end_s"))
    first = math.floor(begin * fps + 1e-6) + 1
    return {"start": first, "end": max(first, math.ceil(end * fps - 1e-6))}


def _by_video(texts: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Texts by video. What a segment and a whole video of one segment say alike is one text to a person."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    there: set[Key] = set()
    for row in texts:
        if (key := key_of(row)) not in there:
            there.add(key)
            found.setdefault(row["video_id"], []).append(row)
    return found


def _json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"
