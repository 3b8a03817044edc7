"""Opening a video file without trusting it."""

from __future__ import annotations

import bisect
import contextlib
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
from av.error import FFmpegError
from av.stream import Discard, Disposition

from malmm.operators.media.ranges import RangeReader, open_ranges
from malmm.pipeline.schema.errors import MediaError

__all__ = ["OpenVideo", "cut_short", "local_path", "open_video"]

# Demuxers that read one file and nothing else. Playlists (hls, concat, dash, image2, ...) are left out on
# purpose: a file of an archive must not make us open other files or addresses. Sound formats are in, so
# that a sound file is called one.
FORMATS = (
    "mov", "matroska", "webm", "avi", "flv", "live_flv", "kux", "mpegts", "mpegtsraw", "mpeg", "mpegvideo",
    "h264", "hevc", "vvc", "obu", "av1", "ivf", "m4v", "vc1", "asf", "ogg", "mxf", "nut", "rm", "dv", "gxf",
    "wtv", "h263", "h261", "roq", "swf", "y4m", "yuv4mpegpipe",
    "mp3", "wav", "w64", "flac", "aac", "aiff", "amr", "ac3", "eac3", "caf", "au", "ape", "wv", "tta",
)  # fmt: skip

INDEX_GAP_S = 15
STILL_BRANDS = frozenset(("avif", "avis", "heic", "heix", "heim", "heis", "mif1", "msf1"))


@dataclass(frozen=True)
class OpenVideo:
    """An open file and the stream of it that is the video. Ticks are units of ``time_base``."""

    uri: str
    container: Any
    stream: Any
    source: RangeReader | None = None

    @property
    def time_base(self) -> Fraction:
        """Seconds a tick."""
        return self.stream.time_base

    @property
    def timed(self) -> bool:
        """Whether packets carry times: raw streams do not, and so cannot be entered in the middle."""
        return self.stream.start_time is not None

    @property
    def clock_is_dts(self) -> bool:
        """AVI has no presentation times: frames are timed by the order of their packets."""
        return "avi" in self.container.format.name.split(",")

    @property
    def rate(self) -> Fraction:
        """Nominal frames a second, 25 where the file says nothing."""
        stream = self.stream
        # A raw stream's container rate is a default of the demuxer; its own header knows better.
        own = None if self.timed else stream.codec_context.framerate
        return Fraction(own or stream.average_rate or stream.guessed_rate or 25)

    @property
    def period(self) -> int:
        """Ticks of a frame at the nominal rate, at least one."""
        return max(1, round(1 / self.rate / self.time_base))

    def reads_until(self, end_s: float | None) -> None:
        """Say that the head of the file is read and that packets are wanted until ``end_s``."""
        if self.source is not None:
            self.source.settled(None if end_s is None else self._position_of(end_s))

    def _position_of(self, end_s: float) -> int | None:
        """Where in the file the packets of ``end_s`` lie, as far as the container's index tells."""
        entries = self.stream.index_entries
        if not len(entries) or not self.timed:
            return None
        wanted = int((end_s + 1) / self.time_base)
        place = bisect.bisect_left(range(len(entries)), wanted, key=lambda index: entries[index].timestamp)
        # An index made while reading has gaps, and what lies beyond one is far off.
        if place == len(entries) or (entries[place].timestamp - wanted) * self.time_base > INDEX_GAP_S:
            return None
        return entries[place].pos + entries[place].size

    def packet_tick(self, packet: Any) -> int | None:
        """When the packet is presented, as far as the file tells."""
        return packet.dts if self.clock_is_dts or packet.pts is None else packet.pts


def local_path(uri: str) -> Path | None:
    """The path of a local file given plainly or as ``file://``; None for other schemes."""
    if uri.startswith("file://"):
        return Path(uri.removeprefix("file://"))
    return None if "://" in uri else Path(uri)


@contextlib.contextmanager
def open_video(uri: str) -> Iterator[OpenVideo]:
    """Open a file's video stream; other streams are discarded by the demuxer.

    Raises MediaError with kind ``missing``, ``empty_file``, ``not_a_video``, ``no_video_stream``,
    ``truncated``, ``decode_error``, ``denied`` or ``unreachable``; the last also at the end, when the store failed
    meanwhile and the demuxer took it for the end of the file.
    """
    with contextlib.ExitStack() as stack:
        path = local_path(uri)
        reader: RangeReader | None = None
        source: Any
        if path is not None:
            _check_local(uri, path)
            source = f"file:{path.absolute()}"
        else:
            source = reader = stack.enter_context(open_ranges(uri))
            if reader.size_bytes == 0:
                raise _empty(uri)
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
        yield OpenVideo(uri, container, _video_stream(uri, container), reader)
        _raise_error_of(reader)


def _raise_error_of(reader: RangeReader | None) -> None:
    if reader is not None and reader.error is not None:
        raise reader.error


def _check_local(uri: str, path: Path) -> None:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError(f"no such file: {uri}", uri=uri, kind="missing") from error
    except PermissionError as error:
        raise _denied(uri) from error
    except (OSError, ValueError) as error:
        raise MediaError(f"{uri} cannot be reached: {error}", uri=uri, kind="decode_error") from error
    if stat.S_ISDIR(found.st_mode):
        raise MediaError(
            f"{uri} is a directory, not a video: give it to the listing, or name one file of it",
            uri=uri,
            kind="not_a_video",
        )
    if not stat.S_ISREG(found.st_mode):
        raise MediaError(f"{uri} is not a regular file: copy it to one", uri=uri, kind="not_a_video")
    if found.st_size == 0:
        raise _empty(uri)
    if not os.access(path, os.R_OK):
        raise _denied(uri)


def _denied(uri: str) -> MediaError:
    return MediaError(f"{uri} may not be read: give this user read permission", uri=uri, kind="denied")


def _empty(uri: str) -> MediaError:
    return MediaError(f"{uri} is empty (0 bytes): copy it again from its source", uri=uri, kind="empty_file")


@contextlib.contextmanager
def _open_bytes(uri: str) -> Iterator[IO[bytes]]:
    try:
        path = local_path(uri)
        handle: Any = path.open("rb") if path is not None else open_ranges(uri)
    except FileNotFoundError as error:
        raise MediaError(f"no such file: {uri}", uri=uri, kind="missing") from error
    except PermissionError as error:
        raise _denied(uri) from error
    except (OSError, ValueError) as error:
        raise MediaError(f"{uri} cannot be opened: {error}", uri=uri, kind="decode_error") from error
    with handle:
        yield handle


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


def cut_short(uri: str) -> MediaError | None:
    """The error that says that a file without any decodable frame lacks its rear; None if it does not."""
    with _open_bytes(uri) as handle:
        head = handle.read(4)
        if head != b"\x1a\x45\xdf\xa3" and not _is_cut_iso(handle):
            return None
    return MediaError(
        f"{uri} is cut short: what a player needs is missing at its end; copy it again from its source",
        uri=uri,
        kind="truncated",
    )


def _refusal(uri: str, error: Exception) -> MediaError:
    if isinstance(error, PermissionError):
        # A network file system may refuse what the file's mode allows.
        return _denied(uri)
    cut = cut_short(uri)
    if cut is not None:
        return cut
    if isinstance(error, OSError):
        return MediaError(f"{uri} cannot be read: {error.strerror}", uri=uri, kind="decode_error")
    return MediaError(
        f"{uri} is not a video file that can be read here (text, pictures, playlists and unknown formats "
        "are refused): leave it out of the sources or convert it, for instance to MP4",
        uri=uri,
        kind="not_a_video",
    )


def _is_cut_iso(handle: IO[bytes]) -> bool:
    """Whether this is an MP4 or MOV file without its index, or one whose boxes reach beyond its end."""
    size_bytes = handle.seek(0, os.SEEK_END)
    position = 0
    has_index = False
    while position + 8 <= size_bytes:
        handle.seek(position)
        header = handle.read(16)
        length, name = struct.unpack(">I4s", header[:8])
        if position == 0 and name not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return False
        if length == 1 and len(header) == 16:
            (length,) = struct.unpack(">Q", header[8:])
        if length == 0:
            length = size_bytes - position
        if length < 8 or position + length > size_bytes:
            return True
        has_index = has_index or name == b"moov"
        position += length
    return position > 0 and not has_index
