"""The frames of a video from a moment on, in the order in which they are shown."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from errno import ENOMEM
from typing import Any

from av.error import EOFError as EndOfFile
from av.error import FFmpegError

from malmm.operators.media.container import OpenVideo, open_video

__all__ = ["Damaged", "Skipped", "TimedFrame", "frames_from"]

# Where pictures are refreshed bit by bit, decoders call a picture whole some time too early; found by trial
# with x264's intra refresh, as a multiple of the time from the entry to the first such picture.
SETTLING = 5
# Where a container seeks inexactly, entry is tried this many seconds earlier, and then at the beginning.
BACKOFF_S = (0, 1, 4, 16, 64, 256)
# A demuxer may stumble and go on; one that stumbles this often in a row is not read further.
MAX_STUMBLES = 16


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame with its time and length in ticks of ``video.time_base``."""

    video: OpenVideo
    frame: Any
    tick: int
    length: int


@dataclass(frozen=True)
class Skipped:
    """A frame that was not decoded, with its time and length in ticks."""

    video: OpenVideo
    tick: int
    length: int


@dataclass(frozen=True)
class Damaged:
    """A packet that could not be decoded, or not wholly, and its time in ticks."""

    tick: int


def frames_from(
    uri: str,
    start_s: float | None,
    end_s: float | None = None,
    *,
    threads: int = 1,
    keyframes: bool = False,
) -> Iterator[TimedFrame | Damaged | Skipped]:
    """Frames in presentation order, with none missing from ``start_s`` on (None: from the beginning);
    earlier ones may come first.

    ``end_s`` is when the caller will have had enough, as far as known: no more than that is read ahead.

    Decoding enters at a key frame at or before ``start_s``, so the cost does not depend on what lies
    before. With ``keyframes`` the others come as ``Skipped``, not all of them in order. Raises MediaError when the
    file cannot be opened.
    """
    if start_s is not None:
        with open_video(uri) as video:
            _set_threads(video, threads)
            if video.timed and start_s / video.time_base > video.stream.start_time:
                start = math.floor(start_s / video.time_base)
                entered = _enter_keys(video, start, end_s) if keyframes else _enter(video, start, end_s)
                if entered is not None:
                    yield from entered
                    return
    with open_video(uri) as video:
        _set_threads(video, threads)
        video.reads_until(end_s)
        packets = _packets(video)
        yield from _key_frames(video, packets) if keyframes else _decoded(video, packets)


def _set_threads(video: OpenVideo, threads: int) -> None:
    video.stream.thread_count = threads
    video.stream.thread_type = "AUTO" if threads > 1 else "NONE"


def _enter(video: OpenVideo, start: int, end_s: float | None) -> Iterator[TimedFrame | Damaged] | None:
    """Frames that begin at or before tick ``start``; None when only reading from the beginning will do."""
    for back_s in BACKOFF_S:
        target = start - int(back_s / video.time_base)
        if target <= video.stream.start_time:
            return None
        try:
            video.container.seek(target, stream=video.stream)
        except FFmpegError:
            return None
        video.reads_until(end_s)
        packets = _packets(video)
        key = next((packet for packet in packets if packet.is_keyframe), None)
        if key is None:
            continue
        tick = video.packet_tick(key)
        if tick is None or tick > start:
            continue
        items = _decoded(video, _shown_after(itertools.chain([key], packets), tick))
        # A seek may land late, and where pictures are refreshed bit by bit the first whole one comes long
        # after the entry: only the first frame tells whether none is lost.
        opening = []
        for item in items:
            opening.append(item)
            if isinstance(item, TimedFrame):
                break
        if not opening or not isinstance(opening[-1], TimedFrame):
            continue
        first = opening[-1].tick
        if first + SETTLING * max(0, first - tick) <= start:
            return itertools.chain(opening, items)
    return None


def _enter_keys(
    video: OpenVideo, start: int, end_s: float | None
) -> Iterator[TimedFrame | Damaged | Skipped] | None:
    """Key frames from one at or before tick ``start`` on; None when only reading from the beginning will do."""
    for back_s in BACKOFF_S:
        target = start - int(back_s / video.time_base)
        if target <= video.stream.start_time:
            return None
        try:
            video.container.seek(target, stream=video.stream)
        except FFmpegError:
            return None
        video.reads_until(end_s)
        packets = _packets(video)
        first = next(packets, None)
        tick = None if first is None else video.packet_tick(first)
        if first is not None and tick is not None and tick <= start:
            return _key_frames(video, itertools.chain([first], packets))
    return None


def _key_frames(video: OpenVideo, packets: Iterator[Any]) -> Iterator[TimedFrame | Damaged | Skipped]:
    """Each key frame decoded by itself, so that none waits in the decoder for frames that never come."""
    decoder = video.stream.codec_context
    before: int | None = None
    for packet in packets:
        if packet.size == 0:
            continue
        at = video.packet_tick(packet)
        tick = at if at is not None else _after(before, video)
        before = tick
        if not packet.is_keyframe:
            yield Skipped(video, tick, packet.duration or video.period)
            continue
        try:
            frames = [*decoder.decode(packet), *decoder.decode(None)]
        except FFmpegError as error:
            if error.errno == ENOMEM:
                raise MemoryError from error
            frames = []
        decoder.flush_buffers()
        if not frames or frames[0].is_corrupt:
            yield Damaged(tick)
        else:
            yield TimedFrame(video, frames[0], tick, packet.duration or video.period)


def _shown_after(packets: Iterator[Any], tick: int) -> Iterator[Any]:
    # Pictures of an open group of pictures that come before its key frame refer to the group before,
    # which was not read: they would be decoded wrongly, and all of them are before the start.
    for packet in packets:
        if packet.size == 0 or packet.pts is None or packet.pts >= tick:
            yield packet


def _packets(video: OpenVideo) -> Iterator[Any]:
    """The packets of the video stream and at last an empty one, read on over errors of the demuxer."""
    stumbles = 0
    while True:
        try:
            for packet in video.container.demux(video.stream):
                stumbles = 0
                yield packet
            return
        except EndOfFile:
            return
        except FFmpegError:
            stumbles += 1
            if stumbles >= MAX_STUMBLES:
                return


def _decoded(video: OpenVideo, packets: Iterator[Any]) -> Iterator[TimedFrame | Damaged]:
    before: int | None = None
    for packet in packets:
        if packet.is_corrupt:
            # The container noticed, for instance that transport packets are missing; a decoder may not.
            at = video.packet_tick(packet)
            yield Damaged(at if at is not None else _after(before, video))
        try:
            frames = packet.decode()
        except FFmpegError as error:
            if error.errno == ENOMEM:
                raise MemoryError from error
            at = video.packet_tick(packet)
            yield Damaged(at if at is not None else _after(before, video))
            continue
        for frame in frames:
            tick = frame.dts if video.clock_is_dts else frame.pts
            if tick is None:
                tick = _after(before, video)
            before = tick
            if frame.is_corrupt:
                yield Damaged(tick)
            else:
                yield TimedFrame(video, frame, tick, frame.duration or video.period)


def _after(before: int | None, video: OpenVideo) -> int:
    """The time of a frame that has none: one nominal frame after the one before, or the very start."""
    return before + video.period if before is not None else (video.stream.start_time or 0)
