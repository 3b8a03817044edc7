"""Giving an archive the vectors of another retrieval model, without new segments.

BLIP-2's image-text model reads stored tokens. A dual encoder needs pictures: the stored thumbnails, one a slot, or with
``source="frames"`` the videos' frames, decoded again, as indexing would have it. The old vectors are searched until all
new ones are there. A stopped run goes on where it was. Runs in this process, without Ray.
"""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_retrieval
from malmm.model.memory.slots import Memory, Part
from malmm.model.towers.registry import refuse_unfit, row_of, tower_of, vector_size
from malmm.model.towers.tower import SlotVectors
from malmm.operators.decode import DecodeSettings
from malmm.operators.device import choose_device
from malmm.operators.media.sandbox.client import process_sandbox
from malmm.pipeline.archive.recipe_models import archive_models
from malmm.pipeline.archive.vector_tower import Collected, remove_leftovers, switch_vectors
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ArchiveError, MediaError
from malmm.pipeline.schema.exit_codes import EXIT_OK
from malmm.pipeline.schema.progress import OnProgress, Progress
from malmm.pipeline.schema.records import Segment
from malmm.pipeline.schema.reembed_config import ReembedConfig

__all__ = ["ReembedReport", "reembed"]

_TOGETHER = 32
_SEGMENT = ["segment_id", "video_id", "index", "start_s", "end_s", "frame_count"]


@dataclass(frozen=True)
class ReembedReport:
    """The outcome: ``segments`` made in this run by what they were made from, and ``resumed`` of an earlier run."""

    archive: str
    retrieval_model: str
    segments: Mapping[str, int]
    resumed: int
    without: int
    elapsed_s: float
    exit_code: int = EXIT_OK

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return vars(self) | {"segments": dict(self.segments)}


def reembed(config: ReembedConfig, *, on_progress: OnProgress | None = None) -> ReembedReport:
    """Replace the archive's vectors by those of another retrieval model.

    Raises CheckpointError for a retrieval model that cannot be used or does not fit, ArchiveError when the archive
    cannot be written, and ArchiveBusy when another writer holds it.
    """
    began = time.monotonic()
    tell = on_progress or (lambda progress: None)
    archive = Archive.open(config.archive)
    tower = open_retrieval(config.retrieval_model)
    fingerprint = tower.fingerprint()
    made: Counter[str] = Counter()
    resumed = without = 0
    with archive.held():
        remove_leftovers(archive.changes)
        if fingerprint != archive.recipe.retrieval_fingerprint:
            collected = Collected(archive.uri, archive.changes, tower.name, fingerprint, vector_size(tower))
            done = collected.begin()
            segments = _segments(archive)
            if not segments:
                raise ArchiveError(f"{archive.root} is empty: index videos first", uri=archive.root)
            resumed = sum(segment["segment_id"] in done for segment in segments)
            left = [segment for segment in segments if segment["segment_id"] not in done]
            source = _Source(archive, tower, config)
            for begin in range(0, len(left), _TOGETHER):
                tell(Progress("making vectors", segments_total=len(segments), segments_done=resumed + begin))
                parts = []
                for segment in left[begin : begin + _TOGETHER]:
                    way, ids, vectors = source.of(segment)
                    made[way] += bool(ids)
                    without += not ids
                    if ids:
                        parts.append((segment["segment_id"], ids, vectors))
                if parts:
                    collected.add(parts)
            archive.refuse_older_releases()
            switch_vectors(collected)
            archive.update_indexes(at_once=True, tell=lambda what: tell(Progress("building indexes")))
    return ReembedReport(archive.root, tower.name, made, resumed, without, time.monotonic() - began)


def _segments(archive: Archive) -> list[dict[str, Any]]:
    """Finished segments, with their videos' address and shape, by video and in order of time."""
    videos = {row["video_id"]: row for row in archive.videos().to_pylist()}
    rows = archive.tables.rows("segments", columns=_SEGMENT).to_pylist()
    last = {row["video_id"]: row["index"] for row in sorted(rows, key=lambda row: row["index"])}
    return [
        row | {"video": videos.get(row["video_id"]), "is_last": row["index"] == last[row["video_id"]]}
        for row in sorted(rows, key=lambda row: (row["video_id"], row["index"]))
    ]


class _Source:
    """Vectors of segments, from the first of ``ways`` that works for each."""

    def __init__(self, archive: Archive, tower: Checkpoint, config: ReembedConfig) -> None:
        self._archive = archive
        recipe = archive.recipe
        self._ways: tuple[str, ...] = ("thumbnails", "frames")
        model = tower
        if row_of(tower).reads_tokens:
            if config.source not in ("auto", "tokens"):
                raise CheckpointError(
                    f"retrieval model {tower.name!r} is {row_of(tower).name}, which reads stored tokens and not "
                    f"{config.source}: leave out --from"
                )
            model = archive_models(replace(recipe, retrieval_model=NO_RETRIEVAL), config.model).checkpoint
            refuse_unfit(tower, model)
            self._ways = ("tokens",)
        elif config.source == "tokens":
            raise CheckpointError(
                f"retrieval model {tower.name!r} is {row_of(tower).name}, which reads pictures and not stored tokens: "
                "--from thumbnails or --from frames"
            )
        elif config.source == "frames":
            self._ways = ("frames", "thumbnails")
        kind = tower_of(tower)
        kind.verify(tower, model)
        self._slots: SlotVectors = kind.load_slots(
            tower, model=model, check_vision=False, device=choose_device()
        )
        self._decode = DecodeSettings(
            fps=recipe.fps,
            sampling=recipe.sampling,
            segment_s=recipe.segment_s,
            image_size=recipe.image_size,
            decoder="av",
            threads=1,
        )

    def of(self, segment: dict[str, Any]) -> tuple[str, list[str], np.ndarray]:
        """What it was made from, ids of the slots and their vectors [S, Q, V]; no ids where nothing works."""
        rows = self._archive.memory_rows(
            [segment["segment_id"]], ("memory_id", "sizes", "thumbnail", "spans")
        )
        ids = rows["memory_id"].to_pylist()
        for way in self._ways if ids else ():
            vectors = getattr(self, f"_{way}")(segment, rows)
            if vectors is not None:
                return way, ids, vectors.float().cpu().numpy()
        return "", [], np.empty(0)

    def _tokens(self, segment: dict[str, Any], rows: pa.Table) -> torch.Tensor:
        [(_, tokens, sizes)] = self._archive.memory_tokens([segment["segment_id"]])
        held = torch.from_numpy(tokens.astype(np.float32))
        memory = Memory.stored(held, torch.from_numpy(sizes.copy()), segment["frame_count"])
        return self._slots.of_slots(memory, np.empty(0), (1, 1))

    def _thumbnails(self, segment: dict[str, Any], rows: pa.Table) -> torch.Tensor | None:
        """One picture a slot, its middle frame, in the video's own shape."""
        stored = rows["thumbnail"].to_pylist()
        if None in stored:
            return None
        vectors = []
        for data in stored:
            picture = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
            shape = (picture.shape[1], picture.shape[0])
            vectors.append(self._slots.of_slots(_frames_alone(1), picture[None], shape))
        return torch.cat(vectors)

    def _frames(self, segment: dict[str, Any], rows: pa.Table) -> torch.Tensor | None:
        """The frames that the memory was made from; None where the video is gone or has other frames now."""
        video = segment["video"]
        if video is None:
            return None
        wanted = Segment(
            segment["segment_id"],
            segment["video_id"],
            video["uri"],
            segment["index"],
            segment["start_s"],
            segment["end_s"],
            segment["is_last"],
        )
        try:
            span = process_sandbox().decode(self._decode.request(wanted), limit_s=self._decode.limit_s)
        except MediaError:
            return None
        frames = span.frames[: self._decode.most_frames]
        if len(frames) != segment["frame_count"]:
            return None
        sizes = torch.from_numpy(np.asarray(rows["sizes"].to_pylist(), np.int32))
        scattered = rows["spans"].to_pylist()
        parts = None if None in scattered else [[Part(**span) for span in own] for own in scattered]
        memory = Memory.stored(torch.zeros(*sizes.shape, 1), sizes, len(frames), parts)
        return self._slots.of_slots(memory, frames, (video["width"], video["height"]))


def _frames_alone(count: int) -> Memory:
    """A memory of so many slots of a frame each."""
    places = torch.arange(count)[:, None]
    return Memory(torch.zeros(count, 1, 1), torch.ones(count, 1), places, count)
