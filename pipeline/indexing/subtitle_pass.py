"""Which subtitles of an archive's videos are not stored yet, and reading them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from queue import SimpleQueue

from malmm.operators.media.sandbox.client import DECODE_LIMIT_S, Sandbox
from malmm.operators.media.subtitle_files import FORMATS
from malmm.pipeline.archive.passes import Pass
from malmm.pipeline.schema.errors import MalmmError, SourceError
from malmm.pipeline.schema.given_texts import GivenText, Track
from malmm.pipeline.schema.records import Video
from malmm.pipeline.schema.stable_ids import stable_id
from malmm.pipeline.sources.sidecars import Sidecar, list_sidecars

__all__ = ["Heard", "SubtitleWork", "read_subtitles_of", "subtitle_work"]

# Twice as many are asked for as are read at once, however many videos there are.
_AHEAD = 2


@dataclass(frozen=True)
class SubtitleWork:
    """A subtitle file, or the tracks of a video if ``sidecar`` is None."""

    video: Video
    done: Pass
    sidecar: Sidecar | None = None


@dataclass(frozen=True)
class Heard:
    """The transcripts that a piece of work gave, and a sentence for each thing that went wrong with it.

    ``is_whole`` is False if nothing could be read, so that the next run tries it again.
    """

    work: SubtitleWork
    tracks: tuple[tuple[Track, tuple[GivenText, ...]], ...] = ()
    problems: tuple[str, ...] = ()
    is_whole: bool = True


def subtitle_work(
    videos: Sequence[Video], given: Iterable[str], encoding: str, done: set[str]
) -> tuple[list[SubtitleWork], list[SourceError]]:
    """What is to be read, without the passes ``done``, and folders that cannot be listed.

    A subtitle file that changed is read again.
    """
    work: list[SubtitleWork] = []
    refused: list[SourceError] = []
    if "files" in given:
        by_uri = {video.uri: video for video in videos}
        for found in list_sidecars(by_uri, tuple(FORMATS)):
            if isinstance(found, SourceError):
                refused.append(found)
                continue
            video = by_uri[found.video_uri]
            version = stable_id(found.uri, found.fingerprint, encoding)
            work.append(
                SubtitleWork(video, Pass(video.video_id, video.fingerprint, "subtitle file", version), found)
            )
    if "tracks" in given:
        work += [
            SubtitleWork(video, Pass(video.video_id, video.fingerprint, "subtitle tracks", "1"))
            for video in videos
        ]
    return [each for each in work if each.done.pass_id not in done], refused


def read_subtitles_of(
    work: Sequence[SubtitleWork], encoding: str, *, at_once: int, limit_s: float = DECODE_LIMIT_S
) -> Iterator[Heard]:
    """Read subtitles in ``at_once`` child processes, which may die, and yield what each piece of work gave.

    The order is that in which they are read.
    """
    sandboxes: SimpleQueue[Sandbox] = SimpleQueue()
    made = [Sandbox() for _ in range(max(1, min(at_once, len(work))))]
    for sandbox in made:
        sandboxes.put(sandbox)

    def read(each: SubtitleWork) -> Heard:
        sandbox = sandboxes.get()
        try:
            return _read(each, encoding, sandbox, limit_s)
        finally:
            sandboxes.put(sandbox)

    with ThreadPoolExecutor(len(made)) as threads:
        try:
            waiting: set[Future[Heard]] = set()
            for each in work:
                waiting.add(threads.submit(read, each))
                if len(waiting) >= _AHEAD * len(made):
                    ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in ended)
            while waiting:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ended)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for sandbox in made:
                sandbox.close()


def _read(work: SubtitleWork, encoding: str, sandbox: Sandbox, limit_s: float) -> Heard:
    video = work.video
    try:
        if work.sidecar is None:
            return _tracks(work, sandbox, limit_s)
        length_s = video.duration_s or math.inf
        found = sandbox.subtitles(work.sidecar.uri, encoding, length_s, limit_s=limit_s)
    except (MalmmError, RuntimeError) as error:
        return Heard(work, problems=(str(error),), is_whole=False)
    track = Track(origin=work.sidecar.uri, language=work.sidecar.language)
    # Players count from the first frame, and so do subtitle files.
    texts = (
        replace(text, start_s=text.start_s + video.start_s, end_s=text.end_s + video.start_s)
        for text in found.texts
    )
    return Heard(work, ((track, tuple(texts)),), found.problems)


def _tracks(work: SubtitleWork, sandbox: Sandbox, limit_s: float) -> Heard:
    video = work.video
    tracks: list[tuple[Track, tuple[GivenText, ...]]] = []
    problems: list[str] = []
    end_s = video.start_s + video.duration_s if video.duration_s else math.inf
    for found in sandbox.tracks(video.uri, limit_s=limit_s):
        origin = f"{video.uri}#{found.index}"
        texts = tuple(text for text in found.texts if text.start_s < end_s)
        problems += found.problems
        if len(texts) < len(found.texts):
            late = len(found.texts) - len(texts)
            problems.append(
                f"{video.uri}, subtitle track {found.index}: {late} cues begin after the video's end and are left out"
            )
        tracks.append((Track(origin=origin, language=found.language), texts))
    return Heard(work, tuple(tracks), tuple(problems))
