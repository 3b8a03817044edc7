"""Of a transport stream that is scrambled somewhere, no picture is stored that another player would not show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.media import VideoSpec, make_video
from support.transport_streams import PACKET_BYTES, scramble, video_packets

from malmm.operators.media.files import MediaFile
from malmm.operators.media.probe import probe
from malmm.operators.media.reader import DecodedSpan, SpanRequest, decode_span
from malmm.operators.media.scrambling import begins_scrambled, scrambled, scrambled_in_part
from malmm.pipeline.schema.errors import MediaError

LENGTH_S, SPAN_S = 12.0, 2.0
VIDEO = 0x100


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    return make_video(folder, VideoSpec("plain.ts", duration_s=LENGTH_S, sound_s=LENGTH_S))


def scrambled_between(plain: Path, folder: Path, begin: float, end: float) -> str:
    """A copy of which these shares of the video's packets are scrambled."""
    data = bytearray(plain.read_bytes())
    packets = video_packets(data)
    scramble(data, packets[int(begin * len(packets)) : int(end * len(packets))])
    path = folder / f"{begin}-{end}.ts"
    path.write_bytes(data)
    return str(path)


def span(uri: str, start_s: float) -> DecodedSpan:
    return decode_span(SpanRequest(uri, start_s, start_s + SPAN_S, 2.0, 24))


@pytest.mark.parametrize(
    ("begin", "end"), [(0, 1), (0.02, 1), (0.5, 1), (0.8, 1), (0, 0.3), (0.4, 0.6), (0.3, 0.9)]
)
def test_a_file_that_is_scrambled_from_anywhere_on_is_refused(
    plain: Path, tmp_path: Path, begin: float, end: float
) -> None:
    uri = scrambled_between(plain, tmp_path, begin, end)
    with pytest.raises(MediaError, match=r"is encrypted \(.*scrambled") as caught:
        probe(uri)
    assert caught.value.kind == "encrypted"


@pytest.mark.parametrize(("begin", "end"), [(0.2, 0.28), (0.45, 0.5), (0.6, 0.7), (0.85, 0.9)])
def test_a_span_with_scrambled_packets_is_refused_and_the_others_are_as_they_were(
    plain: Path, tmp_path: Path, begin: float, end: float
) -> None:
    uri = scrambled_between(plain, tmp_path, begin, end)
    info = probe(uri)
    assert info == probe(str(plain))
    refused = 0
    for number in range(int(LENGTH_S / SPAN_S)):
        start_s = info.start_s + number * SPAN_S
        wanted = span(str(plain), start_s)
        problem: MediaError | None = None
        try:
            found = span(uri, start_s)
        except MediaError as error:
            problem = error
        if problem is not None:
            assert problem.kind == "encrypted"
            assert "scrambled" in str(problem)
            refused += 1
            # The scrambled packets lie in it, or in the group of pictures before it.
            assert begin * LENGTH_S - 1 <= (number + 1) * SPAN_S
            assert number * SPAN_S <= end * LENGTH_S + 1
            continue
        assert found.problem is None
        np.testing.assert_array_equal(found.frames, wanted.frames)
        np.testing.assert_array_equal(found.timestamps_s, wanted.timestamps_s)
    assert 1 <= refused <= 2


def test_scrambled_sound_beside_a_clear_picture_does_not_matter(plain: Path, tmp_path: Path) -> None:
    data = bytearray(plain.read_bytes())
    clear = {*video_packets(data)}
    scramble(data, [at for at in range(3 * PACKET_BYTES, len(data), PACKET_BYTES) if at not in clear])
    path = tmp_path / "sound.ts"
    path.write_bytes(data)
    assert scrambled(MediaFile(str(path)), VIDEO) is None
    assert scrambled(MediaFile(str(path)), VIDEO + 1) is not None


@pytest.mark.parametrize("step", [188, 192, 204])
@pytest.mark.parametrize("cut", [0, 1, 100, 187])
def test_packets_are_found_in_every_layout_and_from_within_one(
    plain: Path, tmp_path: Path, step: int, cut: int
) -> None:
    data = bytearray(plain.read_bytes())
    scramble(data, video_packets(data))
    packets = (bytes(data[at : at + PACKET_BYTES]) for at in range(0, len(data), PACKET_BYTES))
    padding = bytes(step - PACKET_BYTES)
    padded = b"".join(padding + each if step == 192 else each + padding for each in packets)[cut:]
    path = tmp_path / "stream.ts"
    path.write_bytes(padded)
    assert begins_scrambled(padded)
    assert scrambled(MediaFile(str(path)), VIDEO) is not None
    assert scrambled_in_part(MediaFile(str(path)), VIDEO, 0.0, 1.0) is not None


@pytest.mark.parametrize("data", [b"", b"G", b"G" * 1000, bytes(5000), bytes(range(256)) * 40])
def test_other_data_is_not_scrambled(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.ts"
    path.write_bytes(data)
    assert not begins_scrambled(data)
    assert scrambled(MediaFile(str(path)), VIDEO) is None
    assert scrambled_in_part(MediaFile(str(path)), VIDEO, 0.0, 1.0) is None
