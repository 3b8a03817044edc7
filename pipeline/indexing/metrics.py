"""A run's metrics for Prometheus, through Ray: every node's metrics endpoint exports them during a run.

``deploy/grafana.json`` is a dashboard of them. The cluster needs Ray's ``default`` extra.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge

from malmm.pipeline.schema.progress import Progress

__all__ = ["METRICS", "RunMetrics"]

#: Every metric by its name in Prometheus.
METRICS = {
    "malmm_segments_done_total": "segments stored",
    "malmm_frames_done_total": "sampled frames of segments stored",
    "malmm_video_seconds_done_total": "seconds of video stored",
    "malmm_frames_per_second": "sampled frames stored in a second, since the last look",
    "malmm_queue_segments": "segments planned and not stored yet",
    "malmm_failures_total": "what could not be done, by kind",
    "malmm_worker_idle_fraction": "share of its time that a worker with a model waited for work, by stage",
}
_TAGS = ("archive",)
_LOOK_S = 2.0


class RunMetrics:
    """The driver's side. Made while connected to Ray; ``note`` is called with each progress."""

    def __init__(self, archive: str) -> None:
        def counter(name: str, *more: str) -> Counter:
            # Prometheus appends `_total` to every counter.
            made = Counter(name.removesuffix("_total"), METRICS[name], tag_keys=(*_TAGS, *more))
            made.set_default_tags({"archive": archive})
            return made

        def gauge(name: str) -> Gauge:
            made = Gauge(name, METRICS[name], tag_keys=_TAGS)
            made.set_default_tags({"archive": archive})
            return made

        self._segments = counter("malmm_segments_done_total")
        self._frames = counter("malmm_frames_done_total")
        self._video_s = counter("malmm_video_seconds_done_total")
        self._failures = counter("malmm_failures_total", "kind")
        self._pace = gauge("malmm_frames_per_second")
        self._queue = gauge("malmm_queue_segments")
        self._seen: dict[str, float] = {}
        self._failed: dict[str, int] = {}
        self._last = (0.0, 0)

    def note(self, progress: Progress, frames: int, failures: Mapping[str, int]) -> None:
        """Export the run's state: its progress, ``frames`` stored so far, ``failures`` so far by kind."""
        for name, counter, value in (
            ("segments", self._segments, progress.segments_done),
            ("frames", self._frames, frames),
            ("video_s", self._video_s, progress.video_s_done),
        ):
            grown = value - self._seen.get(name, 0)
            if grown > 0:
                counter.inc(grown)
                self._seen[name] = value
        for kind, count in failures.items():
            if count > self._failed.get(kind, 0):
                self._failures.inc(count - self._failed.get(kind, 0), tags={"kind": kind})
                self._failed[kind] = count
        self._queue.set(progress.segments_total - progress.segments_done)
        then, before = self._last
        if progress.elapsed_s - then >= _LOOK_S:
            self._pace.set((frames - before) / (progress.elapsed_s - then))
            self._last = (progress.elapsed_s, frames)
        elif progress.elapsed_s < then:
            self._last = (progress.elapsed_s, frames)
