"""The slots of archives, each with one vector by which copies are found.

A slot's vectors are averaged. From the averages the archive's own mean is subtracted, which is most of what vectors of
unlike pictures have in common; vectors longer than 256 numbers are turned onto the 256 directions in which they differ
most (principal components of a sample). Vectors are read in batches and kept in a temporary file, so that memory does
not grow with their number.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from malmm.pipeline.archive.location import lance_errors
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.duplicates.runs import Slots
from malmm.pipeline.schema.errors import ArchiveError

__all__ = ["VideoRow", "averaged", "read_slots"]

_ROWS_A_BATCH = 2048
_MOST_NUMBERS = 256
_SAMPLE = 20_000


@dataclass(frozen=True)
class VideoRow:
    """A video of an archive. ``indexed`` orders videos by the time at which they were indexed."""

    video_id: str
    uri: str
    archive: str
    start_s: float
    duration_s: float
    indexed: float


def read_slots(archives: Sequence[ArchiveReader]) -> tuple[Slots, list[VideoRow]]:
    """The slots of all finished videos, and the videos by their number in ``Slots.video``, in the order of their URIs.

    A slot of several spans counts once for each. A video that is in several archives is read from the first of them.
    Raises ArchiveError for archives without retrieval vectors, of different retrieval models, or without videos.
    """
    _check_towers(archives)
    videos = _videos(archives)
    number_of = {video.video_id: number for number, video in enumerate(videos)}
    total = sum(archive.count("memories") for archive in archives)
    size = archives[0].schema("memories").field("vectors").type.value_type.list_size
    read = _scratch(total, size)
    parts: list[pa.Table] = []
    count = 0
    for archive in archives:
        mine = pa.array([video.video_id for video in videos if video.archive == archive.root], pa.string())
        for rows in _batches(archive, mine):
            vectors = averaged(rows["vectors"].combine_chunks())
            read[count : count + len(vectors)] = vectors
            parts.append(_spans(rows, count, number_of))
            count += len(vectors)
    if not count:
        raise ArchiveError(
            f"{_named(archives)} has no finished video with retrieval vectors, so no copies can be found: index "
            "videos into it first",
            uri=archives[0].root,
        )
    spans = pa.concat_tables(parts).sort_by([(name, "ascending") for name in ("video", "start_s", "end_s")])
    row = spans["row"].to_numpy()
    vectors = _centred(read[:count], row)
    return Slots(vectors, *(spans[name].to_numpy() for name in ("video", "start_s", "end_s"))), videos


def averaged(lists: pa.ListArray) -> np.ndarray:
    """Unit vectors float32 [N, V]: the average of each slot's vectors. ``lists`` has neither nulls nor empty lists."""
    counts = lists.value_lengths().to_numpy()
    flat = lists.flatten()
    vectors = flat.flatten().to_numpy().astype(np.float32).reshape(len(flat), -1)
    return unit(np.add.reduceat(vectors, np.cumsum(counts) - counts, axis=0))


def unit(vectors_NV: np.ndarray) -> np.ndarray:
    """The vectors with length 1; zeros stay zeros."""
    return vectors_NV / np.maximum(np.linalg.norm(vectors_NV, axis=1, keepdims=True), 1e-12)


def _check_towers(archives: Sequence[ArchiveReader]) -> None:
    for archive in archives:
        if not archive.slots.has_vectors:
            raise ArchiveError(
                f"{archive.root} has no retrieval vectors (it was indexed with --retrieval-model none), so copies "
                "cannot be found in it: give it some with `malmm reembed`",
                uri=archive.root,
            )
        if archive.recipe.tower_id != archives[0].recipe.tower_id:
            raise ArchiveError(
                f"{archive.root} has vectors of {archive.recipe.retrieval_model} and {archives[0].root} those of "
                f"{archives[0].recipe.retrieval_model}, which cannot be compared: give one of them the other's "
                "with `malmm reembed`",
                uri=archive.root,
            )


def _videos(archives: Sequence[ArchiveReader]) -> list[VideoRow]:
    found: dict[str, VideoRow] = {}
    columns = ["video_id", "uri", "start_s", "duration_s", "indexed_at"]
    for archive in archives:
        for row in archive.videos().select(columns).to_pylist():
            indexed = row.pop("indexed_at").timestamp()
            found.setdefault(row["video_id"], VideoRow(**row, archive=archive.root, indexed=indexed))
    return sorted(found.values(), key=lambda video: (video.uri, video.video_id))


def _batches(archive: ArchiveReader, video_ids: pa.Array) -> Iterator[pa.Table]:
    """Slots with vectors, of finished segments of these videos."""
    dataset = archive.tables.dataset("memories")
    done = pa.array(sorted(archive.completed_segments()), pa.string())
    columns = ["video_id", "segment_id", "start_s", "end_s", "vectors"]
    columns += [name for name in ("spans",) if name in dataset.schema.names]
    with lance_errors(archive.uri, "read table 'memories' of"):
        for batch in dataset.scanner(columns=columns, batch_size=_ROWS_A_BATCH).to_batches():
            rows = pa.Table.from_batches([batch])
            kept = pc.and_(
                pc.and_(
                    pc.is_in(rows["video_id"], value_set=video_ids),
                    pc.is_in(rows["segment_id"], value_set=done),
                ),
                pc.fill_null(pc.greater(pc.list_value_length(rows["vectors"]), 0), False),
            )
            rows = rows.filter(kept)
            if rows.num_rows:
                yield rows


def _spans(rows: pa.Table, first: int, number_of: dict[str, int]) -> pa.Table:
    """A row for each span of the slots: number of the video, times, and the slot's row, counted from ``first``."""
    numbers = [number_of[video] for video in rows["video_id"].to_pylist()]
    starts, ends = rows["start_s"].to_numpy(), rows["end_s"].to_numpy()
    at = np.arange(rows.num_rows)
    if "spans" in rows.column_names and rows["spans"].null_count < rows.num_rows:
        hulls = zip(starts.tolist(), ends.tolist(), strict=True)
        spans = [
            (place, own["start_s"], own["end_s"])
            for place, (several, (start_s, end_s)) in enumerate(
                zip(rows["spans"].to_pylist(), hulls, strict=True)
            )
            for own in several or [{"start_s": start_s, "end_s": end_s}]
        ]
        at, starts, ends = (np.array(column) for column in zip(*spans, strict=True))
    return pa.table(
        {
            "video": np.asarray(numbers, np.int32)[at],
            "start_s": starts,
            "end_s": ends,
            "row": (at + first).astype(np.int64),
        }
    )


def _centred(read_RV: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Unit vectors float16 [N, V] of the slots ``row`` [N], without what all have in common."""
    count = len(read_RV)
    sample = np.sort(np.random.default_rng(0).permutation(count)[:_SAMPLE])
    sample_SV = np.asarray(read_RV[sample], np.float32)
    mean = sample_SV.mean(0)
    turn = None
    if sample_SV.shape[1] > _MOST_NUMBERS:
        apart = sample_SV - mean
        turn = np.linalg.eigh(apart.T @ apart)[1][:, -_MOST_NUMBERS:]
    made = _scratch(len(row), min(sample_SV.shape[1], _MOST_NUMBERS))
    for begin in range(0, len(row), _ROWS_A_BATCH):
        part = np.asarray(read_RV[row[begin : begin + _ROWS_A_BATCH]], np.float32) - mean
        made[begin : begin + _ROWS_A_BATCH] = unit(part if turn is None else part @ turn)
    return made


def _scratch(rows: int, size: int) -> np.ndarray:
    """An array float16 [rows, size] in a temporary file that is deleted with it."""
    with tempfile.TemporaryFile(prefix="malmm-duplicates-") as file:
        return np.memmap(file, np.float16, "w+", shape=(max(1, rows), size))


def _named(archives: Sequence[ArchiveReader]) -> str:
    return " and ".join(archive.root for archive in archives)
