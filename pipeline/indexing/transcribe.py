"""Store what is said in an archive's videos. Their pictures are not touched, and nothing is stored twice."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence, Set
from dataclasses import asdict, dataclass, field
from typing import Any

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.speech.checkpoints import open_whisper
from malmm.pipeline.archive.given_texts import Added
from malmm.pipeline.archive.passes import Pass, finished
from malmm.pipeline.archive.run_history import read_runs
from malmm.pipeline.archive.video_selection import select_videos
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.indexing.speech_pass import SpeechCommits, speech_passes, speech_work
from malmm.pipeline.indexing.subtitle_pass import Heard, SubtitleWork, read_subtitles_of, subtitle_work
from malmm.pipeline.schema.exit_codes import exit_code_of
from malmm.pipeline.schema.given_texts import GivenRows
from malmm.pipeline.schema.progress import OnProgress, Progress
from malmm.pipeline.schema.records import Video
from malmm.pipeline.schema.rows import Carried
from malmm.pipeline.schema.transcribe_config import TranscribeConfig

__all__ = ["TranscribeReport", "transcribe"]

_COMMIT_EVERY_S = 3.0


@dataclass
class TranscribeReport:
    """Result: the numbers of ``videos`` looked at, of pieces of work that were left to do (``missing``) and done, of
    transcripts read, and of texts that were new, changed a stored one, or were stored already.

    ``subtitled`` videos have subtitles, so that no speech is recognised in them; 0 unless that was asked for.

    ``loaded_s``: seconds from the start of the first worker with a speech model until it had loaded it. ``problems``
    are sentences about what was left out.
    """

    archive: str
    videos: int = 0
    missing: int = 0
    done: int = 0
    transcripts: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    subtitled: int = 0
    dry_run: bool = False
    interrupted: bool = False
    elapsed_s: float = 0.0
    loaded_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 if all went in, 3 if something was left out, 1 if all was, 130 if interrupted."""
        return exit_code_of(interrupted=self.interrupted, failed=bool(self.problems), done=self.done > 0)

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return asdict(self) | {"exit_code": self.exit_code}


def transcribe(
    config: TranscribeConfig, *, on_progress: OnProgress | None = None, verbose: bool = False
) -> TranscribeReport:
    """Store the subtitles of an archive's videos that are not stored yet, or have changed since, and recognise speech.

    Recognition runs on Ray, which is loaded only if a span of a video is not transcribed by the model yet.

    What cannot be read costs a sentence in the report, and the rest goes in. Raises ConfigError for a condition that
    does not parse, ArchiveError, and ArchiveBusy. On Ctrl-C it keeps what was read and returns with ``interrupted``
    set.
    """
    began = time.monotonic()
    tell = on_progress or (lambda progress: None)
    tell(Progress("listing"))
    archive = Archive.open(config.archive)
    fields = list(Video.__dataclass_fields__)
    rows = select_videos(archive, where=config.where).select(fields).to_pylist()
    videos = [Video(**row) for row in rows]
    done = finished(archive.tables)
    work, refused = subtitle_work(videos, config.given, config.encoding, done)
    checkpoint: Checkpoint | None = None
    spans: dict[Pass, Carried] = {}
    if config.model:
        checkpoint = open_whisper(config.model)
        spans = speech_passes(videos, checkpoint.fingerprint(), config.language, done)
    report = TranscribeReport(
        archive.root, videos=len(videos), dry_run=config.dry_run, problems=[str(error) for error in refused]
    )
    if config.skip_subtitled:
        # Files are believed to hold texts until they are read; what a track holds is not known before.
        beside = {each.video.video_id for each in work if each.sidecar is not None}
        spans = _without_subtitles(archive, videos, spans, report, beside if config.dry_run else frozenset())
    report.missing = len(work) + len(spans)
    if (work or spans) and not config.dry_run:
        with archive.held():
            try:
                if work:
                    _store(archive, work, config.encoding, report, tell)
                    if config.skip_subtitled:
                        spans = _without_subtitles(archive, videos, spans, report)
                        report.missing = len(work) + len(spans)
                if checkpoint is not None and spans:
                    _recognise(archive, config, checkpoint, spans, report, tell, verbose=verbose)
                archive.update_indexes(tell=lambda what: tell(Progress("building indexes")))
            except KeyboardInterrupt:
                report.interrupted = True
    report.elapsed_s = time.monotonic() - began
    return report


def _without_subtitles(
    archive: Archive,
    videos: Sequence[Video],
    spans: dict[Pass, Carried],
    report: TranscribeReport,
    expected: Set[str] = frozenset(),
) -> dict[Pass, Carried]:
    """The spans of videos without subtitles. Counts the others, with those ``expected`` to have some."""
    subtitled = archive.tracks.subtitled() | expected
    report.subtitled = sum(video.video_id in subtitled for video in videos)
    return {each: span for each, span in spans.items() if each.video_id not in subtitled}


def _recognise(
    archive: Archive,
    config: TranscribeConfig,
    checkpoint: Checkpoint,
    spans: dict[Pass, Carried],
    report: TranscribeReport,
    tell: OnProgress,
    *,
    verbose: bool,
) -> None:
    tell(Progress("starting"))
    # Ray takes seconds to load, which a run without sound to hear need not wait for.
    from malmm.pipeline.cluster.connection import connected
    from malmm.pipeline.cluster.plan import ClusterPlan
    from malmm.pipeline.cluster.starvation import RoomWatch
    from malmm.pipeline.indexing.block_stream import received
    from malmm.pipeline.indexing.graph import transcribing
    from malmm.pipeline.indexing.model_hosts import ModelHosts
    from malmm.pipeline.indexing.model_loading import ModelLoading, loaded_before_s

    loading = ModelLoading(checkpoint.half_bytes, loaded_before_s(read_runs(config.archive), "transcribe"))
    began = time.monotonic()
    plan = ClusterPlan(config.resources, config.cluster, checkpoint.half_bytes, one_model=True)
    with (
        connected(plan, verbose=verbose, tell=tell) as resources,
        ModelHosts(resources, plan) as hosts,
    ):
        room = RoomWatch(resources)

        def shown(done: int, failed: int) -> None:
            tell(
                Progress(
                    "recognising",
                    videos_done=done,
                    videos_total=len(spans),
                    failures=failed,
                    elapsed_s=time.monotonic() - began,
                    note=room.note(done) or ("" if done else loading.note(hosts)),
                )
            )

        commits = SpeechCommits(archive, checkpoint.pinned, list(spans), shown, config.language)
        recognised = transcribing(speech_work(spans), config, resources, hosts, verbose=verbose)
        try:
            commits.go(hosts.watched(received(recognised)))
        finally:
            report.loaded_s = hosts.loaded_s or 0.0
            added = commits.added
            report.done += commits.done
            report.transcripts += commits.done
            report.new, report.changed = report.new + added.new, report.changed + added.changed
            report.unchanged += added.unchanged
            report.problems += commits.problems
    lost = len(spans) - commits.done - len(commits.problems)
    if lost > 0:
        report.problems.append(
            f"{lost} spans never came back from their workers: run again to try them again"
        )


def _store(
    archive: Archive, work: Sequence[SubtitleWork], encoding: str, report: TranscribeReport, tell: OnProgress
) -> None:
    waiting: list[Heard] = []
    began = last_commit = time.monotonic()
    try:
        for heard in read_subtitles_of(work, encoding, at_once=os.cpu_count() or 1):
            waiting.append(heard)
            if time.monotonic() - last_commit >= _COMMIT_EVERY_S:
                _commit(archive, waiting, report)
                waiting, last_commit = [], time.monotonic()
            tell(
                Progress(
                    "transcribing",
                    videos_done=report.done + len(waiting),
                    videos_total=len(work),
                    failures=len(report.problems),
                    elapsed_s=time.monotonic() - began,
                )
            )
    finally:
        _commit(archive, waiting, report)


def _commit(archive: Archive, heard: Iterable[Heard], report: TranscribeReport) -> None:
    """Commit texts, then the passes that made them."""
    found = list(heard)
    rows = GivenRows({each.work.video.video_id: each.work.video.fingerprint for each in found})
    tracks = [(each.work.video.video_id, track, texts) for each in found for track, texts in each.tracks]
    table = rows.of((video, track, text) for video, track, texts in tracks for text in texts)
    added = Added()
    if tracks:
        added = archive.replace_tracks(table, [(video, track.track_id) for video, track, _ in tracks])
    archive.finish_passes(each.work.done for each in found if each.is_whole)
    report.done += sum(each.is_whole for each in found)
    report.transcripts += len(tracks)
    report.new += added.new
    report.changed += added.changed
    report.unchanged += added.unchanged
    report.problems += [problem for each in found for problem in each.problems]
