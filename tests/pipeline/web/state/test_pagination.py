from __future__ import annotations

from malmm.pipeline.searching.fusion import Moment
from malmm.pipeline.web.state.pagination import MOST_RANKED, Ranking, Rankings

HELD = [Moment("v", float(place), place + 1.0, 1 / (1 + place), ("vectors",)) for place in range(3000)]


def test_pages_follow_each_other_without_gaps_or_repeats() -> None:
    asked = []

    def search(k: int) -> list[Moment]:
        asked.append(k)
        return HELD[: 2 * k]

    ranking = Ranking(search)
    seen: list[Moment] = []
    more = True
    while more:
        part, more = ranking.part(len(seen), len(seen) + 24)
        seen += part
    assert seen == HELD[: 2 * MOST_RANKED]
    assert asked == sorted(set(asked))
    assert asked[0] == 10


def test_what_was_shown_keeps_its_place_when_the_archive_grows() -> None:
    found = HELD[:30]
    ranking = Ranking(lambda k: found[: k + 1])
    first, more = ranking.part(0, 10)
    assert more
    fresh = Moment("new", 0.0, 1.0, 9.0, ("vectors",))
    found = [fresh, *HELD[5:30]]
    second, _ = ranking.part(10, 60)
    assert first == HELD[:10]
    assert not set(first) & set(second)
    assert fresh in second


def test_overlapping_moments_of_a_deeper_search_are_what_was_shown() -> None:
    grown = [Moment("v", 0.0, 3.0, 1.0, ("vectors",)), HELD[5], HELD[6]]
    ranking = Ranking(lambda k: HELD[:2] if k == 10 else grown)
    assert ranking.part(0, 1) == (HELD[:1], True)
    assert ranking.part(1, 20)[0] == [HELD[1], HELD[5], HELD[6]]


def test_the_end_is_the_end_and_old_searches_are_forgotten() -> None:
    assert Ranking(lambda k: []).part(0, 24) == ([], False)
    assert Ranking(lambda k: HELD[:3]).part(24, 48) == ([], False)
    kept = Rankings()
    names = [kept.add(Ranking(lambda k: [])) for _ in range(200)]
    assert kept.find(names[-1]) is not None
    assert kept.find(names[0]) is None
    assert kept.find("") is None
