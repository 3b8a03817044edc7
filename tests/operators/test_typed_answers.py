"""Times of timed records lie in what memory covers, and those that its slots do not have are told from the others."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from support.flow_rows import video_at

from malmm.operators.typed_answers import finished, grammar_for, moments_in
from malmm.pipeline.schema.prompts import Prompt
from malmm.pipeline.schema.records import Segment
from malmm.pipeline.schema.rows import Carried

EVENTS = Prompt.typed(
    "events",
    "What happens, and when?",
    {"type": "object", "properties": {"kind": {"enum": ["goal", "foul"]}}, "required": ["kind"]},
    spans=True,
)
VIDEO = video_at(duration_s=60.0)
SEGMENT = Segment("b" * 24, VIDEO.video_id, VIDEO.uri, 0, 20.0, 40.0, True)
SLOTS = [
    {"start_s": 20.0, "end_s": 25.0, "timestamp_s": 22.0},
    {"start_s": 25.0, "end_s": 33.0, "timestamp_s": 30.0},
]


def record(begin: float, end: float) -> dict[str, Any]:
    return {"start_s": begin, "end_s": end, "kind": "goal"}


@pytest.mark.parametrize(
    ("begin", "end", "supported"),
    [
        (20.0, 25.0, True),
        (22.4, 29.6, True),
        (20.5, 33.5, True),
        (20.6, 33.0, False),
        (20.0, 27.0, False),
        (27.0, 28.0, False),
        (25.0, 25.0, True),
        # Neither time was meant: they are the wrong way round.
        (25.0, 20.0, False),
    ],
)
def test_a_record_is_supported_if_slots_have_both_of_its_times(
    begin: float, end: float, supported: bool
) -> None:
    text = finished(json.dumps([record(begin, end), record(20.0, 20.0)]), EVENTS, SLOTS)
    [(start_s, end_s, rest), (_, _, other)] = moments_in(text)
    assert (start_s, end_s) == (min(begin, end), max(begin, end))
    assert json.loads(rest) == {"kind": "goal", "supported": supported}
    assert json.loads(other)["supported"]


def test_without_slots_nothing_is_supported() -> None:
    [(_, _, rest)] = moments_in(finished(json.dumps([record(20.0, 25.0)]), EVENTS, None))
    assert not json.loads(rest)["supported"]


@pytest.mark.parametrize(
    ("row", "slots", "within", "outside"),
    [
        (Carried(VIDEO, SEGMENT, None), None, (20.0, 40.0), (19.9, 40.1)),
        # The file was cut short: the plan said 40 s.
        (Carried(VIDEO, SEGMENT, None), SLOTS, (20.0, 33.0), (19.9, 33.1)),
        (Carried(VIDEO, None, None), [*SLOTS, {"end_s": 90.0}], (0.0, 60.0), (60.1, 90.0)),
        (Carried(VIDEO, None, None), SLOTS, (0.0, 33.0), (33.1, 60.0)),
    ],
)
def test_only_times_that_memory_covers_can_be_written(
    row: Carried,
    slots: list[dict[str, Any]] | None,
    within: tuple[float, float],
    outside: tuple[float, float],
) -> None:
    pattern = re.compile(grammar_for(EVENTS, row, slots).pattern)

    def fits(begin: float, end: float) -> bool:
        return bool(pattern.fullmatch(json.dumps([record(begin, end)], separators=(",", ":"))))

    assert fits(*within)
    assert not any(fits(time, within[1]) or fits(within[0], time) for time in outside)


def test_an_answer_that_was_cut_is_no_answer() -> None:
    with pytest.raises(ValueError, match="the typed answer to 'events' is no JSON"):
        finished('[{"start_s":20.0,"en', EVENTS, SLOTS)
