"""Open an untrusted video file and choose its video stream."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.error import FFmpegError
from av.stream import Discard, Disposition

from malmm.operators.media.encryption import check_encryption, encrypted_unreadable
from malmm.operators.media.files import MediaFile, check_local, denied, empty_file, local_path, open_bytes
from malmm.operators.media.ranges import RangeReader, open_ranges
from malmm.operators.media.truncation import cut_short
from malmm.pipeline.schema.errors import MediaError

__all__ = ["OpenVideo", "open_video"]

# Demuxers that read one file and nothing else. Playlists (hls, concat, dash, image2, ...) are left out on purpose: a
# file must not make us open other files or addresses. Audio formats are included, so that the error for an audio file
# can say what it is.
FORMATS = (
    "mov", "matroska", "webm", "avi", "flv", "live_flv", "kux", "mpegts", "mpegtsraw", "mpeg", "mpegvideo",
    "h264", "hevc", "vvc", "obu", "av1", "ivf", "m4v", "vc1", "asf", "ogg", "mxf", "nut", "rm", "dv", "gxf",
    "wtv", "h263", "h261", "roq", "swf", "y4m", "yuv4mpegpipe",
    "mp3", "wav", "w64", "flac", "aac", "aiff", "amr", "ac3", "eac3", "caf", "au", "ape", "wv", "tta",
)  # fmt: skip

INDEX_GAP_S = 15
# A rate above this, in frames a second, is checked against the guessed rate.
FASTEST = 1000
STILL_BRANDS = frozenset(("avif", "avis", "heic", "heix", "heim", "heis", "mif1", "msf1"))


@dataclass(frozen=True)
class OpenVideo:
    """An open file and its video stream. Ticks are units of ``time_base``."""

    uri: str
    container: Any
    stream: Any
    source: RangeReader | None = None

    @property
    def time_base(self) -> Fraction:
        """Seconds per tick."""
        return self.stream.time_base

    @property
    def timed(self) -> bool:
        """Whether packets have timestamps. Raw streams have none, so they cannot be entered in the middle."""
        return self.stream.start_time is not None

    @property
    def clock_is_dts(self) -> bool:
        """Whether frames are timed by the order of their packets (DTS): AVI has no presentation times."""
        return not {"avi", "asf"}.isdisjoint(self.container.format.name.split(","))

    @property
    def transport_id(self) -> int | None:
        """The stream's packet identifier (PID) in an MPEG transport stream; None in other containers."""
        return self.stream.id if "mpegts" in self.container.format.name.split(",") else None

    @property
    def rate(self) -> Fraction:
        """Nominal frames a second; 25 if the file does not say."""
        stream = self.stream
        # A raw stream's container rate is only the demuxer's default; its own header is right.
        own = None if self.timed else stream.codec_context.framerate
        rate = Fraction(own or stream.average_rate or stream.guessed_rate or 25)
        # For raw DV the average rate is the rate of its ticks.
        return min(rate, Fraction(stream.guessed_rate or rate)) if rate > FASTEST else rate

    @property
    def period(self) -> int:
        """Ticks per frame at the nominal rate, at least one."""
        return max(1, round(1 / self.rate / self.time_base))

    def reads_until(self, end_s: float | None) -> None:
        """Declare that the header is read and that packets are wanted until ``end_s``, to limit read-ahead."""
        if self.source is not None:
            self.source.settled(None if end_s is None else self._position_of(end_s))

    def _position_of(self, end_s: float) -> int | None:
        """Position in the file of the packets at ``end_s``; None if the container's index does not say."""
        entries = self.stream.index_entries
        if not len(entries) or not self.timed:
            return None
        wanted = int((end_s + 1) / self.time_base)
        place = bisect.bisect_left(range(len(entries)), wanted, key=lambda index: entries[index].timestamp)
        # An index built while reading has gaps; an entry behind a gap lies too far ahead.
        if place == len(entries) or (entries[place].timestamp - wanted) * self.time_base > INDEX_GAP_S:
            return None
        return entries[place].pos + entries[place].size

    def packet_tick(self, packet: Any) -> int | None:
        """Presentation time of a packet in ticks; None if the file does not say."""
        return packet.dts if self.clock_is_dts or packet.pts is None else packet.pts


@contextlib.contextmanager
def open_video(file: MediaFile) -> Iterator[OpenVideo]:
    """Open a file's video stream. The demuxer discards all other streams.

    Raises MediaError with kind ``missing``, ``empty_file``, ``not_a_video``, ``no_video_stream``, ``encrypted``,
    ``truncated``, ``decode_error``, ``denied`` or ``unreachable``. The last is also raised at the end of the block, if
    the store failed and the demuxer took that for the end of the file.
    """
    uri = file.uri
    with contextlib.ExitStack() as stack:
        path = local_path(uri)
        reader: RangeReader | None = None
        source: Any
        if path is not None:
            check_local(uri, path)
            source = f"file:{path.absolute()}"
        else:
            source = reader = stack.enter_context(open_ranges(uri, file.cache))
            if reader.size_bytes == 0:
                raise empty_file(uri)
        try:
            container = stack.enter_context(
                av.open(
                    source,
                    container_options={"protocol_whitelist": "file", "format_whitelist": ",".join(FORMATS)},
                    metadata_errors="replace",
                )
            )
        except (FFmpegError, UnicodeError) as error:
            _raise_error_of(reader)
            raise _refusal(uri, error) from error
        stream = _video_stream(uri, container)
        bytes_of: Any = open_bytes(uri) if reader is None else contextlib.nullcontext(reader)
        with bytes_of as handle:
            check_encryption(uri, handle, container.format.name.split(","), stream)
        yield OpenVideo(uri, container, stream, reader)
        _raise_error_of(reader)


def _raise_error_of(reader: RangeReader | None) -> None:
    if reader is not None and reader.error is not None:
        raise reader.error


def _video_stream(uri: str, container: Any) -> Any:
    brand = container.metadata.get("major_brand", "").strip().lower()
    if brand in STILL_BRANDS:
        raise MediaError(f"{uri} is a still picture ({brand}), not a video", uri=uri, kind="not_a_video")
    best = container.streams.best("video")
    candidates = [*([best] if best is not None else []), *container.streams.video]
    pictures = [stream for stream in candidates if not stream.disposition & Disposition.attached_pic]
    if not pictures:
        kinds = sorted({stream.type for stream in container.streams if stream not in candidates})
        holds = f"only {' and '.join(kinds)}" if kinds else "no stream at all"
        cover = " and a cover picture" if candidates else ""
        raise MediaError(
            f"{uri} holds {holds}{cover}, no video: leave it out of the sources",
            uri=uri,
            kind="no_video_stream",
        )
    chosen = pictures[0]
    if chosen.codec_context is None:
        raise MediaError(
            f"{uri} is in a codec that this FFmpeg cannot decode: convert it, for instance to H.264",
            uri=uri,
            kind="decode_error",
        )
    for stream in container.streams:
        if stream.index != chosen.index:
            stream.discard = Discard.all
    return chosen


def _refusal(uri: str, error: Exception) -> MediaError:
    if isinstance(error, PermissionError):
        # A network file system may refuse access that the file's mode allows.
        return denied(uri)
    known = encrypted_unreadable(uri) or cut_short(uri)
    if known is not None:
        return known
    if isinstance(error, OSError):
        return MediaError(f"{uri} cannot be read: {error.strerror}", uri=uri, kind="decode_error")
    return MediaError(
        f"{uri} is not a video file that can be read here (text, pictures, playlists and unknown formats "
        "are refused): leave it out of the sources or convert it, for instance to MP4",
        uri=uri,
        kind="not_a_video",
    )
