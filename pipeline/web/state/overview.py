"""Overview of the archive: size, growth, jobs and failures."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from malmm.model.checkpoints.resolve import notice_of
from malmm.pipeline.archive.joined import members_of
from malmm.pipeline.archive.location import is_local
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.run_history import RunRecord, read_runs
from malmm.pipeline.web.api.response_models import ArchiveRow, Failed, Growth, JobRun, LeftOut, Overview
from malmm.pipeline.web.display_names import name_of
from malmm.pipeline.web.media_roots import MediaRoots
from malmm.pipeline.web.state.live import LiveArchive
from malmm.pipeline.web.state.videos import VideoList

__all__ = ["Storage", "failed_rows", "growth", "left_out_of", "overview"]

_RUNS, _FAILURES, _STEPS = 50, 100, 60
_SECOND_US = 1_000_000
_COUNTED_EVERY_S = 60.0


def overview(
    live: LiveArchive, videos: VideoList, storage: Storage, media_roots: Mapping[str, MediaRoots]
) -> Overview:
    """The overview, as committed now. Raises ArchiveError."""
    reader = live.reader
    columns = videos.columns().rows
    indexed = columns["indexed_at"].to_numpy()
    durations = columns["duration_s"].to_numpy()
    failures = reader.failures()
    return Overview(
        archive=reader.root,
        archives=_archives(reader, media_roots),
        left_out=left_out_of(reader),
        model=reader.recipe.model,
        notice=notice_of(reader.recipe.model),
        videos=len(durations),
        hours=float(durations.sum()) / 3600,
        segments=reader.count("segments"),
        memories=reader.count("memories"),
        annotations=reader.count("annotations"),
        failures=failures.num_rows,
        stored_bytes=storage.size_bytes(),
        growth=growth(indexed, durations),
        runs=[
            JobRun(
                run_id=run.run_id,
                job=run.job,
                status=run.status,
                started=run.started,
                ended=run.ended,
                counts={name: float(count) for name, count in dict(run.counts).items()},
            )
            for run in _runs(reader)
        ],
        failed=failed_rows(failures.slice(0, _FAILURES).to_pylist()),
    )


def _runs(reader: ArchiveReader) -> list[RunRecord]:
    """The latest runs of all archives, latest first."""
    found = [run for each in reader.archives for run in read_runs(each.root)[:_RUNS]]
    return sorted(found, key=lambda run: run.started, reverse=True)[:_RUNS]


def _archives(reader: ArchiveReader, media_roots: Mapping[str, MediaRoots]) -> list[ArchiveRow]:
    members = members_of(reader)
    named = [(reader.root, reader)] if members is None else [(m.name, m.reader) for m in members.now()]
    nowhere = MediaRoots()
    return [
        ArchiveRow(
            name=name,
            archive=each.root,
            model=each.recipe.model,
            videos=each.count("videos"),
            memories=each.count("memories"),
            media_roots=list(media_roots.get(name, nowhere).names),
        )
        for name, each in named
    ]


def left_out_of(reader: ArchiveReader) -> list[LeftOut]:
    """The archives of several that take no part, as the API shows them."""
    members = members_of(reader)
    return [] if members is None else [LeftOut(**each.to_dict()) for each in members.left_out]


def failed_rows(rows: Iterable[dict[str, Any]]) -> list[Failed]:
    """Rows of ``failures`` as the API shows them."""
    fields = Failed.model_fields.keys()
    return [
        Failed(name=name_of(row["uri"]), **{key: value for key, value in row.items() if key in fields})
        for row in rows
    ]


def growth(indexed: np.ndarray, durations_s: np.ndarray) -> list[Growth]:
    """Videos and hours stored by the end of each time step; at most 61 steps.

    ``indexed`` are the times of indexing, datetime64 in UTC, and ``durations_s`` the durations, both [V].
    """
    if not len(indexed):
        return []
    order = np.argsort(indexed, kind="stable")
    times = indexed[order].astype("datetime64[us]")
    hours = np.cumsum(durations_s[order]) / 3600
    span_us = max(_SECOND_US, int((times[-1] - times[0]).astype(np.int64)))
    step = np.timedelta64(max(_SECOND_US, -(-span_us // _STEPS)), "us")
    ends = times[0] + step * np.arange(1, int((times[-1] - times[0]) // step) + 2)
    counts = np.searchsorted(times, ends, side="left")
    return [
        Growth(at=(end - step).item().replace(tzinfo=UTC), videos=int(count), hours=float(hours[count - 1]))
        for end, count in zip(ends, counts, strict=True)
    ]


class Storage:
    """Size of the archive on disk. If asked for, counted again in a thread at most once a minute."""

    def __init__(self, addresses: Callable[[], Sequence[str]]) -> None:
        """``addresses`` returns the resolved addresses of the archives."""
        self._addresses = addresses
        self._lock = threading.Lock()
        self._counted: int | None = None
        self._next = 0.0
        self._counting = False

    def size_bytes(self) -> int | None:
        """The last count; None before the first count, or if the store does not allow it."""
        with self._lock:
            if time.monotonic() >= self._next and not self._counting:
                self._counting = True
                threading.Thread(target=self._count, name="storage", daemon=True).start()
            return self._counted

    def _count(self) -> None:
        counted: int | None = None
        try:
            counted = sum(
                _local_bytes(uri) if is_local(uri) else _remote_bytes(uri) for uri in self._addresses()
            )
        finally:
            # Also if the store refuses: it is asked again after the same pause.
            with self._lock:
                self._counted, self._counting = counted, False
                self._next = time.monotonic() + _COUNTED_EVERY_S


def _local_bytes(place: str) -> int:
    total = 0
    for folder, _, names in os.walk(place):
        for name in names:
            try:
                total += Path(folder, name).stat().st_size
            except FileNotFoundError:
                continue  # removed by compaction meanwhile
    return total


def _remote_bytes(uri: str) -> int:
    filesystem, path = fsspec.core.url_to_fs(uri)
    return int(filesystem.du(path))
