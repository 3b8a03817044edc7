"""Export as WebDataset: tar files of samples, each a text with the pictures of its memory and what is known of it.

A sample's files begin with its id: ``ID.txt`` is the text, ``ID.json`` the rest, and ``ID.0000.jpg`` and on the
pictures of the memory slots in its span, which are small. Equal texts make equal files.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.reviews import Key, Review, key_of

__all__ = ["SAMPLES_A_SHARD", "export_shards"]

SAMPLES_A_SHARD = 1000
_MOST_PICTURES = 64
_SHARD = re.compile(r"texts-\d{6,}\.tar")
_KEPT = (
    "uri",
    "video_id",
    "segment_id",
    "start_s",
    "end_s",
    "task",
    "prompt_name",
    "prompt",
    "score",
    "model",
)


def export_shards(
    archive: ArchiveReader,
    texts: Sequence[Mapping[str, Any]],
    reviews: Mapping[Key, Review],
    folder: Path,
) -> list[Path]:
    """Write ``texts-000000.tar`` and on into a folder; their paths. Raises OSError.

    A shard appears when it is whole. Shards that an earlier, longer export left behind the last one are deleted: a
    reader of the folder would take their texts for current ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for begin in range(0, len(texts), SAMPLES_A_SHARD):
        path = folder / f"texts-{begin // SAMPLES_A_SHARD:06d}.tar"
        part = path.with_suffix(".part")
        with tarfile.open(part, "w") as shard:
            for row in texts[begin : begin + SAMPLES_A_SHARD]:
                for name, content in _sample(archive, row, reviews.get(key_of(row))):
                    member = tarfile.TarInfo(f"{row['annotation_id']}.{name}")
                    member.size = len(content)
                    shard.addfile(member, io.BytesIO(content))
        part.replace(path)
        written.append(path)
    for path in set(folder.glob("texts-*.tar")) - set(written):
        if _SHARD.fullmatch(path.name):
            path.unlink()
    return written


def _sample(
    archive: ArchiveReader, row: Mapping[str, Any], review: Review | None
) -> Iterator[tuple[str, bytes]]:
    answer = row["text"] if review is None or review.answer is None else review.answer
    yield "txt", answer.encode()
    about = {name: row[name] for name in _KEPT} | {"text": row["text"]}
    if review is not None:
        about["review"] = {
            "verdict": review.verdict,
            "correction": review.correction,
            "reviewer": review.reviewer,
        }
    yield "json", json.dumps(about, ensure_ascii=False, sort_keys=True).encode()
    for number, picture in enumerate(_pictures(archive, row)):
        yield f"{number:04d}.jpg", picture


def _pictures(archive: ArchiveReader, row: Mapping[str, Any]) -> list[bytes]:
    """Pictures of the memory slots in a text's span, in time order; evenly spread ones of very many."""
    segments = (
        [row["segment_id"]]
        if row["segment_id"] is not None
        else archive.segments(row["video_id"])["segment_id"].to_pylist()
    )
    slots = archive.memory_rows(segments, ("start_s", "end_s", "thumbnail")).to_pylist()
    inside = [
        slot["thumbnail"]
        for slot in sorted(slots, key=lambda slot: slot["start_s"])
        if slot["thumbnail"] and slot["start_s"] <= row["end_s"] and slot["end_s"] >= row["start_s"]
    ]
    step = max(1, -(-len(inside) // _MOST_PICTURES))
    return inside[::step]
