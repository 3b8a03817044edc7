"""Find the copies in archives: their runs, their groups, and what to leave out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.duplicates.groups import LeftOut, Member, grouped, left_out
from malmm.pipeline.duplicates.implied import with_implied
from malmm.pipeline.duplicates.matching import common_slots, mutual_pairs
from malmm.pipeline.duplicates.runs import Limits, Run, find_runs, verified
from malmm.pipeline.duplicates.slot_vectors import VideoRow, read_slots
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["GROUPS", "KEEPS", "Copies", "find_copies"]

#: Which copy stays: that of the video that was indexed first, or of the longest video.
KEEPS = ("first", "longest")

#: The report as a table: a row for each passage of a group.
GROUPS = pa.schema(
    [
        pa.field("group", pa.int32(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("archive", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("end_s", pa.float64(), nullable=False),
    ]
)

# A slot that resembles slots of more videos than this does not count as evidence of a copy.
_MOST_VIDEOS = 100
# Two passages of one video are compared only if they are this far apart, in slots and in seconds.
_APART_SLOTS, _APART_S = 6, 15.0


@dataclass(frozen=True)
class Copies:
    """The copies found. ``runs`` name videos by their index in ``videos``. A run within one video is a repeat."""

    archives: tuple[str, ...]
    videos: tuple[VideoRow, ...]
    slots: int
    runs: tuple[Run, ...]

    @property
    def between(self) -> list[Run]:
        """Runs between two videos."""
        return [run for run in self.runs if not run.is_repeat]

    @property
    def repeats(self) -> list[Run]:
        """Runs within one video: passages that occur twice in it."""
        return [run for run in self.runs if run.is_repeat]

    def groups(self, *, repeats: bool = False) -> list[tuple[list[Member], list[Run]]]:
        """Groups of copied passages with their runs; with ``repeats``, those that occur twice within one video."""
        runs = self.repeats if repeats else self.between
        return [(members, [runs[place] for place in places]) for members, places in grouped(runs)]

    def left_out(self, keep: str, *, repeats: bool = False) -> list[LeftOut]:
        """The passages to leave out so that each is kept once. Raises ConfigError for an unknown ``keep``."""
        if keep not in KEEPS:
            raise ConfigError(f"--keep {keep!r}: one of {', '.join(KEEPS)}")

        def place(number: int) -> tuple[float, float, str]:
            video = self.videos[number]
            return (-video.duration_s if keep == "longest" else 0.0, video.indexed, video.uri)

        spans = [(video.start_s, video.start_s + video.duration_s) for video in self.videos]
        return left_out(self.runs, sorted(range(len(self.videos)), key=place), spans, repeats=repeats)

    def table(self) -> pa.Table:
        """The groups as a table ``GROUPS``; ``kind`` is ``copy``, or ``repeat`` within one video."""
        rows = []
        for kind, repeats in (("copy", False), ("repeat", True)):
            for number, (members, _) in enumerate(self.groups(repeats=repeats), 1):
                rows += [
                    {
                        "group": number,
                        "kind": kind,
                        **self._about(m.video),
                        "start_s": m.start_s,
                        "end_s": m.end_s,
                    }
                    for m in members
                ]
        return pa.Table.from_pylist(rows, schema=GROUPS)

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return {
            "archives": list(self.archives),
            "videos": len(self.videos),
            "slots": self.slots,
            **{
                name: [self._group(members, runs) for members, runs in self.groups(repeats=repeats)]
                for name, repeats in (("groups", False), ("repeats", True))
            },
        }

    def _group(self, members: Sequence[Member], runs: Sequence[Run]) -> dict[str, Any]:
        return {
            "passages": [
                {**self._about(member.video), "start_s": member.start_s, "end_s": member.end_s}
                for member in members
            ],
            "runs": [
                {
                    side: {**self._about(number), "start_s": span[0], "end_s": span[1]}
                    for side, number, span in (
                        ("first", run.first, run.first_span),
                        ("second", run.second, run.second_span),
                    )
                }
                | {"rate": run.rate, "score": run.score, "similarity": run.similarity, "moving": run.moving}
                | {"via": None if run.via is None else self._about(run.via)}
                for run in runs
            ],
        }

    def _about(self, number: int) -> dict[str, str]:
        video = self.videos[number]
        return {"archive": video.archive, "video_id": video.video_id, "uri": video.uri}


def find_copies(
    archives: Sequence[ArchiveReader],
    limits: Limits | None = None,
    *,
    tell: Callable[[str], None] = lambda doing: None,
) -> Copies:
    """Find copies among all videos of the archives. ``tell`` is called with the name of each step.

    Raises ArchiveError for archives without vectors, of different retrieval models, or without videos.
    """
    limits = limits or Limits()
    tell("reading vectors")
    slots, videos = read_slots(archives)
    tell(f"comparing {len(slots)} slots")
    typical_s = float(sorted(slots.length_s)[len(slots) // 2])
    pairs = mutual_pairs(
        slots.vectors,
        slots.video,
        slots.middle_s,
        least=limits.similar,
        apart_s=max(_APART_S, _APART_SLOTS * typical_s),
        left_out=common_slots(slots.vectors, slots.video, least=limits.similar, most=_MOST_VIDEOS),
    )
    tell(f"looking for runs among {len(pairs)} pairs")
    runs = with_implied(find_runs(slots, pairs, limits), lambda run: verified(run, slots, limits))
    return Copies(tuple(archive.root for archive in archives), tuple(videos), len(slots), tuple(runs))
