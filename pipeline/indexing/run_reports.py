"""Reports of indexing runs: the result of a run, and the plan of a dry run. They decide a run's exit code."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from malmm.pipeline.schema.engines import OWN_ENGINE
from malmm.pipeline.schema.exit_codes import exit_code_of
from malmm.pipeline.schema.partition import Partition
from malmm.pipeline.schema.records import Failure

if TYPE_CHECKING:
    from malmm.pipeline.indexing.transcribe import TranscribeReport

__all__ = ["IndexReport", "Plan"]


@dataclass(frozen=True)
class Plan:
    """Plan of a dry run: what a real run would do. ``storage_bytes`` is the size of the memory slots, without texts.

    ``bytes_read`` is the size of the files. ``hours`` and ``gpu_hours`` are None where they cannot be estimated.
    ``basis`` names what they were estimated from.
    """

    videos: int
    segments: int
    video_s: float
    frames: int
    memory_slots: int
    storage_bytes: int
    texts: int
    pruned: tuple[str, ...]
    bytes_read: int = 0
    hours: float | None = None
    gpu_hours: float | None = None
    basis: str = ""


@dataclass
class IndexReport:
    """Result of an indexing run. Counts are of this run, except ``videos_unchanged``.

    ``partition`` is the run's partition, and ``videos_elsewhere`` are listed and belong to others. ``videos_kept`` were
    to be pruned and are not yet, because the partitions ``not_listed`` have not listed all sources.
    ``videos_left`` were left for later by a limit, ``videos_forgotten`` were to be forgotten by `malmm forget`.
    ``videos_given_up`` failed permanently before, have not changed and were not tried again; ``failures`` includes
    theirs. ``switched``: the rows of a new recipe replaced those of the old one; ``videos_not_reindexed``: how many
    videos the new recipe still lacks. ``transcripts``: what was stored of what is said, if that was asked for.
    ``choice``: why this model, if none was named. ``encoders`` and ``gpus``: how many of them the run had room for at
    once, at most. ``engine`` wrote the texts. ``encoder_s``: seconds of all encoders of the indexing stage, each from
    when it had loaded its model. ``loaded_s``: seconds from the start of the first worker with a model until it had
    loaded it.
    """

    archive: str
    model: str
    engine: str = OWN_ENGINE
    videos_listed: int = 0
    videos_unchanged: int = 0
    videos_left: int = 0
    videos_forgotten: int = 0
    videos_given_up: int = 0
    videos_pruned: int = 0
    videos_elsewhere: int = 0
    videos_kept: int = 0
    not_listed: list[str] = field(default_factory=list)
    partition: Partition | None = None
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
    encoders: int = 0
    gpus: float = 0.0
    encoder_s: float = 0.0
    loaded_s: float = 0.0
    interrupted: bool = False
    choice: str = ""
    notice: str | None = None
    plan: Plan | None = None
    transcripts: TranscribeReport | None = None
    failures: list[Failure] = field(default_factory=list)

    @property
    def times_real_time(self) -> float | None:
        """Seconds of video indexed per second of the indexing stage; None if nothing was indexed."""
        return self.video_s / self.indexing_s if self.indexing_s > 0 and self.video_s > 0 else None

    @property
    def exit_code(self) -> int:
        """0 if all is done, 3 if some of it failed, 1 if all failed, 130 if interrupted."""
        done = self.segments_indexed or self.segments_resumed or self.videos_unchanged or self.videos_indexed
        if self.plan is not None:
            done = self.plan.segments or self.videos_unchanged
        failed = bool(self.failures) or bool(self.transcripts and self.transcripts.problems)
        return exit_code_of(interrupted=self.interrupted, failed=failed, done=bool(done))

    def failures_by_kind(self) -> dict[str, int]:
        """Number of failures of each kind, most common first."""
        return dict(Counter(failure.kind for failure in self.failures).most_common())

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return asdict(self) | {"times_real_time": self.times_real_time, "exit_code": self.exit_code}
