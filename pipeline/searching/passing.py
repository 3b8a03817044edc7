"""Which texts and moments of a search pass its filter, where a text is about more than a moment. Pure, no store.

A filter on time is applied to slots exactly, and to texts only as far as they may hold a slot that passes: a caption is
about minutes. What is fused from both is looked at again here.
"""

from __future__ import annotations

from collections.abc import Sequence

from malmm.pipeline.archive.scope import Scope
from malmm.pipeline.searching.fusion import Moment, Slot, TextHit

__all__ = ["leading_texts", "passing"]


def leading_texts(hits: Sequence[TextHit], slots: Sequence[Slot], within: Scope) -> list[TextHit]:
    """The texts that lead to one of the slots, or whose own span passes."""
    if within.is_all:
        return list(hits)
    subjects = {slot.segment_id for slot in slots} | {slot.video_id for slot in slots}
    return [
        hit
        for hit in hits
        if within.holds(vars(hit))
        or (any(map(hit.is_in, slots)) if hit.own_span else (hit.segment_id or hit.video_id) in subjects)
    ]


def passing(moments: Sequence[Moment], within: Scope) -> list[Moment]:
    """The moments whose slot or own span passes. Those without a slot are of texts that passed."""
    if within.is_all:
        return list(moments)
    return [
        moment
        for moment in moments
        if moment.slot is None
        or within.holds(vars(moment.slot))
        or within.holds(vars(moment) | {"segment_id": moment.slot.segment_id})
    ]
