"""Probe a video file: read its properties from its header and its first frame."""

from __future__ import annotations

from dataclasses import dataclass

from av.error import FFmpegError

from malmm.operators.media.duration import find_end
from malmm.operators.media.encryption import encrypted_unreadable
from malmm.operators.media.file_cache import FileCache
from malmm.operators.media.files import MediaFile
from malmm.operators.media.frames import TimedFrame, frames_from
from malmm.operators.media.picture import Orientation, displayed_size, orientation_of
from malmm.operators.media.scrambling import scrambled
from malmm.operators.media.truncation import cut_short
from malmm.pipeline.schema.errors import MediaError

__all__ = ["VideoInfo", "probe"]

# A stream without a decodable frame is given up after this many packets.
MAX_DAMAGED = 1000


@dataclass(frozen=True)
class VideoInfo:
    """A video's duration and format. Times are seconds on the video's own clock.

    ``start_s`` is the time of the first frame, ``fps`` the average rate. ``width`` and ``height`` are as displayed:
    with square pixels, after the clockwise ``rotation`` (0, 90, 180 or 270 degrees) of the metadata.
    """

    start_s: float
    duration_s: float
    fps: float
    width: int
    height: int
    codec: str
    rotation: int

    @property
    def end_s(self) -> float:
        """The time at which the last frame ends."""
        return self.start_s + self.duration_s


def probe(path: str, cache: FileCache | None = None) -> VideoInfo:
    """Read the header and the first frame of a video file. ``path`` may be any URI that fsspec opens.

    Raises MediaError with kind ``missing``, ``empty_file``, ``not_a_video``, ``no_video_stream``,
    ``encrypted``, ``no_frames``, ``truncated`` or ``decode_error``.
    """
    file, damaged = MediaFile(path, cache), 0
    for item in frames_from(file, None):
        turned = _orientation(item) if isinstance(item, TimedFrame) else None
        if not isinstance(item, TimedFrame) or turned is None:
            damaged += 1
            if damaged >= MAX_DAMAGED:
                break
            continue
        video = item.video
        known = None if video.transport_id is None else scrambled(file, video.transport_id)
        if known is not None:
            raise known
        start = item.tick * video.time_base
        end = find_end(file)
        if end is not None and video.clock_is_dts:
            # Times are in decoding order: all frames are shown as much later as the first one.
            end += start - (video.stream.start_time or 0) * video.time_base
        width, height = displayed_size(item.frame, video.stream.sample_aspect_ratio, turned)
        return VideoInfo(
            start_s=float(start),
            duration_s=max(float(end - start), 0.0) if end is not None else 0.0,
            fps=float(video.rate),
            width=width,
            height=height,
            codec=video.stream.codec_context.codec.canonical_name,
            rotation=turned.degrees,
        )
    known = encrypted_unreadable(path) or cut_short(path)
    if known is not None:
        raise known
    if damaged:
        raise MediaError(
            f"{path}: no frame can be decoded, none of {damaged} packets yields a picture: if another player shows it, "
            "convert it, for instance to H.264; else its encoder or its source is at fault",
            uri=path,
            kind="decode_error",
        )
    raise MediaError(f"{path} holds a video without a single frame: leave it out", uri=path, kind="no_frames")


def _orientation(item: TimedFrame) -> Orientation | None:
    """The frame's orientation; None if the frame is too damaged to be converted."""
    try:
        return orientation_of(item.frame)
    except FFmpegError:
        return None
