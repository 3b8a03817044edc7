"""Decode the frames of a video from a given time on, in presentation order."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from errno import ENOMEM
from typing import Any

from av.error import EOFError as EndOfFile
from av.error import FFmpegError
from av.video.frame import PictureType

from malmm.operators.media.container import OpenVideo, open_video
from malmm.operators.media.files import MediaFile

__all__ = ["Damaged", "Skipped", "TimedFrame", "frames_from", "is_key_picture"]

# With intra refresh, decoders declare a picture complete somewhat too early. This margin is a multiple of the time from
# the entry to the first such picture, measured with x264.
SETTLING = 5
# If a container seeks inexactly, entry is tried this many seconds earlier, and at last at the beginning.
BACKOFF_S = (0, 1, 4, 16, 64, 256)
# Decoders that return no picture until the stream signals recovery.
WAITING_DECODERS = frozenset(("h264",))
# A demuxer may raise an error and go on. After this many errors in a row it is not read further.
MAX_STUMBLES = 16
_BEFORE_ALL = -(1 << 62)


@dataclass(frozen=True)
class TimedFrame:
    """A decoded frame with its time and duration in ticks of ``video.time_base``."""

    video: OpenVideo
    frame: Any
    tick: int
    length: int


@dataclass(frozen=True)
class Skipped:
    """A frame that was not decoded, with its time and duration in ticks."""

    video: OpenVideo
    tick: int
    length: int


@dataclass(frozen=True)
class Damaged:
    """A packet that could not be decoded completely, with its time in ticks."""

    tick: int


def frames_from(
    file: MediaFile,
    start_s: float | None,
    end_s: float | None = None,
    *,
    threads: int = 1,
    keyframes: bool = False,
) -> Iterator[TimedFrame | Damaged | Skipped]:
    """Yield frames in presentation order, complete from ``start_s`` on (None: from the beginning). Earlier frames may
    come first.

    ``end_s`` is the time, if known, after which the caller needs no more frames: it limits read-ahead.

    Decoding starts at a key frame at or before ``start_s``, so the cost does not depend on what lies before it. The
    container's key frame flags are checked against the decoder. With ``keyframes`` the other frames come as
    ``Skipped``, not all in order. Raises MediaError if the file cannot be opened.
    """
    if keyframes:
        yield from _keys_from(file, start_s, end_s, threads)
        return
    if start_s is not None:
        with open_video(file) as video:
            _set_threads(video, threads)
            if video.timed and start_s / video.time_base > video.stream.start_time:
                entered = _enter(video, math.floor(start_s / video.time_base), end_s)
                if entered is not None:
                    yield from entered
                    return
    with open_video(file) as video:
        _set_threads(video, threads)
        video.reads_until(end_s)
        yield from _decoded(video, _packets(video))


def is_key_picture(frame: Any) -> bool:
    """Whether a decoded frame is intra-coded, according to its decoder."""
    return frame.key_frame or frame.pict_type in (PictureType.I, PictureType.SI)


def _are_nameless(frames: list[Any]) -> bool:
    """Whether these frames come from a decoder that reports no picture types, such as Flash Screen Video's.

    A single frame without a type may also be the grey picture that MPEG-4's decoder returns for a missing reference.
    """
    return all(frame.pict_type == PictureType.NONE for frame in frames)


def _set_threads(video: OpenVideo, threads: int) -> None:
    video.stream.thread_count = threads
    video.stream.thread_type = "AUTO" if threads > 1 else "NONE"


def _entries(video: OpenVideo, start: int, end_s: float | None) -> Iterator[Iterator[Any]]:
    """Yield packet iterators: from where the container seeks for tick ``start``, then from ever earlier places."""
    for back_s in BACKOFF_S:
        target = start - int(back_s / video.time_base)
        if target <= video.stream.start_time:
            return
        try:
            video.container.seek(target, stream=video.stream)
        except FFmpegError:
            return
        video.reads_until(end_s)
        yield _packets(video)


def _enter(video: OpenVideo, start: int, end_s: float | None) -> Iterator[TimedFrame | Damaged] | None:
    """Frames from tick ``start`` or earlier on; None if the file must be read from the beginning."""
    for packets in _entries(video, start, end_s):
        key = _flagged_key(video, packets, start)
        if key is None:
            continue
        tick = video.packet_tick(key)
        if tick is None or tick > start:
            continue
        items = _decoded(video, _shown_after(itertools.chain([key], packets), tick))
        first = _first_whole(video, items, tick, start)
        if first:
            return itertools.chain(first, items)
    return None


def _flagged_key(video: OpenVideo, packets: Iterator[Any], start: int) -> Any | None:
    """The first packet that the container flags as a key frame; None if there is none up to tick ``start``."""
    for packet in packets:
        if packet.is_keyframe:
            return packet
        if packet.dts is not None and packet.dts > start:
            return None
    return None


def _first_whole(
    video: OpenVideo, items: Iterator[TimedFrame | Damaged], entry: int, start: int
) -> list[TimedFrame | Damaged]:
    """The first frame that is correct although decoding began at tick ``entry``, and any frame decoded together with
    it.

    Empty if that frame comes after tick ``start``. Containers flag packets as key frames that are not: some decoders
    return grey pictures for them, others errors. Neither means that the file is damaged.
    """
    for item in items:
        if item.tick > start:
            break
        if not isinstance(item, TimedFrame):
            continue
        if is_key_picture(item.frame):
            return [item]
        if item.frame.pict_type == PictureType.NONE:
            opening = [item, *itertools.islice(items, 1)]
            if _are_nameless([each.frame for each in opening if isinstance(each, TimedFrame)]):
                return opening
            continue
        # This decoder returns pictures only once they are (nearly) complete: with intra refresh, the first comes long
        # after the entry.
        waits = video.stream.codec_context.name in WAITING_DECODERS and item.tick > entry
        if waits and item.tick + SETTLING * (item.tick - entry) <= start:
            return [item]
    return []


@dataclass(frozen=True)
class _Doubt:
    """A packet that is flagged as a key frame but does not decode to one by itself."""

    tick: int
    start_s: float | None


def _keys_from(
    file: MediaFile, start_s: float | None, end_s: float | None, threads: int
) -> Iterator[TimedFrame | Damaged | Skipped]:
    """Yield key frames, each decoded by itself, as long as the container's flags are right."""
    after: int | None = None
    while True:
        doubt = yield from _keys_alone(file, start_s, end_s, after)
        if doubt is None or (yield from _keys_among_all(file, doubt, end_s, threads)):
            return
        start_s, after = doubt.start_s, doubt.tick


def _keys_alone(
    file: MediaFile, start_s: float | None, end_s: float | None, after: int | None
) -> Generator[TimedFrame | Damaged | Skipped, None, _Doubt | None]:
    """Yield key frames after tick ``after``, each decoded by itself, up to the first doubtful packet."""
    if start_s is not None:
        with open_video(file) as video:
            if video.timed and start_s / video.time_base > video.stream.start_time:
                packets = _packets_from(video, math.floor(start_s / video.time_base), end_s)
                if packets is not None:
                    return (yield from _key_frames(video, packets, after))
    with open_video(file) as video:
        if not video.timed:
            # How many frames are shown before a key frame that is stored before them, only decoding tells.
            return _Doubt(_BEFORE_ALL, None)
        video.reads_until(end_s)
        return (yield from _key_frames(video, _packets(video), after))


def _keys_among_all(
    file: MediaFile, doubt: _Doubt, end_s: float | None, threads: int
) -> Generator[TimedFrame | Damaged | Skipped, None, bool]:
    """Find out what a doubtful packet is, by decoding all frames up to it.

    If it is not a key frame, the container's flags are wrong: decodes all frames to the end and returns True. If it is
    damaged, yields ``Damaged`` and returns False.
    """
    is_false = doubt.start_s is None
    for item in frames_from(file, doubt.start_s, end_s, threads=threads):
        if item.tick < doubt.tick:
            continue
        if not is_false and (isinstance(item, Damaged) or item.tick > doubt.tick):
            yield Damaged(doubt.tick)
            return False
        is_false = True
        if isinstance(item, TimedFrame) and not is_key_picture(item.frame):
            yield Skipped(item.video, item.tick, item.length)
        else:
            yield item
    if not is_false:
        yield Damaged(doubt.tick)
    return True


def _packets_from(video: OpenVideo, start: int, end_s: float | None) -> Iterator[Any] | None:
    """Packets from tick ``start`` or earlier on; None if the file must be read from the beginning."""
    for packets in _entries(video, start, end_s):
        first = next(packets, None)
        tick = None if first is None else video.packet_tick(first)
        if first is not None and tick is not None and tick <= start:
            return itertools.chain([first], packets)
    return None


def _key_frames(
    video: OpenVideo, packets: Iterator[Any], after: int | None
) -> Generator[TimedFrame | Damaged | Skipped, None, _Doubt | None]:
    """Yield key frames, each decoded by itself, so that none waits in the decoder for frames that never come.

    Ends early, with a ``_Doubt``, at a packet flagged as a key frame that does not decode to one: the flag is wrong, or
    the packet is damaged.
    """
    decoder = video.stream.codec_context
    # If frames are timed by the order of packets, the decoder's reordering delays them.
    delay = decoder.reorder_depth * video.period if video.clock_is_dts else 0
    before: int | None = None
    for packet in packets:
        if packet.size == 0:
            continue
        at = video.packet_tick(packet)
        tick = at + delay if at is not None else _after(before, video)
        before = tick
        if packet.is_discard or (after is not None and tick <= after):
            # An edit list hides this packet.
            continue
        if not packet.is_keyframe:
            yield Skipped(video, tick, packet.duration or video.period)
            continue
        frame = _decoded_alone(decoder, packet)
        if frame is None:
            return _Doubt(tick, float(tick * video.time_base) if video.timed else None)
        if frame.is_corrupt:
            yield Damaged(tick)
        else:
            yield TimedFrame(video, frame, tick, packet.duration or video.period)
    return None


def _decoded_alone(decoder: Any, packet: Any) -> Any | None:
    """The key frame in a packet; None if it is another kind of frame or cannot be decoded."""
    try:
        frames = [*decoder.decode(packet), *decoder.decode(None)]
    except FFmpegError as error:
        if error.errno == ENOMEM:
            raise MemoryError from error
        frames = []
    decoder.flush_buffers()
    return frames[0] if frames and (is_key_picture(frames[0]) or _are_nameless(frames)) else None


def _shown_after(packets: Iterator[Any], tick: int) -> Iterator[Any]:
    # In an open GOP, frames shown before the key frame refer to the GOP before, which was not read. They would be
    # decoded wrongly, and all of them lie before the start.
    for packet in packets:
        if packet.size == 0 or packet.pts is None or packet.pts >= tick:
            yield packet


def _packets(video: OpenVideo) -> Iterator[Any]:
    """Yield the packets of the video stream and at last an empty one. Continues after errors of the demuxer."""
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
    clock = _Clock(video)
    for packet in packets:
        clock.count(packet)
        if packet.is_corrupt:
            # The container noticed damage, for example missing transport packets, which a decoder may miss.
            yield Damaged(clock.packet_tick(packet))
        try:
            frames = packet.decode()
        except FFmpegError as error:
            if error.errno == ENOMEM:
                raise MemoryError from error
            yield Damaged(clock.packet_tick(packet))
            continue
        for frame in frames:
            tick = clock.frame_tick(frame)
            if frame.is_corrupt:
                yield Damaged(tick)
            else:
                yield TimedFrame(video, frame, tick, frame.duration or video.period)


class _Clock:
    """Times of frames, also in streams without timestamps."""

    def __init__(self, video: OpenVideo) -> None:
        self._video = video
        self._before: int | None = None
        self._counted = 0
        if not video.timed:
            video.stream.codec_context.copy_opaque = True

    def count(self, packet: Any) -> None:
        """Register a packet before it is decoded; needed for streams without timestamps."""
        if not self._video.timed and packet.size:
            packet.opaque = self._counted
            self._counted += packet.duration or self._video.period

    def packet_tick(self, packet: Any) -> int:
        """The time in ticks of a packet that cannot be decoded."""
        at = self._video.packet_tick(packet)
        return at if at is not None else _after(self._before, self._video)

    def frame_tick(self, frame: Any) -> int:
        """The time in ticks of a decoded frame. Call it once for each frame, in order."""
        tick = frame.dts if self._video.clock_is_dts else frame.pts
        if tick is None:
            tick = _after(self._before, self._video)
            # A key frame is shown no earlier than it is stored: frames lost before it left a gap.
            if frame.opaque is not None and (self._before is None or is_key_picture(frame)):
                tick = max(tick, frame.opaque)
        self._before = tick
        return tick


def _after(before: int | None, video: OpenVideo) -> int:
    """The time of a frame without a timestamp: one nominal frame after the previous one, or the start."""
    return before + video.period if before is not None else (video.stream.start_time or 0)
