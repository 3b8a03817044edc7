from __future__ import annotations

from collections import Counter
from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import given
from support.flow_rows import planned, video_at

from malmm.pipeline.indexing.ledger import PERMANENT_KINDS, Ledger
from malmm.pipeline.schema.records import Segment
from malmm.pipeline.schema.rows import Carried
from malmm.pipeline.schema.video_plans import VideoPlan

OUTCOMES = st.sampled_from(["stored", "no_frames", "truncated", "OutOfMemoryError", "worker_lost"])


def plan(ledger: Ledger, name: str, count: int, committed: set[int]) -> tuple[list[Carried], set[str]]:
    """A video of ``count`` segments, of which those at ``committed`` are stored already."""
    rows = planned(video_at(f"/videos/{name}.mp4", duration_s=5.0 * count))
    segments = [row.segment for row in rows if row.segment is not None]
    assert len(segments) == count
    there = {segments[index].segment_id for index in committed}
    assert rows[0].video is not None
    planned_video = VideoPlan.of(rows[0].video, segments, [index in committed for index in range(count)])
    assert ledger.plan(planned_video) == len(committed)
    # Ray may run the planning task again.
    assert ledger.plan(planned_video) == 0
    return rows, there


def segment_of(row: Carried) -> Segment:
    assert row.segment is not None
    return row.segment


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[tuple[int, set[int]]], list[tuple[int, int, str]], set[int]]:
    """Videos (how many segments, which are committed), events in any order, and when to ask what is finished."""
    videos = []
    for _ in range(draw(st.integers(1, 3))):
        count = draw(st.integers(1, 4))
        videos.append((count, draw(st.sets(st.integers(0, count - 1)))))
    event = st.integers(0, len(videos) - 1).flatmap(
        lambda video: st.tuples(st.just(video), st.integers(0, videos[video][0] - 1), OUTCOMES)
    )
    events = draw(st.lists(event, max_size=14))
    return videos, events, draw(st.sets(st.integers(0, 13)))


@given(runs())
def test_every_segment_is_accounted_for_once(
    run: tuple[list[tuple[int, set[int]]], list[tuple[int, int, str]], set[int]],
) -> None:
    videos, events, asked_after = run
    ledger = Ledger()
    rows = [
        plan(ledger, str(number), count, committed)[0] for number, (count, committed) in enumerate(videos)
    ]
    # What each open segment came to: the first that is heard of it counts.
    expected: dict[tuple[int, int], str] = {
        (number, index): "committed" for number, (_, committed) in enumerate(videos) for index in committed
    }
    finished = []
    open_before = sum(count for count, _ in videos) - len(expected)
    assert ledger.segments_total == open_before
    for moment, (number, index, outcome) in enumerate(events):
        row = rows[number][index]
        first = (number, index) not in expected
        expected.setdefault((number, index), outcome)
        if outcome == "stored":
            assert ledger.stored(segment_of(row)) == first
        else:
            ledger.failed(row.failed("decode", outcome, "why"))
        if moment in asked_after:
            finished += ledger.take_finished()
    lost = [key for number, (count, _) in enumerate(videos) for key in [(number, i) for i in range(count)]]
    lost = [key for key in lost if key not in expected]
    heard = len(ledger.failures)
    ledger.lose_open("it never came")
    assert Counter(failure.segment_id for failure in ledger.failures[heard:]) == Counter(
        segment_of(rows[number][index]).segment_id for number, index in lost
    )
    expected |= dict.fromkeys(lost, "worker_lost")
    finished += ledger.take_finished()

    assert ledger.segments_done == ledger.segments_total == open_before
    assert ledger.video_s_done == ledger.video_s_total
    assert ledger.videos_done == ledger.videos_total == len(videos)
    assert len(expected) == sum(count for count, _ in videos)
    done = set()
    for number, (count, _) in enumerate(videos):
        outcomes = {expected[number, index] for index in range(count)}
        kept = outcomes & {"stored", "committed"}
        if kept and outcomes - kept <= PERMANENT_KINDS:
            done.add(number)
    assert sorted(video.uri for video, _ in finished) == sorted(f"/videos/{number}.mp4" for number in done)
    for video, ids in finished:
        number = int(video.uri.removeprefix("/videos/").removesuffix(".mp4"))
        assert ids == [segment_of(row).segment_id for row in rows[number]]
    assert ledger.take_finished() == []
    ledger.lose_open("again")
    assert ledger.take_finished() == []


@given(st.lists(st.sampled_from(["no_frames", "truncated"]), min_size=1, max_size=4))
def test_a_video_of_which_nothing_is_stored_is_never_finished(kinds: list[str]) -> None:
    ledger = Ledger()
    rows, _ = plan(ledger, "a", len(kinds), set())
    for row, kind in zip(rows, kinds, strict=True):
        ledger.failed(row.failed("decode", kind, "why"))
    assert ledger.take_finished() == []
    assert ledger.videos_done == 1


def test_what_may_pass_is_opened_again_and_counts_as_open() -> None:
    ledger = Ledger()
    rows, _ = plan(ledger, "a", 3, set())
    ledger.stored(segment_of(rows[0]))
    ledger.failed(rows[1].failed("decode", "no_frames", "why"))
    ledger.failed(rows[2].failed("encode", "OutOfMemoryError", "why"))
    assert ledger.take_finished() == []
    assert ledger.reopen() == [rows[2]]
    assert (ledger.segments_done, ledger.videos_done) == (2, 0)
    assert ledger.reopen() == []
    ledger.failed(rows[2].failed("encode", "OutOfMemoryError", "again"))
    assert [failure.message for failure in ledger.standing()] == ["why", "again"]
    ledger.reopen()
    assert ledger.stored(segment_of(rows[2]))
    assert [failure.kind for failure in ledger.standing()] == ["no_frames"]
    assert len(ledger.failures) == 3
    assert [video.uri for video, _ in ledger.take_finished()] == ["/videos/a.mp4"]
    assert ledger.video_s_done == ledger.video_s_total


def test_what_is_noted_stands_beside_what_is_stored() -> None:
    ledger = Ledger()
    rows, _ = plan(ledger, "a", 1, set())
    ledger.failed(rows[0].failed("decode", "unreachable", "why"))
    ledger.reopen()
    ledger.noted(rows[0].failed("decode", "truncated", "short"))
    ledger.stored(segment_of(rows[0]))
    assert [failure.kind for failure in ledger.standing()] == ["truncated"]


def test_a_video_is_not_finished_while_a_segment_is_open() -> None:
    ledger = Ledger()
    rows, _ = plan(ledger, "a", 2, set())
    ledger.stored(segment_of(rows[0]))
    assert ledger.take_finished() == []
    assert ledger.videos_done == 0
    ledger.stored(segment_of(rows[1]))
    assert [video.uri for video, _ in ledger.take_finished()] == ["/videos/a.mp4"]


def test_a_video_whose_segments_are_all_committed_is_finished_at_once() -> None:
    ledger = Ledger()
    rows, _ = plan(ledger, "a", 2, {0, 1})
    assert ledger.segments_total == 0
    [(video, ids)] = ledger.take_finished()
    assert (video, len(ids)) == (rows[0].video, 2)


def test_a_failure_without_a_segment_closes_none() -> None:
    ledger = Ledger()
    rows, _ = plan(ledger, "a", 1, set())
    ledger.failed(Carried(rows[0].video, None, None).failed("replay", "ValueError", "why"))
    ledger.failed(rows[0])
    assert ledger.segments_done == 0
    assert len(ledger.failures) == 1


def test_a_segment_of_an_earlier_plan_closes_none() -> None:
    ledger = Ledger()
    rows, _ = plan(ledger, "a", 2, set())
    assert rows[0].video is not None
    changed = [replace(segment_of(row), segment_id=f"{number:024x}") for number, row in enumerate(rows[:1])]
    ledger.plan(VideoPlan.of(rows[0].video, changed, [False]))
    assert not ledger.stored(segment_of(rows[0]))
    assert not ledger.stored(segment_of(rows[1]))
    assert ledger.stored(changed[0])
    assert [ids for _, ids in ledger.take_finished()] == [[changed[0].segment_id]]


def test_open_segments_are_as_they_were_planned() -> None:
    ledger = Ledger()
    rows, _ = plan(ledger, "a", 3, {1})
    assert ledger.open_segments() == [segment_of(rows[0]), segment_of(rows[2])]
