from __future__ import annotations

import itertools

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from support.flow_rows import BROKEN, RECIPE_ID, video_at

from malmm.operators.plan_segments import plan_segments, segments_of
from malmm.pipeline.schema.records import Video
from malmm.pipeline.schema.rows import PLANNED, PROBED, Carried, carried, rows_table
from malmm.pipeline.schema.video_plans import VideoPlan, plans_in

seconds = st.floats(0, 1000, allow_nan=False).map(lambda value: round(value, 3))


def plan(
    *videos: Video, done: set[str] | None = None, segment_s: float = 5.0, fps: float = 2.0
) -> list[Carried]:
    table = plan_segments(
        rows_table([Carried(video, None, None).columns() for video in videos], PROBED),
        recipe_id=RECIPE_ID,
        segment_s=segment_s,
        fps=fps,
        done=np.array(sorted(done or ()), "S24"),
    )
    assert table.schema == PLANNED
    return carried(table)


@given(start_s=seconds, duration_s=seconds, segment_s=st.floats(1, 400), fps=st.floats(0.5, 30))
def test_segments_tile_the_video(start_s: float, duration_s: float, segment_s: float, fps: float) -> None:
    video = video_at(start_s=start_s, duration_s=duration_s)
    segments = segments_of(video, RECIPE_ID, segment_s, fps)
    assert segments[0].start_s == start_s
    assert segments[-1].end_s == start_s + duration_s
    for before, after in itertools.pairwise(segments):
        assert before.end_s == after.start_s
    assert [segment.index for segment in segments] == list(range(len(segments)))
    assert [segment.is_last for segment in segments] == [False] * (len(segments) - 1) + [True]
    assert len({segment.segment_id for segment in segments}) == len(segments)


def test_one_row_for_each_segment() -> None:
    rows = plan(video_at(duration_s=12.0), video_at("/videos/b.mp4", duration_s=3.0))
    spans = [(row.segment.uri, row.segment.start_s, row.segment.end_s) for row in rows if row.segment]
    assert spans == [
        ("/videos/a.mp4", 0.0, 5.0),
        ("/videos/a.mp4", 5.0, 10.0),
        ("/videos/a.mp4", 10.0, 12.0),
        ("/videos/b.mp4", 0.0, 3.0),
    ]
    assert all(row.failure is None and row.video is not None for row in rows)


def test_segments_that_are_done_are_left_out_and_the_others_keep_their_place() -> None:
    every = plan(video_at())
    done = {every[1].segment.segment_id, "f" * 24}  # type: ignore[union-attr]
    assert plan(video_at(), done=done) == [every[0], every[2]]
    assert plan(video_at(), done={row.segment.segment_id for row in every if row.segment}) == []


def test_ids_depend_on_content_and_recipe_and_on_nothing_else() -> None:
    ids = {segment.segment_id for segment in segments_of(video_at(), RECIPE_ID, 5.0, 2.0)}
    moved = video_at(width=1, codec="vp9", fps=1.0)
    assert {segment.segment_id for segment in segments_of(moved, RECIPE_ID, 5.0, 2.0)} == ids
    changed = video_at(fingerprint="second")
    assert not {segment.segment_id for segment in segments_of(changed, RECIPE_ID, 5.0, 2.0)} & ids
    assert not {segment.segment_id for segment in segments_of(video_at(), RECIPE_ID[::-1], 5.0, 2.0)} & ids


def test_no_videos_give_no_segments() -> None:
    assert plan() == []


@given(st.sets(st.integers(0, 29)), st.sets(st.integers(30, 60)))
def test_what_is_done_is_found_among_any_ids(done: set[int], others: set[int]) -> None:
    video = video_at(duration_s=30.0)
    every = segments_of(video, RECIPE_ID, 1.0, 2.0)
    ids = {every[place].segment_id for place in done} | {f"{place:024x}" for place in others}
    left = plan(video, done=ids, segment_s=1.0)
    assert [row.segment for row in left] == [one for place, one in enumerate(every) if place not in done]


def test_the_driver_gets_the_plan_before_the_first_segment_and_why_a_file_has_none() -> None:
    video, noted = video_at(), list[tuple[pa.Table, bool]]()
    every = segments_of(video, RECIPE_ID, 5.0, 2.0)
    table = plan_segments(
        rows_table([Carried(video, None, None).columns(), BROKEN.columns()], PROBED),
        recipe_id=RECIPE_ID,
        segment_s=5.0,
        fps=2.0,
        done=np.array([every[1].segment_id], "S24"),
        note=lambda *plans: noted.append(plans),
    )
    assert [row.segment for row in carried(table)] == [every[0], every[2]]
    [(plans, wait)] = noted
    stored = (False, True, False)
    assert wait
    assert plans_in(plans) == [VideoPlan.of(video, every, stored), BROKEN.failure]


@pytest.mark.parametrize("begun", [True, False])
def test_nothing_waits_for_an_archive_that_only_a_later_video_brings_about(begun: bool) -> None:
    # A file that is not a video comes first in a task: the video behind it is probed by the same task.
    video, waits = video_at(), list[bool]()
    rows = [Carried(video, None, None)] if begun else [BROKEN]
    plan_segments(
        rows_table([row.columns() for row in rows], PROBED),
        recipe_id=RECIPE_ID,
        segment_s=5.0,
        fps=2.0,
        done=np.array([segment.segment_id for segment in segments_of(video, RECIPE_ID, 5.0, 2.0)], "S24"),
        note=lambda plans, wait: waits.append(wait),
    )
    assert waits == [False]


def test_without_a_driver_failures_go_on_as_rows() -> None:
    rows = rows_table([BROKEN.columns()], PROBED)
    assert carried(plan_segments(rows, recipe_id=RECIPE_ID, segment_s=5.0, fps=2.0)) == [BROKEN]
