"""Encrypted video is refused as such, in every container that says so, and nothing else is."""

from __future__ import annotations

import random
import struct
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from support.media import VideoSpec, make_video, run_ffmpeg
from support.transport_streams import scramble, video_packets

from malmm.operators.media.container_structure import elements
from malmm.operators.media.probe import probe
from malmm.operators.media.reader import SpanRequest, decode_span
from malmm.pipeline.schema.errors import MediaError

FIELD = Path(__file__).parents[2] / "data" / "media"
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


def by_blocks(folder: Path) -> Path:
    """As HLS has it: another scheme under the same boxes, in fragments."""
    path = fragmented(folder)
    data = path.read_bytes()
    assert data.count(b"schm") == 1
    at = data.index(b"schm")
    path.write_bytes(data[:at] + data[at : at + 12].replace(b"cenc", b"cbcs") + data[at + 12 :])
    return path


def fragment_alone(folder: Path) -> Path:
    """A segment of a stream, whose index lies in another file."""
    data = (FIELD / "sample_fragmented_sgpd_v2.mp4").read_bytes()
    path = folder / "segment3.m4s"
    path.write_bytes(data[data.index(b"moof") - 4 :])
    return path


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
    data = transport(folder)
    scramble(data, video_packets(data))
    path = folder / "scrambled.ts"
    path.write_bytes(data)
    return path


def scrambled_on_disc(folder: Path) -> Path:
    """The same as discs have it, each packet behind four bytes of its time."""
    data = scrambled(folder).read_bytes()
    path = folder / "scrambled.m2ts"
    path.write_bytes(b"".join(bytes(4) + data[at : at + 188] for at in range(0, len(data), 188)))
    return path


def scrambled_beside_sound(folder: Path) -> Path:
    """Of which the sound, most of the packets, is clear."""
    still = ("-f", "lavfi", "-i", "color=size=64x48:rate=12:duration=4")
    path = folder / "plain.ts"
    run_ffmpeg(*still, "-f", "lavfi", "-i", "anoisesrc=d=4", "-c:a", "mp2", "-b:a", "384k", path)
    data = bytearray(path.read_bytes())
    video = video_packets(data)
    assert len(video) < len(data) / 188 / 3
    scramble(data, video)
    path.write_bytes(data)
    return path


def windows_media(folder: Path) -> Path:
    """An ASF file whose header has a further object, of the kind that says how its content is encrypted."""
    path = folder / "film.wmv"
    run_ffmpeg("-i", make_video(folder, VideoSpec(duration_s=2.0)), "-c:v", "wmv2", path)
    data = path.read_bytes()
    said = uuid.UUID("2211B3FB-BD23-11D2-B4B7-00A0C955FC6E").bytes_le + struct.pack("<Q", 40) + bytes(16)
    size, count = struct.unpack_from("<QI", data, 16)
    head = data[:16] + struct.pack("<QI", size + len(said), count + 1) + data[28:size]
    path.write_bytes(head + said + data[size:])
    return path


def whole_segment(folder: Path, blocks: int = 12_345) -> Path:
    """An HLS segment under AES-128 cannot be told from noise in whole blocks."""
    path = folder / "segment7.ts"
    path.write_bytes(random.Random(4).randbytes(16 * blocks))
    return path


def short_segment(folder: Path) -> Path:
    return whole_segment(folder, blocks=300)


def ciphered_segment(folder: Path) -> Path:
    """One that ffmpeg made."""
    (folder / "key").write_bytes(bytes.fromhex(KEY))
    (folder / "info").write_text(f"key\n{folder / 'key'}\n")
    run_ffmpeg(
        *("-i", make_video(folder, VideoSpec(duration_s=4.0)), "-c", "copy", "-hls_time", "2"),
        *(
            "-hls_key_info_file",
            folder / "info",
            "-hls_segment_filename",
            folder / "part%d.ts",
            folder / "list.m3u8",
        ),
    )
    assert "METHOD=AES-128" in (folder / "list.m3u8").read_text()
    return folder / "part0.ts"


def playlist(folder: Path) -> Path:
    path = folder / "list.m3u8"
    path.write_text(
        '#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXT-X-KEY:METHOD=AES-128,URI="key"\n#EXTINF:6,\na.ts\n#EXT-X-ENDLIST\n'
    )
    return path


ENCRYPTED: list[tuple[Callable[[Path], Path], str]] = [
    (common, "Common Encryption, cenc"),
    (fragmented, "Common Encryption, cenc"),
    (by_blocks, "Common Encryption, cbcs"),
    (fragment_alone, "Common Encryption of its samples"),
    (fairplay, "FairPlay"),
    (matroska, "ContentEncryption"),
    (sample_aes, "sample AES"),
    (scrambled, "scrambled"),
    (scrambled_on_disc, "scrambled"),
    (scrambled_beside_sound, "scrambled"),
    (windows_media, "Windows Media DRM"),
    (whole_segment, "AES-128"),
    (short_segment, "AES-128"),
    (ciphered_segment, "AES-128"),
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
