"""Encrypted video is refused as such, in every container that says so, and nothing else is."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from support.media import VideoSpec, make_video, run_ffmpeg

from malmm.operators.media.container_structure import elements
from malmm.operators.media.probe import probe
from malmm.operators.media.reader import SpanRequest, decode_span
from malmm.pipeline.schema.errors import MediaError

KEY, KEY_ID = "76a6c65c5ea762046bd749a2e632ccbb", "a7e61c373e219033c21091fa607bf3b8"


def common(folder: Path, *options: str) -> Path:
    """An MP4 under Common Encryption, made by ffmpeg."""
    plain = make_video(folder, VideoSpec("plain.mp4", duration_s=2.0))
    path = folder / "encrypted.mp4"
    scheme = ("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", KEY, "-encryption_kid", KEY_ID)
    run_ffmpeg("-i", plain, "-c", "copy", *scheme, *options, path)
    return path


def fragmented(folder: Path) -> Path:
    return common(folder, "-movflags", "frag_keyframe+empty_moov")


def fairplay(folder: Path) -> Path:
    """A purchased film's sample description has another name; its scheme is not told."""
    path = make_video(folder, VideoSpec("film.m4v", codec="mpeg4", duration_s=2.0))
    data = path.read_bytes()
    assert data.count(b"mp4v") == 1
    path.write_bytes(data.replace(b"mp4v", b"drmi"))
    return path


def matroska(folder: Path) -> Path:
    """A Matroska file whose video track says in its last element that it is encrypted with AES."""
    plain = make_video(folder, VideoSpec("plain.mkv", duration_s=2.0))
    data, segment_name, tracks_name = plain.read_bytes(), b"\x18\x53\x80\x67", b"\x16\x54\xae\x6b"
    with plain.open("rb") as handle:
        [segment] = [part for part in elements(handle, 0, len(data)) if part.name == segment_name]
        [tracks] = [part for part in elements(handle, segment.begin, len(data)) if part.name == tracks_name]
        assert tracks.end is not None
        [track] = [part for part in elements(handle, tracks.begin, tracks.end) if part.name == b"\xae"]
    assert track.end is not None
    encodings = element(b"\x6d\x80", element(b"\x62\x40", ENCRYPTION))
    inside = element(b"\xae", data[track.begin : track.end] + encodings)
    begin = data.rindex(tracks_name, 0, tracks.begin)
    body = data[segment.begin : begin] + element(tracks_name, inside) + data[tracks.end :]
    path = folder / "encrypted.mkv"
    path.write_bytes(data[: data.index(segment_name)] + element(segment_name, body))
    return path


def element(name: bytes, content: bytes) -> bytes:
    """An EBML element with a size of eight bytes."""
    return name + (1 << 56 | len(content)).to_bytes(8, "big") + content


ENCRYPTION = element(b"\x50\x33", b"\x01") + element(
    b"\x50\x35", element(b"\x47\xe1", b"\x05") + element(b"\x47\xe2", bytes.fromhex(KEY_ID))
)


def transport(folder: Path) -> bytearray:
    return bytearray(make_video(folder, VideoSpec("plain.ts", duration_s=2.0)).read_bytes())


def sample_aes(folder: Path) -> Path:
    """A transport stream whose programme table calls its H.264 encrypted by samples, type 0xDB for 0x1B."""
    data = transport(folder)
    for at in range(0, len(data), 188):
        if data[at + 1] & 0x40 and data[at + 4 : at + 6] == b"\x00\x02":
            section = data[at + 5 : at + 5 + 3 + ((data[at + 6] & 0x0F) << 8 | data[at + 7])]
            section[section.index(0x1B, 12)] = 0xDB
            section[-4:] = crc(bytes(section[:-4])).to_bytes(4, "big")
            data[at + 5 : at + 5 + len(section)] = section
    path = folder / "sample-aes.ts"
    path.write_bytes(data)
    return path


def crc(data: bytes) -> int:
    """The checksum of transport stream tables."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ 0x04C11DB7 if value & 0x80000000 else value << 1) & 0xFFFFFFFF
    return value


def scrambled(folder: Path) -> Path:
    """A broadcast for subscribers: the content of every video packet is scrambled."""
    data, noise = transport(folder), random.Random(3)
    for at in range(0, len(data), 188):
        if (data[at + 1] & 0x1F) << 8 | data[at + 2] == 0x100:
            data[at + 3] |= 0xC0
            begin = at + 4 + (data[at + 4] + 1 if data[at + 3] & 0x20 else 0)
            data[begin : at + 188] = noise.randbytes(at + 188 - begin)
    path = folder / "scrambled.ts"
    path.write_bytes(data)
    return path


def whole_segment(folder: Path) -> Path:
    """An HLS segment under AES-128 cannot be told from noise in whole blocks."""
    path = folder / "segment7.ts"
    path.write_bytes(random.Random(4).randbytes(16 * 12_345))
    return path


def playlist(folder: Path) -> Path:
    path = folder / "list.m3u8"
    path.write_text(
        '#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-KEY:METHOD=AES-128,URI="key"\n#EXTINF:6,\na.ts\n#EXT-X-ENDLIST\n'
    )
    return path


ENCRYPTED: list[tuple[Callable[[Path], Path], str]] = [
    (common, "Common Encryption, cenc"),
    (fragmented, "Common Encryption, cenc"),
    (fairplay, "FairPlay"),
    (matroska, "ContentEncryption"),
    (sample_aes, "sample AES"),
    (scrambled, "scrambled"),
    (whole_segment, "AES-128"),
    (playlist, "AES-128"),
]


@pytest.mark.parametrize(("make", "how"), ENCRYPTED, ids=lambda value: getattr(value, "__name__", None))
def test_encrypted_video_is_refused(make: Callable[[Path], Path], how: str, tmp_path: Path) -> None:
    path = str(make(tmp_path))
    for read in (probe, lambda uri: decode_span(SpanRequest(uri, 0.0, 2.0, 1.0, 24))):
        with pytest.raises(MediaError, match=rf"is encrypted \(.*{how}") as caught:
            read(path)
        assert caught.value.kind == "encrypted"
        assert path in str(caught.value)


def not_quite(folder: Path) -> Path:
    path = folder / "noise.ts"
    path.write_bytes(random.Random(4).randbytes(16 * 12_345 + 7))
    return path


def open_playlist(folder: Path) -> Path:
    path = folder / "list.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-KEY:METHOD=NONE\n#EXTINF:6,\na.ts\n#EXT-X-ENDLIST\n")
    return path


@pytest.mark.parametrize("make", [not_quite, open_playlist])
def test_what_is_not_encrypted_is_not_called_so(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(MediaError) as caught:
        probe(str(make(tmp_path)))
    assert caught.value.kind == "not_a_video"


@pytest.mark.parametrize("name", ["plain.mp4", "plain.mkv", "plain.ts", "plain.mov"])
def test_plain_files_are_read(name: str, tmp_path: Path) -> None:
    assert probe(str(make_video(tmp_path, VideoSpec(name, duration_s=1.0)))).width == 96


def test_encrypted_sound_beside_a_plain_picture_does_not_matter(tmp_path: Path) -> None:
    path = make_video(tmp_path, VideoSpec("talk.mp4", duration_s=1.0, sound_s=1.0))
    data = path.read_bytes()
    assert data.count(b"mp4a") == 1
    path.write_bytes(data.replace(b"mp4a", b"enca"))
    assert probe(str(path)).width == 96
