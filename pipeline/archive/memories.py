"""Read stored memory: slots with their vectors, tokens and thumbnails, as rows and arrays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from malmm.pipeline.archive.location import lance_errors
from malmm.pipeline.archive.predicates import equals, is_in
from malmm.pipeline.archive.table_reader import TableReader, read_columns
from malmm.pipeline.schema.config import Recipe
from malmm.pipeline.schema.errors import ArchiveError, ConfigError
from malmm.pipeline.schema.ids import memory_id
from malmm.pipeline.schema.stored_tokens import dequantized

__all__ = ["MEMORY_COLUMNS", "SlotReader"]

#: Default columns of ``memory_rows``: all but the vectors, the tokens and the thumbnail.
MEMORY_COLUMNS = (
    "memory_id",
    "segment_id",
    "video_id",
    "slot",
    "start_s",
    "end_s",
    "timestamp_s",
    "frame_count",
    "spans",
    "token_shape",
    "sizes",
)


_OF_TOKENS = ("token_shape", "token_scales", "sizes")


class SlotReader:
    """Reads the table ``memories``."""

    def __init__(self, tables: TableReader, recipe: Recipe) -> None:
        self._tables = tables
        self._recipe = recipe

    @property
    def has_vectors(self) -> bool:
        """Whether slots of this archive have retrieval vectors, by its recipe."""
        return self._recipe.retrieval_model != "none"

    def slot_count(self, video_ids: Iterable[str] | None = None) -> int:
        """Number of slots, of the given videos or in all."""
        if video_ids is None:
            return self._tables.dataset("memories").count_rows()
        dataset = self._tables.dataset("memories")
        with lance_errors(self._tables.uri, "read table 'memories' of"):
            return sum(dataset.count_rows(filter=part) for part in is_in("video_id", video_ids))

    def memory_rows(self, segment_ids: Iterable[str], columns: Sequence[str] = MEMORY_COLUMNS) -> pa.Table:
        """Rows of the given segments' slots, ordered by segment as given, then by slot.

        Raises ValueError for the column ``tokens``: read it with ``memory_tokens``.
        """
        if "tokens" in columns:
            raise ValueError("memory_rows does not read tokens: use memory_tokens")
        ids = list(dict.fromkeys(segment_ids))
        needed = list(dict.fromkeys([*columns, "segment_id", "slot"]))
        rows = _by_segment(self._tables.rows("memories", is_in("segment_id", ids), needed), ids)
        return rows.select(list(columns))

    def memory_tokens(self, segment_ids: Iterable[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Stored memory, one segment at a time and in the order given: (segment_id, tokens, sizes).

        ``tokens`` is float16 [S, N, C] or [S, N, L, C] and ``sizes`` int32 [S, N], in slot order; segments without
        slots are left out. One segment is in memory at a time. Raises ArchiveError for rows that contradict
        their shape.
        """
        ids = list(dict.fromkeys(segment_ids))
        dataset = self._tables.dataset("memories")
        columns = ["segment_id", "slot", *_OF_TOKENS]
        with lance_errors(self._tables.uri, "read table 'memories' of"):
            found = [
                read_columns(dataset, columns, filter=part, with_row_address=True)
                for part in is_in("segment_id", ids)
            ]
        if not found:
            return
        rows = _by_segment(pa.concat_tables(found), ids)
        for segment, first, count in _runs(rows["segment_id"]):
            part = rows.slice(first, count)
            with lance_errors(self._tables.uri, "read stored tokens of"):
                blobs = dataset.read_blobs(
                    "tokens", addresses=part["_rowaddr"].to_pylist(), preserve_order=True
                )
            yield segment, *self._stack(segment, part, [data for _, data in blobs])

    def segment_vectors(self, segment_id: str) -> np.ndarray | None:
        """Retrieval vectors float32 [S, Q, V] of a segment's slots; None if it has none."""
        rows = self._tables.rows("memories", [equals("segment_id", segment_id)], ["slot", "vectors"]).sort_by(
            "slot"
        )
        vectors = rows["vectors"].to_pylist()
        return None if not vectors or None in vectors else np.asarray(vectors, np.float32)

    def sampled_vectors(self, count: int) -> np.ndarray:
        """Retrieval vectors float32 [B, Q, V] of ``count`` slots at most, spread by chance; the same ones each time.

        Empty where slots have none.
        """
        dataset = self._tables.dataset("memories")
        with lance_errors(self._tables.uri, "read table 'memories' of"):
            rows = dataset.count_rows()
            places = np.random.default_rng(rows).permutation(rows)[:count]
            found = dataset.take(sorted(places.tolist()), columns=["vectors"])["vectors"].drop_null()
        vectors = found.to_pylist()
        return np.asarray(vectors, np.float32) if vectors else np.empty((0, 1, self._vector_size(dataset)))

    def similarities(
        self, segment_ids: Iterable[str], query: np.ndarray, columns: Sequence[str], *, limit: int
    ) -> list[tuple[dict[str, Any], float]]:
        """The slots of the given segments that are nearest to a query, nearest first: (columns, cosine) of each.

        A query vector [V] is compared with the nearest of a slot's vectors; for several [Q, V], the mean counts. Skips
        slots without vectors.
        """
        filters = [f"vectors IS NOT NULL AND {part}" for part in is_in("segment_id", segment_ids)]
        rows = self._tables.rows("memories", filters, [*columns, "vectors"]).combine_chunks()
        if not rows.num_rows:
            return []
        lists = rows["vectors"].chunk(0)
        sizes = lists.value_lengths().to_numpy()
        vectors = lists.flatten().flatten().to_numpy().astype(np.float32).reshape(sizes.sum(), -1)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        asked = np.atleast_2d(query).astype(np.float32)
        asked /= np.maximum(np.linalg.norm(asked, axis=1, keepdims=True), 1e-12)
        nearest = np.maximum.reduceat(vectors @ asked.T, np.cumsum(sizes) - sizes, axis=0).mean(axis=1)
        order = np.argsort(-nearest, kind="stable")[:limit]
        found = rows.select(list(columns)).take(order).to_pylist()
        return list(zip(found, nearest[order].tolist(), strict=True))

    def slot_tokens(self, slots: Sequence[tuple[str, int]]) -> list[np.ndarray]:
        """Tokens float16 [N, C] or [N, L, C] of slots (segment_id, slot), in the order given. Raises ArchiveError."""
        rows, dataset = self._slots(slots, ["segment_id", "slot", *_OF_TOKENS])
        with lance_errors(self._tables.uri, "read stored tokens of"):
            blobs = dataset.read_blobs("tokens", addresses=rows["_rowaddr"].to_pylist(), preserve_order=True)
        return [
            self._stack(slots[place][0], rows.slice(place, 1), [data])[0][0]
            for place, (_, data) in enumerate(blobs)
        ]

    def thumbnails(self, slots: Sequence[tuple[str, int]]) -> dict[tuple[str, int], bytes]:
        """JPEGs of those of the slots (segment_id, slot) that have one."""
        if not slots:
            return {}
        rows, _ = self._slots(slots, ["segment_id", "slot", "thumbnail"])
        return {
            (row["segment_id"], row["slot"]): row["thumbnail"] for row in rows.to_pylist() if row["thumbnail"]
        }

    def vectors_at(self, video_id: str, at_s: float) -> np.ndarray | None:
        """Retrieval vectors float32 [Q, V] of the slot that covers a time of a video; None if it has none.

        Raises ConfigError if no slot of the video covers that time.
        """
        dataset = self._tables.dataset("memories")
        condition = (
            f"{equals('video_id', video_id)} AND start_s <= {float(at_s)!r} AND end_s >= {float(at_s)!r}"
        )
        with lance_errors(self._tables.uri, "read table 'memories' of"):
            rows = read_columns(dataset, ["segment_id", "start_s", "vectors", "spans"], filter=condition)
        done = self._tables.completed_among(rows["segment_id"].to_pylist())
        found = sorted(
            (row for row in rows.to_pylist() if row["segment_id"] in done and _covers(row["spans"], at_s)),
            key=lambda row: row["start_s"],
        )
        if not found:
            raise ConfigError(f"the video has no memory at {at_s:g} s: `malmm show` says what it spans")
        vectors = found[-1]["vectors"]
        return None if vectors is None else np.asarray(vectors, np.float32)

    @staticmethod
    def _vector_size(dataset: lance.LanceDataset) -> int:
        return int(dataset.schema.field("vectors").type.value_type.list_size)

    def _slots(
        self, slots: Sequence[tuple[str, int]], columns: list[str]
    ) -> tuple[pa.Table, lance.LanceDataset]:
        """Rows of the slots in the order given, with their row addresses. Raises ArchiveError if one is gone."""
        dataset = self._tables.dataset("memories")
        ids = [memory_id(segment, slot) for segment, slot in slots]
        with lance_errors(self._tables.uri, "read table 'memories' of"):
            parts = [
                read_columns(dataset, ["memory_id", *columns], filter=part, with_row_address=True)
                for part in is_in("memory_id", ids)
            ]
        rows = pa.concat_tables(parts)
        places = pc.index_in(pa.array(ids), value_set=rows["memory_id"].combine_chunks())
        if places.null_count:
            raise ArchiveError(
                f"{self._tables.uri} has changed meanwhile: search again", uri=self._tables.uri
            )
        return rows.take(places), dataset

    def _stack(
        self, segment: str, rows: pa.Table, blobs: list[bytes | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        shapes = rows["token_shape"].to_pylist()
        sizes = rows["sizes"].to_pylist()
        scales = _scales(rows)
        shape, number = shapes[0], np.dtype(np.float16 if scales is None else np.int8)
        whole = all(
            data is not None
            and len(data) == number.itemsize * math.prod(shape)
            and own == shape
            and len(size) == shape[0]
            for data, own, size in zip(blobs, shapes, sizes, strict=True)
        ) and (scales is None or scales.shape == (len(blobs), math.prod(shape[:-1])))
        if not whole:
            raise ArchiveError(
                f"{self._tables.uri} is damaged: the tokens of segment {segment} do not have the shape that it says",
                uri=self._tables.uri,
            )
        tokens = np.empty((len(blobs), *shape), np.float16)
        for slot, data in enumerate(blobs):
            held = np.frombuffer(data or b"", number).reshape(shape)
            tokens[slot] = held if scales is None else dequantized(held, scales[slot].reshape(shape[:-1]))
        return tokens, np.asarray(sizes, np.int32)


def _scales(rows: pa.Table) -> np.ndarray | None:
    """Scales float16 [S, N * L] of tokens in 8 bits; None for tokens in float16. Empty where slots contradict."""
    column = rows["token_scales"].to_pylist()
    if all(scales is None for scales in column):
        return None
    if len({None if scales is None else len(scales) for scales in column}) > 1:
        return np.empty(0, np.float16)
    return np.asarray(column, np.float16)


def _covers(spans: list[dict[str, Any]] | None, at_s: float) -> bool:
    return spans is None or any(span["start_s"] <= at_s <= span["end_s"] for span in spans)


def _by_segment(rows: pa.Table, ids: list[str]) -> pa.Table:
    position = pc.index_in(rows["segment_id"], value_set=pa.array(ids, pa.string()))
    order = pc.sort_indices(
        pa.table({"position": position, "slot": rows["slot"]}),
        sort_keys=[("position", "ascending"), ("slot", "ascending")],
    )
    return rows.take(order)


def _runs(column: pa.ChunkedArray) -> Iterator[tuple[str, int, int]]:
    """Runs of equal values: (value, first position, length)."""
    encoded = pc.run_end_encode(column.combine_chunks())
    first = 0
    for value, end in zip(encoded.values.to_pylist(), encoded.run_ends.to_pylist(), strict=True):
        yield value, first, end - first
        first = end
