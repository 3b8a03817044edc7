"""Plans: the segments of each listed file, or why it has none. The plan operator sends them to the driver."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from malmm.pipeline.schema.records import Failure, Segment, Video
from malmm.pipeline.schema.rows import PROBED, rows_table

__all__ = ["PLANS", "VideoPlan", "plans_in", "plans_table"]

#: One row a file: a video and its segments in time order, or a failure.
PLANS = pa.schema(
    [
        *PROBED,
        ("segment_ids", pa.list_(pa.string())),
        ("starts_s", pa.list_(pa.float64())),
        ("ends_s", pa.list_(pa.float64())),
        ("stored", pa.list_(pa.bool_())),
    ]
)


@dataclass(frozen=True)
class VideoPlan:
    """A video and its segments in time order; ``stored`` says for each whether it is committed.

    Segments are columns instead of ``Segment`` objects: a run may plan millions, and the driver keeps them all.
    """

    video: Video
    segment_ids: tuple[str, ...]
    starts_s: tuple[float, ...]
    ends_s: tuple[float, ...]
    stored: tuple[bool, ...]

    @classmethod
    def of(cls, video: Video, segments: Iterable[Segment], stored: Iterable[bool]) -> VideoPlan:
        """The plan of a video's segments."""
        rows = [(segment.segment_id, segment.start_s, segment.end_s) for segment in segments]
        ids, starts_s, ends_s = zip(*rows, strict=True) if rows else ((), (), ())
        return cls(video, ids, starts_s, ends_s, tuple(stored))


def plans_table(plans: Iterable[VideoPlan | Failure]) -> pa.Table:
    """A ``PLANS`` table of plans, and of failures of files that are not videos."""
    rows: list[dict[str, Any]] = []
    for plan in plans:
        if isinstance(plan, Failure):
            rows.append({"failure": asdict(plan)})
        else:
            rows.append(vars(plan) | {"video": asdict(plan.video)})
    return rows_table(rows, PLANS)


def plans_in(table: pa.Table) -> list[VideoPlan | Failure]:
    """Read a table made by ``plans_table``."""
    found: list[VideoPlan | Failure] = []
    for row in table.to_pylist():
        if row["failure"] is not None:
            found.append(Failure(**row["failure"]))
        else:
            arrays = {name: tuple(row[name]) for name in ("segment_ids", "starts_s", "ends_s", "stored")}
            found.append(VideoPlan(Video(**row["video"]), **arrays))
    return found
