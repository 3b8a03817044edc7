from __future__ import annotations

import json

import pytest

from malmm.pipeline.indexing.run_reports import IndexReport
from malmm.pipeline.schema.progress import Progress
from malmm.pipeline.schema.records import Failure


def failure(kind: str = "no_frames") -> Failure:
    return Failure("aa" * 12, None, "/videos/a.mp4", "decode", kind, "why")


@pytest.mark.parametrize(
    ("counts", "failures", "code"),
    [
        ({}, 0, 0),
        ({"videos_unchanged": 3}, 0, 0),
        ({"segments_indexed": 3}, 0, 0),
        ({}, 1, 1),
        ({"segments_indexed": 1}, 1, 3),
        ({"segments_resumed": 1}, 1, 3),
        ({"videos_unchanged": 1}, 1, 3),
        ({"videos_indexed": 1}, 1, 3),
        ({"segments_indexed": 1, "interrupted": True}, 0, 130),
        ({"interrupted": True}, 1, 130),
    ],
)
def test_exit_code(counts: dict[str, int], failures: int, code: int) -> None:
    report = IndexReport("archive", "debug", failures=[failure()] * failures, **counts)  # type: ignore[arg-type]
    assert report.exit_code == code


def test_failures_are_counted_by_kind_the_commonest_first() -> None:
    kinds = ["no_frames", "truncated", "truncated"]
    report = IndexReport("archive", "debug", failures=[failure(kind) for kind in kinds])
    assert list(report.failures_by_kind().items()) == [("truncated", 2), ("no_frames", 1)]


def test_a_report_is_json() -> None:
    report = IndexReport("archive", "debug", video_s=60.0, indexing_s=4.0, failures=[failure()])
    content = json.loads(json.dumps(report.to_dict()))
    assert content["times_real_time"] == 15.0
    assert content["exit_code"] == 1
    assert content["failures"][0]["kind"] == "no_frames"
    assert content["failures"][0]["uri"] == "/videos/a.mp4"


def test_pace_is_unknown_before_there_is_any() -> None:
    assert Progress("indexing", video_s_total=60.0, elapsed_s=3.0).times_real_time is None
    assert Progress("indexing", video_s_total=60.0, elapsed_s=3.0).left_s is None
    assert IndexReport("archive", "debug").times_real_time is None


def test_time_left_is_at_the_pace_so_far() -> None:
    progress = Progress("indexing", video_s_done=20.0, video_s_total=60.0, elapsed_s=4.0)
    assert progress.times_real_time == 5.0
    assert progress.left_s == 8.0
