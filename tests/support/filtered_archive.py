"""An archive whose videos have metadata and whose segments have labels and answers, and what is in it as plain rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema import tables
from malmm.pipeline.schema.stable_ids import stable_id
from support.archive_rows import RECIPE, VECTOR_SIZE, annotation, annotation_table, rows, video, video_table

#: What a manifest says about each video.
METADATA: tuple[dict[str, Any], ...] = (
    {"camera": "north", "take": 1, "recorded": "2026-01-01 10:00", "outdoors": True},
    {"camera": "south", "take": 2.5, "recorded": "2026-02-01", "outdoors": False, "the crew's": 'Ann; "B"'},
    {"camera": "north", "take": 3, "recorded": "2026-02-01 23:00"},
    {},
)
SEGMENTS, SLOTS = 3, 4
WEATHER = ("rain", "sun", None)


@dataclass(frozen=True)
class Filtered:
    """The archive, its memory slots as dictionaries of all that filters name, and their vectors [S, Q, V]."""

    archive: Archive
    slots: list[dict[str, Any]]
    vectors: np.ndarray

    def __repr__(self) -> str:
        # A property test that fails prints it.
        return f"Filtered({self.archive.uri})"


def make_filtered(place: str) -> Filtered:
    """Write the archive."""
    archive = Archive.create_or_open(place, RECIPE, VECTOR_SIZE)
    chance = np.random.default_rng(5)
    slots: list[dict[str, Any]] = []
    vectors = []
    with archive.held():
        for number, said in enumerate(METADATA):
            made = rows(*range(SEGMENTS), of_video=number, slots=SLOTS)
            memories = made["memories"].to_pylist()
            for memory in memories:
                own = chance.standard_normal((2, VECTOR_SIZE))
                own = (own / np.linalg.norm(own, axis=1, keepdims=True)).astype(np.float16)
                memory["vectors"] = own.tolist()
                vectors.append(own.astype(np.float32))
                weather, who = _said(number, int(memory["start_s"] // 100))
                typed = {"recorded": said.get("recorded"), "mood": "calm" if number % 2 else "busy"}
                slots.append({**said, **typed, "weather": weather, "who": who, **memory, "video": number})
            texts = made["annotations"].to_pylist()
            for row in made["segments"].to_pylist():
                weather, who = _said(number, row["index"])
                about = {"of_video": number, "start_s": row["start_s"]}
                if weather is not None:
                    texts.append(
                        _text(row["segment_id"], "weather", "classification", weather, 0.75, **about)
                    )
                texts.append(_text(row["segment_id"], "who", "question", who, None, **about))
            made["memories"] = pa.Table.from_pylist(memories, schema=made["memories"].schema)
            made["annotations"] = pa.Table.from_pylist(texts, schema=tables.ANNOTATIONS)
            archive.commit(write_rows(archive.uri, made))
            row = video_table(number).to_pylist()[0] | {"metadata": json.dumps(said) if said else ""}
            archive.put_videos(pa.Table.from_pylist([row], schema=tables.VIDEOS))
            mood = _text(None, "mood", "question", "calm" if number % 2 else "busy", None, of_video=number)
            archive.add_annotations(annotation_table(mood))
    return Filtered(archive, slots, np.stack(vectors))


def _said(number: int, segment: int) -> tuple[str | None, str]:
    return WEATHER[(number + segment) % 3], ("a man", "a woman with a dog")[(number * segment) % 2]


def _text(
    segment_id: str | None, prompt: str, task: str, text: str, score: float | None, **about: Any
) -> dict[str, object]:
    version = stable_id(prompt)
    made = annotation(segment_id, subject=video(about["of_video"]), **about)
    return made | {
        "annotation_id": stable_id(str(made["annotation_id"]), prompt),
        "task": task,
        "prompt_name": prompt,
        "prompt": f"{prompt}?",
        "prompt_version": version,
        "text": text,
        "score": score,
    }
