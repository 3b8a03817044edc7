"""Decode a span with decord, an alternative for comparison; PyAV is the default.

decord's own timestamps are 32-bit floats counted from the first frame. After an hour of video they are wrong by more
than a tick. So they only serve to check that decord counts frames as the container does; the returned times are the
container's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from malmm.operators.media.container import OpenVideo, open_video
from malmm.operators.media.files import MediaFile, local_path
from malmm.operators.media.frames import TimedFrame, frames_from, is_key_picture
from malmm.operators.media.picture import SquarePictures, orientation_of
from malmm.operators.media.sampling import Cells, sample_ticks
from malmm.operators.media.span import DecodedSpan, SpanRequest
from malmm.pipeline.schema.errors import MediaError

__all__ = ["decode_span_decord"]

# In other containers decord was found to return frames seconds away from the wanted one.
FORMATS = frozenset(("mov", "mp4", "matroska", "webm"))
# Share of frames that decord may replace by copies of others before it raises: as good as zero.
FAULT_TOLERANCE = 1e-9
# Mean difference from PyAV's key frame, in levels, above which it is another picture (of 50 pixels it has up to 7).
UNLIKE = 10


def decode_span_decord(request: SpanRequest) -> DecodedSpan:
    """See ``malmm.operators.media.reader.decode_span``. Raises MediaError for everything that decord cannot do: files
    that are truncated or damaged (it does not always notice), most formats other than MP4 and Matroska, open GOPs,
    hidden frames, and containers with wrong key frame flags."""
    path, start_s, end_s, image_size = request.uri, request.start_s, request.end_s, request.image_size
    with open_video(MediaFile(path)) as video:
        time_base = video.time_base
        ticks, key_ticks = _frame_ticks(video)
        file_end_s = float((int(ticks[-1]) + 3 * video.period) * time_base)
    if file_end_s < end_s:
        raise _refuse(path, f"the file ends at {file_end_s:.1f} s")
    keys = np.searchsorted(ticks, key_ticks)
    reader = _open(path, request.threads)
    _check_agreement(path, reader, ticks, float(time_base))
    cells = Cells.of(start_s, end_s, request.fps, time_base, is_last=request.is_last)
    chosen = sample_ticks(ticks.tolist(), cells)
    if not chosen:
        raise MediaError(
            f"{path} gives no frame between {start_s:.1f} s and {end_s:.1f} s", uri=path, kind="no_frames"
        )
    key = int(keys[np.searchsorted(keys, chosen[0], side="right") - 1])
    entry = _entry(path, float(int(ticks[key]) * time_base), int(ticks[key]))
    pictures = SquarePictures(image_size)
    frames = np.empty((len(chosen), image_size, image_size, 3), np.uint8)
    wanted = {index: position for position, index in enumerate(chosen)}
    for index, picture in _pictures(path, reader, key, chosen[-1]):
        if index != key and index not in wanted:
            continue
        shown = pictures.of(av.VideoFrame.from_ndarray(_without_padding(picture), "rgb24"))
        if index == key:
            _check_likeness(path, shown, SquarePictures(image_size).of(entry.frame))
        if index in wanted:
            frames[wanted[index]] = shown
    timestamps_s = [float(int(ticks[index]) * time_base) for index in chosen]
    return DecodedSpan(frames, np.array(timestamps_s, dtype=np.float64), None, end_s)


def _refuse(path: str, why: str) -> MediaError:
    return MediaError(f"decord cannot read {path}: {why}; use --decoder av", uri=path, kind="decode_error")


def _frame_ticks(video: OpenVideo) -> tuple[np.ndarray, np.ndarray]:
    """The times of all frames, and of key frames, from the packets: int64 ticks in ascending order."""
    if FORMATS.isdisjoint(video.container.format.name.split(",")) or not video.timed:
        raise _refuse(
            video.uri, f"it does not find frames reliably in {video.container.format.long_name} files"
        )
    codec = video.stream.codec_context.codec.canonical_name
    ticks: list[int] = []
    keys: list[int] = []
    try:
        for packet in video.container.demux(video.stream):
            if packet.size == 0 or packet.is_discard:
                continue
            if packet.is_corrupt:
                raise _refuse(video.uri, "it is damaged or cut short")
            if _is_hidden(packet, codec):
                raise _refuse(video.uri, "it holds hidden frames, which decord counts as shown")
            if packet.pts is None:
                raise _refuse(video.uri, "some of its packets have no presentation time")
            if packet.is_keyframe:
                keys.append(packet.pts)
            elif keys and packet.pts < keys[-1]:
                # After a seek decord counts these frames although they are not decoded, and silently returns other
                # frames in place of the wanted ones.
                raise _refuse(
                    video.uri, "its groups of pictures are open, where decord seeks to wrong frames"
                )
            ticks.append(packet.pts)
    except FFmpegError as error:
        raise _refuse(video.uri, f"its packets cannot be read ({error})") from error
    if not ticks:
        raise _refuse(video.uri, "it has no packets")
    if not keys or keys[0] != min(ticks):
        raise _refuse(video.uri, "it does not begin with a key frame")
    return np.sort(np.array(ticks, dtype=np.int64)), np.sort(np.array(keys, dtype=np.int64))


def _is_hidden(packet: Any, codec: str) -> bool:
    """Whether a packet of VP8 or VP9 holds a hidden frame (only used as a reference), which decord counts as shown.

    VP9 usually packs such a frame with a shown one; here only the header of a single frame is read.
    """
    data = memoryview(packet)
    if codec == "vp8":
        return not data[0] >> 4 & 1
    if codec != "vp9" or data[-1] & 0xE0 == 0xC0:
        return False
    # From the top: a marker of two bits, two of the profile (a third follows if both are set), whether a frame that
    # was stored is shown, the type, and whether this one is shown.
    header = data[0] << 1 if data[0] & 0x30 == 0x30 else data[0]
    if data[0] & 0x30 == 0x30 and len(data) > 1:
        header |= data[1] >> 7
    return not header & 0x08 and not header & 0x02


def _entry(path: str, key_s: float, key: int) -> TimedFrame:
    """The key frame at which decord will start, as PyAV decodes it."""
    for item in frames_from(MediaFile(path), key_s):
        if isinstance(item, TimedFrame) and item.tick >= key:
            if orientation_of(item.frame).is_mirrored:
                raise _refuse(path, "its pictures are stored mirrored")
            if _is_coarse(item.frame.format):
                raise _refuse(path, f"it converts colours of {item.frame.format.name} too coarsely")
            if item.tick != key or not is_key_picture(item.frame):
                raise _refuse(path, "what its container calls key frames are other pictures")
            return item
    raise _refuse(path, "it is damaged or cut short")


def _is_coarse(pixels: Any) -> bool:
    """Whether pixels are single bits, or more than two of a row share a colour."""
    return pixels.is_bit_stream or pixels.chroma_width(64) < 32


def _check_likeness(path: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Raise MediaError if decord's picture is another one, or green: a few levels of difference are normal."""
    if np.abs(ours.astype(np.int16) - theirs).mean() > UNLIKE:
        raise _refuse(path, "its pictures are others than the file's")


def _open(path: str, threads: int) -> Any:
    import decord

    local = local_path(path)
    if local is None:
        raise _refuse(path, "it is not a local file")
    decord.logging.set_level(decord.logging.QUIET)
    try:
        return decord.VideoReader(
            str(local.absolute()), ctx=decord.cpu(0), num_threads=threads, fault_tol=FAULT_TOLERANCE
        )
    except (decord.DECORDError, RuntimeError, AssertionError) as error:
        raise _refuse(path, _first_line(error)) from error


def _check_agreement(path: str, reader: Any, ticks: np.ndarray, tick_s: float) -> None:
    if len(reader) != len(ticks):
        raise _refuse(path, f"it counts {len(reader)} frames where the file has {len(ticks)}")
    theirs_s = reader.get_frame_timestamp(np.arange(len(ticks)))[:, 0].astype(np.float64)
    ours_s = (ticks - ticks[0]) * tick_s
    error_s = np.abs(theirs_s - theirs_s[0] - ours_s)
    # Half a frame would be another frame; a 32-bit float's own rounding is far below that.
    if len(ticks) > 1 and error_s.max() > max(float(np.diff(ours_s).mean()) / 2, 1e-3):
        raise _refuse(path, "its timestamps differ from the file's")


def _pictures(path: str, reader: Any, key: int, last: int) -> Iterator[tuple[int, Any]]:
    """Yield every picture from the key frame ``key`` to ``last``, [H, W, 3] and upright, with its index.

    Seeking to frames by index would be faster, but decord skips the frames between by polling, and on a busy machine it
    sometimes stopped short of the frame without raising.
    """
    import decord

    try:
        reader.seek(key)
        for index in range(key, last + 1):
            yield index, reader.next()
    except (decord.DECORDError, decord.DECORDLimitReachedError, RuntimeError, StopIteration) as error:
        raise _refuse(path, _first_line(error)) from error


def _without_padding(picture: Any) -> np.ndarray:
    """The picture [H, W, 3] without padding. decord takes padding at the end of rows for more channels; how much there
    is depends on the width and on the alignment of the processor's vector instructions."""
    shown = picture.asnumpy()
    height, width = shown.shape[:2]
    return np.ascontiguousarray(shown.reshape(height, -1)[:, : 3 * width]).reshape(height, width, 3)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].strip() if str(error).strip() else type(error).__name__
