from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from support.flow_rows import BROKEN, failing_row, planned
from support.media import VideoSpec, cut, make_video

from malmm.operators.decode import DecodeSettings, decode_segments
from malmm.operators.media.reader import SpanRequest, decode_span
from malmm.operators.probe import probe_files
from malmm.pipeline.schema.rows import DECODED, FILES, PLANNED, Carried, array_at, carried, rows_table

SETTINGS = DecodeSettings(fps=2.0, image_size=56, decoder="av", threads=1)


def rows_of(path: Path) -> list[Carried]:
    probed = probe_files(rows_table([{"uri": str(path), "fingerprint": "first"}], FILES))
    video = carried(probed)[0].video
    assert video is not None
    return planned(video)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Carried]:
    return rows_of(make_video(tmp_path_factory.mktemp("good"), VideoSpec(duration_s=12.0)))


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> list[Carried]:
    """Planned for 12 seconds, of which the file holds some."""
    whole = make_video(tmp_path_factory.mktemp("short"), VideoSpec("whole.mkv", duration_s=12.0))
    return rows_of(cut(whole, 0.6, "short.mkv"))


def decode(*rows: Carried) -> list[pa.Table]:
    return list(decode_segments(rows_table([row.columns() for row in rows], PLANNED), settings=SETTINGS))


def test_one_table_of_one_row_for_each_segment(good: list[Carried]) -> None:
    tables = decode(*good)
    assert len(tables) == len(good) == 3
    for table, row in zip(tables, good, strict=True):
        assert table.schema == DECODED
        assert carried(table) == [row]


def test_frames_are_those_of_the_span(good: list[Carried]) -> None:
    for table, row in zip(decode(*good), good, strict=True):
        segment = row.segment
        assert segment is not None
        span = decode_span(
            SpanRequest(segment.uri, segment.start_s, segment.end_s, 2.0, 56, is_last=segment.is_last)
        )
        np.testing.assert_array_equal(array_at(table, "frames", 0, np.uint8), span.frames)
        assert table["timestamps_s"][0].as_py() == span.timestamps_s.tolist()
        assert table["decoded_end_s"][0].as_py() == segment.end_s
        assert table["problem"][0].as_py() is None
        assert all(segment.start_s <= time <= segment.end_s for time in span.timestamps_s)


def test_frames_are_not_decoded_before_they_are_asked_for(good: list[Carried]) -> None:
    tables = decode_segments(rows_table([row.columns() for row in good], PLANNED), settings=SETTINGS)
    assert next(tables).num_rows == 1


def test_failures_pass_through_untouched(good: list[Carried]) -> None:
    tables = decode(failing_row(), good[0], BROKEN)
    assert [row for table in tables for row in carried(table)] == [failing_row(), good[0], BROKEN]
    assert all(table.schema == DECODED for table in tables)
    assert [table["frames"][0].is_valid for table in tables] == [False, True, False]


def test_a_file_that_is_cut_short_gives_what_it_holds_and_says_so(short: list[Carried]) -> None:
    tables = decode(*short)
    whole, part, nothing = tables
    assert whole["problem"][0].as_py() is None
    [row] = carried(part)
    assert row.failure is None
    assert row.segment is not None
    assert "ends at" in part["problem"][0].as_py()
    assert row.segment.start_s < part["decoded_end_s"][0].as_py() < row.segment.end_s
    [row] = carried(nothing)
    assert row.failure is not None
    assert (row.failure.stage, row.failure.kind) == ("decode", "no_frames")
    assert row.segment == short[2].segment
    assert not nothing["frames"][0].is_valid


def test_one_bad_segment_fails_alone(good: list[Carried], short: list[Carried], tmp_path: Path) -> None:
    gone = rows_of(make_video(tmp_path, VideoSpec(duration_s=1.0)))[0]
    (tmp_path / "video.mp4").unlink()
    outcomes = [row for table in decode(good[0], short[2], gone, good[1]) for row in carried(table)]
    assert [row.failure.kind if row.failure else None for row in outcomes] == [
        None,
        "no_frames",
        "missing",
        None,
    ]
    assert [row.segment for row in outcomes] == [row.segment for row in (good[0], short[2], gone, good[1])]


def test_a_batch_gives_what_each_segment_gives_alone(good: list[Carried], short: list[Carried]) -> None:
    rows = [*good, *short]
    assert decode(*rows) == [table for row in rows for table in decode(row)]


def test_a_fixed_number_of_frames_of_every_segment(good: list[Carried]) -> None:
    rows = rows_table([row.columns() for row in good], PLANNED)
    tables = list(
        decode_segments(rows, settings=replace(SETTINGS, sampling="count", segment_s=5.0, fps=7 / 5))
    )
    assert [table["frames_shape"][0].as_py()[0] for table in tables] == [7, 7, 7]
    for table, row in zip(tables, good, strict=True):
        assert row.segment is not None
        gaps = np.diff([*table["timestamps_s"][0].as_py(), row.segment.end_s])
        assert gaps.max() - gaps.min() < 2 / 24 + 1e-6


def test_key_frames_alone(good: list[Carried]) -> None:
    rows = rows_table([row.columns() for row in good], PLANNED)
    times = [
        time_s
        for table in decode_segments(rows, settings=replace(SETTINGS, sampling="keyframes", fps=24.0))
        for time_s in table["timestamps_s"][0].as_py()
    ]
    assert times == [0.5 * number for number in range(24)]
