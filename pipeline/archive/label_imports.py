"""Exports of Label Studio and FiftyOne, read as rows like those of other tables (``foreign_tables``).

Times count from a video's first frame there (``from_start``). ``annotation_id`` is the id of the text that a label was
made from, where the tool kept it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["read_labels"]

Row = tuple[str, dict[str, Any] | str]


def read_labels(path: Path) -> Iterator[Row]:
    """Yield where each label is, and its values or a sentence. Raises ConfigError for a file of another kind."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if isinstance(content, list):
        yield from _label_studio(content)
    elif isinstance(content, dict) and isinstance(content.get("labels"), dict):
        yield from _fiftyone(content)
    else:
        raise ConfigError(
            f"{path} is neither an export of Label Studio (a list of tasks) nor FiftyOne's labels.json; a table is "
            "imported as .csv, .jsonl or .parquet"
        )


def _label_studio(tasks: list[Any]) -> Iterator[Row]:
    for number, task in enumerate(tasks, 1):
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(data, dict):
            yield f"task {number}", "it is no task of Label Studio"
            continue
        for made in task.get("annotations") or ():
            if not isinstance(made, dict) or made.get("was_cancelled"):
                continue
            regions: defaultdict[str, dict[str, Any]] = defaultdict(dict)
            for result in made.get("result") or ():
                if isinstance(result, dict) and isinstance(result.get("value"), dict):
                    regions[str(result.get("id"))].setdefault(str(result.get("type")), result["value"])
            for region, values in regions.items():
                yield f"task {number}, region {region}", _region(data, made, region, values)


def _region(
    data: Mapping[str, Any], made: Mapping[str, Any], region: str, values: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any] | str:
    timeline = values.get("timelinelabels", {})
    labels = timeline.get("timelinelabels") or values.get("labels", {}).get("labels") or [""]
    texts = values.get("textarea", {}).get("text") or []
    span = timeline.get("ranges") or values.get("textarea", {}).get("ranges")
    if span:
        fps = data.get("fps")
        if not isinstance(fps, (int, float)) or not fps > 0:
            return "its times are frames, and its task does not say how many a second has (fps)"
        try:
            start_s, end_s = (span[0]["start"] - 1) / fps, span[0]["end"] / fps
        except (KeyError, TypeError, IndexError):
            return f"its ranges {span!r} are no pair of frames"
    else:
        start_s, end_s = (values.get("labels", {}).get(name, "") for name in ("start", "end"))
    who = made.get("completed_by")
    if isinstance(who, dict):
        who = who.get("email") or who.get("username") or who.get("id")
    return {
        "video": data.get("video_id") or data.get("video"),
        "start_s": start_s,
        "end_s": end_s,
        "task": labels[0] or "",
        "text": " ".join(map(str, texts if isinstance(texts, list) else [texts])) or labels[0],
        "source": "label-studio" if who is None else f"label-studio {who}",
        "annotation_id": region,
        "from_start": True,
    }


def _fiftyone(content: Mapping[str, Any]) -> Iterator[Row]:
    classes = content.get("classes")
    for name, labels in content["labels"].items():
        for number, label in enumerate(labels or (), 1):
            place = f"{name}, label {number}"
            if not isinstance(label, dict):
                yield place, "it is no label of FiftyOne"
                continue
            text, times = label.get("label"), label.get("timestamps")
            if isinstance(text, int) and isinstance(classes, list) and 0 <= text < len(classes):
                text = classes[text]
            if not (isinstance(times, list) and len(times) == 2):
                yield place, "it has no timestamps: export temporal detections with use_support=False"
                continue
            about = label.get("attributes")
            about = about if isinstance(about, dict) else {}
            yield (
                place,
                {
                    "video": about.get("video_id") or name,
                    "start_s": times[0],
                    "end_s": times[1],
                    "task": about.get("prompt") or "",
                    "text": text,
                    "score": label.get("confidence"),
                    "source": "fiftyone",
                    "annotation_id": about.get("annotation_id") or "",
                    "from_start": True,
                },
            )
