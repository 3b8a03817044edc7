"""Find the end of a video: from its header if that is plausible, else from its packets."""

from __future__ import annotations

from fractions import Fraction

import av
from av.error import FFmpegError
from av.stream import Discard

from malmm.operators.media.container import OpenVideo, open_video
from malmm.operators.media.files import MediaFile

__all__ = ["declared_end", "find_end"]

# A header that declares more seconds than this is checked against the packets, before thousands of segments are made.
BELIEVABLE = 24 * 3600
SLACK = Fraction(1, 2)


def declared_end(video: OpenVideo) -> Fraction | None:
    """The end in seconds that the header declares; None if it declares none."""
    stream, container = video.stream, video.container
    if not video.timed:
        # FFmpeg estimates the duration of a raw stream from the bit rate that its header names.
        return None
    if stream.duration is not None and stream.duration > 0:
        return ((stream.start_time or 0) + stream.duration) * video.time_base
    # Matroska and FLV declare only the file's duration, counted from time zero whatever the first timestamp is.
    if container.duration is not None and container.duration > 0:
        return Fraction(container.duration, av.time_base)
    return None


def find_end(file: MediaFile) -> Fraction | None:
    """The end of the video in seconds on its own clock; None if there is no packet.

    A truncated file keeps the end that its header declares, so that the loss is reported.
    """
    with open_video(file) as video:
        declared = declared_end(video)
        if declared is not None and video.stream.duration is not None and declared < BELIEVABLE:
            return declared
        tail = _ends(video, seek=True)
    if tail is None or tail[0] is None:
        with open_video(file) as video:
            tail = _ends(video, seek=False)
    video_end, file_end = tail if tail is not None else (None, None)
    if declared is None or declared >= BELIEVABLE or video_end is None or file_end is None:
        return video_end
    # A file's duration may be that of its audio: if the file reaches it, the video's own end counts.
    return video_end if file_end >= declared - SLACK else declared


def _ends(video: OpenVideo, *, seek: bool) -> tuple[Fraction | None, Fraction | None] | None:
    """The end of the video's packets, and that of all packets; None if seeking does not work."""
    container, stream = video.container, video.stream
    for other in container.streams:
        other.discard = Discard.default
    if seek:
        if not video.timed or not container.duration:
            return None
        try:
            container.seek(int((container.start_time or 0) + container.duration), backward=True)
        except FFmpegError:
            return None
    ends: dict[int, Fraction] = {}
    untimed = 0
    try:
        for packet in container.demux():
            tick = video.packet_tick(packet)
            if packet.size == 0 or packet.time_base is None:
                continue
            if tick is not None:
                length = packet.duration or (video.period if packet.stream_index == stream.index else 0)
                end = (tick + length) * packet.time_base
                ends[packet.stream_index] = max(ends.get(packet.stream_index, end), end)
            elif packet.stream_index == stream.index:
                untimed += 1
    except FFmpegError:
        # The tail is damaged: the file ends at the last packet that was read.
        pass
    if untimed and stream.index not in ends:
        ends[stream.index] = untimed / video.rate
    return ends.get(stream.index), max(ends.values(), default=None)
