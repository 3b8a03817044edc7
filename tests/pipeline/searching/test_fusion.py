from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from malmm.pipeline.searching.fusion import Slot, TextHit, fuse


def slot(place: int, similarity: float | None, *, video: str = "v", per_segment: int = 100) -> Slot:
    """Slots of ten seconds, one after the other."""
    return Slot(
        video,
        f"{video}-{place // per_segment}",
        place,
        10.0 * place,
        10.0 * place + 10,
        10.0 * place + 5,
        similarity,
    )


def spans(moments: list) -> list[tuple[float, float]]:
    return [(moment.start_s, moment.end_s) for moment in moments]


def test_neighbours_that_are_nearly_as_similar_are_one_moment() -> None:
    slots = [slot(4, 0.9), slot(5, 0.8), slot(3, 0.7), slot(7, 0.6), slot(9, 0.1), slot(6, 0.1)]
    assert spans(fuse(slots, [])) == [(30, 60), (70, 80), (90, 100), (60, 70)]


def test_a_moment_goes_on_into_the_next_segment_but_not_into_another_video() -> None:
    slots = [
        slot(1, 0.9, per_segment=2),
        slot(2, 0.8, per_segment=2),
        slot(3, 0.8, video="w"),
        slot(0, 0.0, video="x"),
    ]
    assert spans(fuse(slots, []))[:2] == [(10, 30), (30, 40)]


def test_what_both_lists_say_comes_before_what_one_says() -> None:
    slots = [slot(0, 0.9, per_segment=1), slot(5, 0.8, per_segment=1), slot(9, 0.1, per_segment=1)]
    hit = TextHit("v", "v-5", 50, 60, "a red circle", 3.0)
    best = fuse(slots, [hit])[0]
    assert (best.start_s, best.end_s, best.signals, best.text) == (
        50,
        60,
        ("vectors", "text"),
        "a red circle",
    )


def test_a_text_about_no_slot_is_a_moment_by_itself() -> None:
    [found] = fuse([], [TextHit("v", None, 0, 300, "a whole video", 1.0)])
    assert (found.start_s, found.end_s, found.signals, found.slot) == (0, 300, ("text",), None)


def test_slots_without_vectors_are_found_by_their_text() -> None:
    [first, *_] = fuse([slot(0, None)], [TextHit("v", "v-0", 0, 10, "words", 1.0)])
    assert first.signals == ("text",)
    assert first.similarity is None


@given(
    st.lists(st.tuples(st.integers(0, 30), st.floats(-1, 1)), unique_by=lambda pair: pair[0], max_size=31),
    st.lists(st.integers(0, 30), unique=True, max_size=10),
)
def test_every_candidate_is_in_one_moment_and_the_best_come_first(
    found: list[tuple[int, float]], texts: list[int]
) -> None:
    slots = sorted(
        (slot(place, value, per_segment=1) for place, value in found), key=lambda s: -(s.similarity or 0)
    )
    hits = [TextHit("v", f"v-{place}", 10.0 * place, 10.0 * place + 10, "text", 1.0) for place in texts]
    moments = fuse(slots, hits)
    assert [m.score for m in moments] == sorted((m.score for m in moments), reverse=True)
    covered = [tick for m in moments for tick in range(round(m.start_s), round(m.end_s), 10)]
    assert len(covered) == len(set(covered))
    assert set(covered) == {10 * place for place, _ in found} | {10 * place for place in texts}


def said(start_s: float, end_s: float, *, video: str = "v") -> TextHit:
    return TextHit(video, None, start_s, end_s, f"said at {start_s}", 1.0, own_span=True)


def test_what_is_said_is_a_moment_as_long_as_its_words_with_the_slot_as_picture() -> None:
    slots = [slot(0, 0.9), slot(1, 0.2), slot(2, 0.1)]
    first, *others = fuse(slots, [said(13.0, 15.0)])
    assert (first.start_s, first.end_s, first.signals, first.text) == (
        13.0,
        15.0,
        ("vectors", "text"),
        "said at 13.0",
    )
    assert first.slot == slots[1]
    assert (10.0, 20.0) not in spans(others)


def test_each_text_is_found_once_however_many_slots_and_slots_however_many_texts() -> None:
    slots = [slot(place, None) for place in range(3)]
    hits = [said(2.0, 28.0), said(3.0, 4.0), said(5.0, 6.0), said(5.0, 6.0, video="w")]
    found = fuse(slots, hits)
    assert sorted(spans(found)) == [(2.0, 28.0), (3.0, 4.0), (5.0, 6.0), (5.0, 6.0)]
    assert [moment.slot for moment in found if moment.video_id == "w"] == [None]
    assert all(moment.slot is not None for moment in found if moment.video_id == "v")
