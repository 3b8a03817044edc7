"""What a run says of itself: progress while it goes, a report at its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from malmm.pipeline.schema.exit_codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_SOME_FAILED
from malmm.pipeline.schema.records import Failure

__all__ = ["IndexReport", "Plan"]


@dataclass(frozen=True)
class Plan:
    """What a run would do, from a dry one. ``storage_bytes`` is what memory will take, texts not counted."""

    videos: int
    segments: int
    video_s: float
    frames: int
    memory_slots: int
    storage_bytes: int
    texts: int
    pruned: tuple[str, ...]


@dataclass
class IndexReport:
    """The outcome of an indexing run. Counts are of this run, but for ``videos_unchanged``.

    ``videos_left`` are those that a limit leaves for later, and ``videos_given_up`` failed for good before, have not
    changed, and were not tried again; their failures are among ``failures``. ``switched`` says that a new recipe's rows
    took the place of the old one's, and ``videos_not_reindexed`` how many videos it still lacks.
    """

    archive: str
    model: str
    videos_listed: int = 0
    videos_unchanged: int = 0
    videos_left: int = 0
    videos_given_up: int = 0
    videos_pruned: int = 0
    videos_not_reindexed: int = 0
    switched: bool = False
    videos_indexed: int = 0
    segments_indexed: int = 0
    segments_resumed: int = 0
    frames: int = 0
    video_s: float = 0.0
    memories: int = 0
    annotations: int = 0
    elapsed_s: float = 0.0
    indexing_s: float = 0.0
    interrupted: bool = False
    notice: str | None = None
    plan: Plan | None = None
    failures: list[Failure] = field(default_factory=list)

    @property
    def times_real_time(self) -> float | None:
        """Seconds of video indexed in a second of the indexing stage."""
        return self.video_s / self.indexing_s if self.indexing_s > 0 and self.video_s > 0 else None

    @property
    def exit_code(self) -> int:
        """0 when all is done, 3 when some was not, 1 when nothing could be done, 130 when interrupted."""
        if self.interrupted:
            return EXIT_INTERRUPTED
        if not self.failures:
            return EXIT_OK
        done = self.segments_indexed or self.segments_resumed or self.videos_unchanged or self.videos_indexed
        if self.plan is not None:
            done = self.plan.segments or self.videos_unchanged
        return EXIT_SOME_FAILED if done else EXIT_FAILED

    def failures_by_kind(self) -> dict[str, int]:
        """How many failures there are of each kind, the commonest first."""
        return dict(Counter(failure.kind for failure in self.failures).most_common())

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return asdict(self) | {"times_real_time": self.times_real_time, "exit_code": self.exit_code}
