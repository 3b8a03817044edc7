"""Answers that follow a JSON schema: the grammar of each request, and what becomes of the generated text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from malmm.model.typed.grammar import Grammar
from malmm.pipeline.schema.prompts import Prompt
from malmm.pipeline.schema.rows import Carried

__all__ = ["NEAR_S", "finished", "grammar_for", "moments_in"]

#: A time is supported by memory if a slot begins, ends or is said to be so near.
NEAR_S = 0.5


def grammar_for(prompt: Prompt, row: Carried, slots: Sequence[Mapping[str, Any]] | None) -> Grammar:
    """The grammar of a prompt's answer about a row's segment, or whole video.

    Times of timed records lie within what the memory's slots cover, which is less where a file was cut short.
    """
    if not prompt.spans:
        return prompt.grammar(0.0, 1.0)
    if row.segment is not None:
        start_s, end_s = row.segment.start_s, row.segment.end_s
    elif row.video is not None:
        start_s, end_s = row.video.start_s, row.video.start_s + row.video.duration_s
    else:
        raise ValueError("an answer is about a video")
    covered_s = max((slot["end_s"] for slot in slots or ()), default=end_s)
    return prompt.grammar(start_s, min(end_s, max(start_s, covered_s)))


def finished(text: str, prompt: Prompt, slots: Sequence[Mapping[str, Any]] | None) -> str:
    """The text to store of a generated one. Raises ValueError for one that was cut in the middle.

    Each of several timed records gets ``supported``: whether both of its times are those of memory slots, to within
    ``NEAR_S``. Others were made up between them. Times that are the wrong way round are exchanged, and not supported.
    """
    try:
        answer = json.loads(text)
    except ValueError as error:
        raise ValueError(f"the typed answer to {prompt.name!r} is no JSON: {text[:200]!r}") from error
    if not prompt.spans:
        return text
    known = [
        time
        for slot in slots or ()
        for time in (slot.get("start_s"), slot.get("end_s"), slot.get("timestamp_s"))
        if time is not None
    ]
    records = []
    for record in answer:
        times = record.pop("start_s"), record.pop("end_s")
        supported = times[0] <= times[1] and all(_is_near(time, known) for time in times)
        begin, end = sorted(times)
        records.append({"start_s": begin, "end_s": end, **record, "supported": supported})
    return json.dumps(records, ensure_ascii=False, separators=(",", ":"))


def moments_in(text: str) -> list[tuple[float, float, str]]:
    """The timed records of a stored answer: begin, end, and the rest of it as JSON."""
    found = []
    for record in json.loads(text):
        begin, end = record.pop("start_s"), record.pop("end_s")
        found.append((begin, end, json.dumps(record, ensure_ascii=False, separators=(",", ":"))))
    return found


def _is_near(time: float, known: Sequence[float]) -> bool:
    return any(abs(time - each) <= NEAR_S for each in known)
