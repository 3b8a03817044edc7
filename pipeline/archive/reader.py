"""Read access to an archive: its videos, segments, texts, failures and stored memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from malmm.pipeline.archive.location import is_local, resolve
from malmm.pipeline.archive.memories import MEMORY_COLUMNS, SlotReader
from malmm.pipeline.archive.partitions import refuse_partitioned
from malmm.pipeline.archive.predicates import equals, is_in
from malmm.pipeline.archive.recipes_table import in_force
from malmm.pipeline.archive.table_reader import TableReader
from malmm.pipeline.archive.tracks import TrackReader
from malmm.pipeline.schema.config import Recipe
from malmm.pipeline.schema.errors import ArchiveError, ConfigError
from malmm.pipeline.schema.records import PERMANENT_KINDS, Failure
from malmm.pipeline.schema.tables import ANNOTATIONS, ANSWERS_ONLY, VIDEOS

if TYPE_CHECKING:
    import lance
    import lancedb

__all__ = ["ArchiveReader"]


class ArchiveReader:
    """Reads an archive. Every call reads the latest committed version; no handle is kept.

    ``tables`` reads rows of any table, ``slots`` reads stored memory.
    """

    def __init__(self, uri: str, recipe: Recipe, root: str | None = None) -> None:
        self._uri = uri
        self._recipe = recipe
        self._root = root or uri
        self.tables = TableReader(uri)

    @classmethod
    def open(cls, uri: str, session: lance.Session | None = None) -> Self:
        """Open an existing archive. Raises ArchiveError if there is none or it cannot be reached.

        ``session`` is a cache that readers of several archives share.
        """
        place = resolve(uri)
        if is_local(place) and Path(place).is_file():
            raise ArchiveError(f"{uri} is a file, and an archive is a directory", uri=place)
        found = in_force(place)
        if found is None:
            refuse_partitioned(
                place, "name one of them, or all with `malmm run` and a job file with partitions"
            )
            raise ArchiveError(
                f"there is no archive at {uri}: make one with `malmm index VIDEOS --archive {uri}`", uri=place
            )
        opened = cls(found.address(place), found.recipe, place)
        if session is not None:
            opened.tables = TableReader(opened.uri, session=session)
        return opened

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._uri!r})"

    @property
    def slots(self) -> SlotReader:
        """The archive's stored memory."""
        return SlotReader(self.tables, self._recipe)

    @property
    def tracks(self) -> TrackReader:
        """The archive's transcripts."""
        return TrackReader(self.tables)

    @property
    def uri(self) -> str:
        """Address of the tables: an absolute path or an object store URI, for use in any process."""
        return self._uri

    @property
    def root(self) -> str:
        """Address of the archive, as users name it. The tables may lie below it."""
        return self._root

    @property
    def recipe(self) -> Recipe:
        """The recipe of every row in the archive."""
        return self._recipe

    @property
    def archives(self) -> list[ArchiveReader]:
        """The archives that this reads: itself."""
        return [self]

    def home_of(self, video_id: str) -> ArchiveReader:
        """The archive that a video belongs to: this one."""
        return self

    def names_of(self, video_ids: Iterable[str]) -> dict[str, str]:
        """The name of the archive that each video belongs to: its address."""
        return dict.fromkeys(video_ids, self._root)

    def table(self, name: str) -> lancedb.table.Table:
        """Open the LanceDB table at its latest version. A handle does not see later commits."""
        return self.tables.table(name)

    def schema(self, name: str) -> pa.Schema:
        """A table's Arrow schema, as in ``malmm.pipeline.schema.tables``."""
        return self.tables.dataset(name).schema

    def count(self, name: str, where: str | None = None) -> int:
        """The number of rows of a table, or of those that match a SQL condition."""
        return self.tables.dataset(name).count_rows(where)

    def memory_rows(self, segment_ids: Iterable[str], columns: Sequence[str] = MEMORY_COLUMNS) -> pa.Table:
        """``SlotReader.memory_rows``: memory slots of the given segments."""
        return self.slots.memory_rows(segment_ids, columns)

    def memory_tokens(self, segment_ids: Iterable[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """``SlotReader.memory_tokens``: stored tokens and sizes of the given segments, one at a time."""
        return self.slots.memory_tokens(segment_ids)

    def completed_among(self, segment_ids: Iterable[str]) -> set[str]:
        """Return which of the given segments are done."""
        return self.tables.completed_among(segment_ids)

    def completed_segments(self, video_id: str | None = None) -> set[str]:
        """Ids of completed segments, of one video or of all."""
        return self.tables.ids(
            "segments", "segment_id", None if video_id is None else [equals("video_id", video_id)]
        )

    def frame_counts(self, segment_ids: Iterable[str]) -> dict[str, int]:
        """Number of frames by segment id, for those of the given segments that are done, in the order given."""
        ids = list(dict.fromkeys(segment_ids))
        rows = self.tables.rows("segments", is_in("segment_id", ids), ["segment_id", "frame_count"])
        counts = dict(zip(rows["segment_id"].to_pylist(), rows["frame_count"].to_pylist(), strict=True))
        return {segment: counts[segment] for segment in ids if segment in counts}

    def completed_videos(self) -> dict[str, tuple[str, str]]:
        """The completed videos: video_id to (fingerprint, recipe_id)."""
        done: dict[str, tuple[str, str]] = {}
        columns = ["video_id", "fingerprint", "recipe_id"]
        for batch in self.tables.batches("videos", columns):
            videos, fingerprints, recipes = (batch[name].to_pylist() for name in columns)
            done.update(zip(videos, zip(fingerprints, recipes, strict=True), strict=True))
        return done

    def metadata(self) -> dict[str, str]:
        """Metadata of the completed videos, from manifests: video_id to a JSON object, or to an empty string."""
        rows = self.tables.rows("videos", columns=["video_id", "metadata"])
        return dict(zip(rows["video_id"].to_pylist(), rows["metadata"].to_pylist(), strict=True))

    def addresses(self) -> dict[str, str]:
        """URIs of the archive's videos, completed or failed: video_id to URI."""
        found: dict[str, str] = {}
        for name in ("failures", "videos"):
            rows = self.tables.rows(name, columns=["video_id", "uri"])
            found.update(zip(rows["video_id"].to_pylist(), rows["uri"].to_pylist(), strict=True))
        return found

    def failed_videos(self) -> set[str]:
        """Ids of videos with at least one failure. A segment stored with a truncated or damaged part does not count."""
        return self.tables.ids(
            "failures", "video_id", ["segment_id IS NULL OR kind NOT IN ('truncated', 'damaged')"]
        )

    def given_up(self) -> dict[str, tuple[str, Failure]]:
        """Files that failed for good (not a video, or not decodable): video_id to (fingerprint, failure).

        Another attempt would fail again, unless the file's fingerprint has changed.
        """
        rows = self.tables.rows("failures", ["segment_id IS NULL"])
        fields = [name for name in Failure.__dataclass_fields__ if name in rows.column_names]
        return {
            row["video_id"]: (row["fingerprint"], Failure(**row))
            for row in rows.select(fields).to_pylist()
            if row["fingerprint"] and row["kind"] in PERMANENT_KINDS
        }

    def videos(self) -> pa.Table:
        """The ``videos`` table without the columns of metadata, ordered by URI."""
        return self.tables.rows("videos", columns=list(VIDEOS.names)).sort_by("uri")

    def videos_where(self, condition: str) -> pa.Table:
        """Rows of ``videos`` that meet a SQL condition over its columns. Raises ConfigError if it does not parse."""
        dataset = self.tables.dataset("videos")
        try:
            return dataset.to_table(filter=condition).sort_by("uri")
        except (OSError, ValueError, RuntimeError) as error:
            columns = ", ".join(dataset.schema.names)
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"{condition!r} is not a condition over videos: {reason}; the columns are {columns}"
            ) from error

    def video_rows(self, video_ids: Iterable[str]) -> pa.Table:
        """Rows of ``videos`` with the given ids; videos that are not done have none."""
        return self.tables.rows("videos", is_in("video_id", video_ids), list(VIDEOS.names))

    def segment_rows(self, segment_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Rows of ``segments`` with the given ids, by id."""
        rows = self.tables.rows("segments", is_in("segment_id", segment_ids))
        return {row["segment_id"]: row for row in rows.to_pylist()}

    def addresses_of(self, video_ids: Iterable[str]) -> dict[str, str]:
        """URIs of those of the given videos that are done: video_id to URI."""
        rows = self.tables.rows("videos", is_in("video_id", video_ids), ["video_id", "uri"])
        return dict(zip(rows["video_id"].to_pylist(), rows["uri"].to_pylist(), strict=True))

    def segments(self, video_id: str | None = None) -> pa.Table:
        """The ``segments`` of one video or of all, each video's in time order."""
        filters = None if video_id is None else [equals("video_id", video_id)]
        return self.tables.rows("segments", filters).sort_by(
            [("video_id", "ascending"), ("start_s", "ascending")]
        )

    def annotations(self, video_id: str | None = None) -> pa.Table:
        """The ``annotations`` of one video or of all, each video's in time order."""
        filters = None if video_id is None else [equals("video_id", video_id)]
        return self.tables.rows("annotations", filters, list(ANNOTATIONS.names)).sort_by(
            [
                ("video_id", "ascending"),
                ("start_s", "ascending"),
                ("end_s", "ascending"),
                ("prompt_name", "ascending"),
            ]
        )

    def texts_of(self, segment_ids: Iterable[str], prompt_name: str) -> dict[str, str]:
        """The latest text of each given segment for a prompt: segment_id to text."""
        columns = ["segment_id", "prompt_name", "text", "created_at"]
        answers = [f"{part} AND {ANSWERS_ONLY}" for part in is_in("segment_id", segment_ids)]
        rows = self.tables.rows("annotations", answers, columns).sort_by("created_at")
        return {
            row["segment_id"]: row["text"] for row in rows.to_pylist() if row["prompt_name"] == prompt_name
        }

    def captions(self, prompt_name: str, *, limit: int) -> dict[str, str]:
        """Up to ``limit`` texts for a prompt, of as many different videos as possible: segment_id to text."""
        columns = ["video_id", "segment_id", "prompt_name", "text"]
        first: dict[str, str] = {}
        others: dict[str, str] = {}
        videos: set[str] = set()
        about_segments = [f"segment_id IS NOT NULL AND text != '' AND {ANSWERS_ONLY}"]
        for batch in self.tables.batches("annotations", columns, about_segments):
            for row in batch.to_pylist():
                if row["prompt_name"] != prompt_name:
                    continue
                kept = others if row["video_id"] in videos else first
                videos.add(row["video_id"])
                if len(kept) < limit:
                    kept[row["segment_id"]] = row["text"]
            if len(first) >= limit:
                break
        return dict([*first.items(), *others.items()][:limit])

    def prompt_versions(self) -> list[dict[str, str]]:
        """Versions of all prompts that have a text: prompt_name, prompt, task and prompt_version of each.

        Ordered by name, the latest version first.
        """
        columns = ["prompt_name", "prompt", "task", "prompt_version", "created_at"]
        rows = self.tables.rows("annotations", [ANSWERS_ONLY], columns)
        latest = rows.group_by(columns[:4]).aggregate([("created_at", "max")])
        order = [("prompt_name", "ascending"), ("created_at_max", "descending")]
        return latest.sort_by(order).select(columns[:4]).to_pylist()

    def prompts(self) -> list[dict[str, str]]:
        """Prompts that segments have texts for, without classifications: prompt_name, prompt and task of each.

        Only the latest version of each name.
        """
        columns = ["prompt_name", "prompt", "task", "created_at"]
        rows = self.tables.rows("annotations", [f"segment_id IS NOT NULL AND {ANSWERS_ONLY}"], columns)
        latest = rows.group_by(columns[:3]).aggregate([("created_at", "max")]).sort_by("created_at_max")
        by_name = {row["prompt_name"]: row for row in latest.select(columns[:3]).to_pylist()}
        return [row for row in by_name.values() if row["task"] != "classification"]

    def annotation_ids(self, *, video_id: str | None = None, prompt_version: str | None = None) -> set[str]:
        """Ids of annotations, if given only of one video or of one version of a prompt."""
        parts = [("video_id", video_id), ("prompt_version", prompt_version)]
        chosen = [equals(column, value) for column, value in parts if value is not None]
        return self.tables.ids("annotations", "annotation_id", [" AND ".join(chosen)] if chosen else None)

    def failures(self) -> pa.Table:
        """The ``failures`` table, latest first."""
        return self.tables.rows("failures").sort_by(
            [("last_seen", "descending"), ("failure_id", "ascending")]
        )
