"""Reading an archive: tables at their latest version, ids in bulk, and stored memory as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from malmm.pipeline.config import Recipe
from malmm.pipeline.errors import ArchiveError
from malmm.pipeline.generations import in_force
from malmm.pipeline.location import is_local, lance_errors, open_dataset, resolve
from malmm.pipeline.predicates import equals, is_in
from malmm.pipeline.records import PERMANENT_KINDS, Failure

__all__ = ["MEMORY_COLUMNS", "ArchiveReader"]

#: What ``memory_rows`` gives unless told: all but the vectors, the tokens and the thumbnail.
MEMORY_COLUMNS = (
    "memory_id",
    "segment_id",
    "video_id",
    "slot",
    "start_s",
    "end_s",
    "timestamp_s",
    "frame_count",
    "token_shape",
    "sizes",
)


class ArchiveReader:
    """An archive as its readers see it. Every call reads the latest committed version; no handle is kept."""

    def __init__(self, uri: str, recipe: Recipe, root: str | None = None) -> None:
        self._uri = uri
        self._recipe = recipe
        self._root = root or uri

    @classmethod
    def open(cls, uri: str) -> Self:
        """Open an existing archive. Raises ArchiveError when there is none or it cannot be reached."""
        place = resolve(uri)
        if is_local(place) and Path(place).is_file():
            raise ArchiveError(f"{uri} is a file, and an archive is a directory", uri=place)
        found = in_force(place)
        if found is None:
            raise ArchiveError(
                f"there is no archive at {uri}: make one with `malmm index VIDEOS --archive {uri}`", uri=place
            )
        return cls(found.address(place), found.recipe, place)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._uri!r})"

    @property
    def uri(self) -> str:
        """Where the tables lie, an absolute path or object store URI, good in every process."""
        return self._uri

    @property
    def root(self) -> str:
        """The archive's own address, by which people know it; the tables may lie below it."""
        return self._root

    @property
    def recipe(self) -> Recipe:
        """The recipe of every row in the archive."""
        return self._recipe

    def table(self, name: str) -> lancedb.table.Table:
        """The LanceDB table, opened anew: an older handle would not see later commits."""
        with lance_errors(self._uri, f"open table {name!r} of"):
            return lancedb.connect(self._uri).open_table(name)

    def schema(self, name: str) -> pa.Schema:
        """A table's Arrow schema, as in ``records``."""
        return self._dataset(name).schema

    def count(self, name: str) -> int:
        """The number of rows of a table."""
        return self._dataset(name).count_rows()

    def completed_segments(self, video_id: str | None = None) -> set[str]:
        """The ids of the segments that are done, of one video or of all."""
        return self._ids(
            "segments", "segment_id", None if video_id is None else [equals("video_id", video_id)]
        )

    def completed_among(self, segment_ids: Iterable[str]) -> set[str]:
        """Those of the given segments that are done."""
        return self._ids("segments", "segment_id", is_in("segment_id", segment_ids))

    def frame_counts(self, segment_ids: Iterable[str]) -> dict[str, int]:
        """How many frames each of the given segments has, in the order given; only of those that are done."""
        ids = list(dict.fromkeys(segment_ids))
        rows = self._rows("segments", is_in("segment_id", ids), ["segment_id", "frame_count"])
        counts = dict(zip(rows["segment_id"].to_pylist(), rows["frame_count"].to_pylist(), strict=True))
        return {segment: counts[segment] for segment in ids if segment in counts}

    def completed_videos(self) -> dict[str, tuple[str, str]]:
        """The videos that are done: video_id to (fingerprint, recipe_id)."""
        done: dict[str, tuple[str, str]] = {}
        columns = ["video_id", "fingerprint", "recipe_id"]
        for batch in self._dataset("videos").scanner(columns=columns).to_batches():
            videos, fingerprints, recipes = (batch[name].to_pylist() for name in columns)
            done.update(zip(videos, zip(fingerprints, recipes, strict=True), strict=True))
        return done

    def metadata(self) -> dict[str, str]:
        """What manifests say of the videos that are done: video_id to a JSON object, or to nothing."""
        rows = self._rows("videos", columns=["video_id", "metadata"])
        return dict(zip(rows["video_id"].to_pylist(), rows["metadata"].to_pylist(), strict=True))

    def addresses(self) -> dict[str, str]:
        """Where the archive's videos lie, also those that are begun or failed: video_id to URI."""
        found: dict[str, str] = {}
        for name in ("failures", "videos"):
            rows = self._rows(name, columns=["video_id", "uri"])
            found.update(zip(rows["video_id"].to_pylist(), rows["uri"].to_pylist(), strict=True))
        return found

    def failed_videos(self) -> set[str]:
        """The ids of all videos of which anything could not be stored: a segment that was cut short is."""
        return self._ids(
            "failures", "video_id", ["segment_id IS NULL OR kind NOT IN ('truncated', 'damaged')"]
        )

    def given_up(self) -> dict[str, tuple[str, Failure]]:
        """Files that hold no video, or none that can be decoded: video_id to fingerprint and failure.

        Trying one again would only repeat it, unless its fingerprint is another.
        """
        rows = self._rows("failures", ["segment_id IS NULL"])
        fields = list(Failure.__dataclass_fields__)
        return {
            row["video_id"]: (row["fingerprint"], Failure(**row))
            for row in rows.select(fields).to_pylist()
            if row["fingerprint"] and row["kind"] in PERMANENT_KINDS
        }

    def videos(self) -> pa.Table:
        """The ``videos`` table, by URI."""
        return self._rows("videos").sort_by("uri")

    def segments(self, video_id: str | None = None) -> pa.Table:
        """The ``segments`` of one video or of all, each video's in time order."""
        filters = None if video_id is None else [equals("video_id", video_id)]
        return self._rows("segments", filters).sort_by([("video_id", "ascending"), ("start_s", "ascending")])

    def annotations(self, video_id: str | None = None) -> pa.Table:
        """The ``annotations`` of one video or of all, each video's in time order."""
        filters = None if video_id is None else [equals("video_id", video_id)]
        return self._rows("annotations", filters).sort_by(
            [
                ("video_id", "ascending"),
                ("start_s", "ascending"),
                ("end_s", "ascending"),
                ("prompt_name", "ascending"),
            ]
        )

    def prompts(self) -> list[dict[str, str]]:
        """The prompts that segments have texts for: prompt_name, prompt and task of each, classifications left out.

        Of two of one name, the later.
        """
        columns = ["prompt_name", "prompt", "task", "created_at"]
        rows = self._rows("annotations", ["segment_id IS NOT NULL"], columns)
        latest = rows.group_by(columns[:3]).aggregate([("created_at", "max")]).sort_by("created_at_max")
        by_name = {row["prompt_name"]: row for row in latest.select(columns[:3]).to_pylist()}
        return [row for row in by_name.values() if row["task"] != "classification"]

    def annotation_ids(self, *, video_id: str | None = None, prompt_version: str | None = None) -> set[str]:
        """The ids of the texts there are, of one video and of one version of a prompt where given."""
        parts = [("video_id", video_id), ("prompt_version", prompt_version)]
        chosen = [equals(column, value) for column, value in parts if value is not None]
        return self._ids("annotations", "annotation_id", [" AND ".join(chosen)] if chosen else None)

    def failures(self) -> pa.Table:
        """The ``failures`` table, the latest first."""
        return self._rows("failures").sort_by([("last_seen", "descending"), ("failure_id", "ascending")])

    def memory_rows(self, segment_ids: Iterable[str], columns: Sequence[str] = MEMORY_COLUMNS) -> pa.Table:
        """Memory slots of the given segments, by segment in the order given and by slot.

        ``tokens`` are read with ``memory_tokens``: asking for that column here is a ValueError.
        """
        if "tokens" in columns:
            raise ValueError("memory_rows does not read tokens: use memory_tokens")
        ids = list(dict.fromkeys(segment_ids))
        needed = list(dict.fromkeys([*columns, "segment_id", "slot"]))
        rows = _by_segment(self._rows("memories", is_in("segment_id", ids), needed), ids)
        return rows.select(list(columns))

    def memory_tokens(self, segment_ids: Iterable[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Stored memory, one segment at a time and in the order given: (segment_id, tokens, sizes).

        ``tokens`` is float16 [S, N, C] and ``sizes`` int32 [S, N], in slot order; segments without slots
        are left out. One segment is in memory at a time. Raises ArchiveError for rows that contradict
        their shape.
        """
        ids = list(dict.fromkeys(segment_ids))
        dataset = self._dataset("memories")
        columns = ["segment_id", "slot", "token_shape", "sizes"]
        with lance_errors(self._uri, "read table 'memories' of"):
            found = [
                dataset.to_table(columns=columns, filter=part, with_row_address=True)
                for part in is_in("segment_id", ids)
            ]
        if not found:
            return
        rows = _by_segment(pa.concat_tables(found), ids)
        for segment, first, count in _runs(rows["segment_id"]):
            part = rows.slice(first, count)
            with lance_errors(self._uri, "read stored tokens of"):
                blobs = dataset.read_blobs(
                    "tokens", addresses=part["_rowaddr"].to_pylist(), preserve_order=True
                )
            yield segment, *self._stack(segment, part, [data for _, data in blobs])

    def _stack(
        self, segment: str, rows: pa.Table, blobs: list[bytes | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        shapes = rows["token_shape"].to_pylist()
        sizes = rows["sizes"].to_pylist()
        positions, channels = shapes[0]
        whole = all(
            data is not None
            and len(data) == 2 * positions * channels
            and shape == shapes[0]
            and len(size) == positions
            for data, shape, size in zip(blobs, shapes, sizes, strict=True)
        )
        if not whole:
            raise ArchiveError(
                f"{self._uri} is damaged: the tokens of segment {segment} do not have the shape that it says",
                uri=self._uri,
            )
        tokens = np.empty((len(blobs), positions, channels), np.float16)
        for slot, data in enumerate(blobs):
            tokens[slot] = np.frombuffer(data or b"", np.float16).reshape(positions, channels)
        return tokens, np.asarray(sizes, np.int32)

    def _dataset(self, name: str) -> lance.LanceDataset:
        dataset = open_dataset(self._uri, name)
        if dataset is None:
            raise ArchiveError(f"{self._uri} has no table {name!r}", uri=self._uri)
        return dataset

    def _rows(
        self, name: str, filters: Iterable[str] | None = None, columns: list[str] | None = None
    ) -> pa.Table:
        dataset = self._dataset(name)
        with lance_errors(self._uri, f"read table {name!r} of"):
            if filters is None:
                return dataset.to_table(columns=columns)
            parts = [dataset.to_table(columns=columns, filter=part) for part in filters]
            return pa.concat_tables(parts) if parts else dataset.to_table(columns=columns, limit=0)

    def _ids(self, name: str, column: str, filters: Iterable[str] | None = None) -> set[str]:
        dataset = self._dataset(name)
        ids: set[str] = set()
        with lance_errors(self._uri, f"read table {name!r} of"):
            for part in [None] if filters is None else filters:
                for batch in dataset.scanner(columns=[column], filter=part).to_batches():
                    ids.update(batch[column].unique().to_pylist())
        ids.discard(None)  # a whole video's annotation has no segment_id
        return ids


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
