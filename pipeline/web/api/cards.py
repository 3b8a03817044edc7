"""Moments as the page shows them: cards with a name, a caption and the address of a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from malmm.pipeline.archive.joined import members_of
from malmm.pipeline.schema.ids import memory_id
from malmm.pipeline.searching.explanation import explain
from malmm.pipeline.searching.fusion import Moment
from malmm.pipeline.web.api.response_models import Card, Explanation, spans_of
from malmm.pipeline.web.display_names import name_of
from malmm.pipeline.web.state.shared_state import Site

__all__ = ["cards_of", "explaining"]

Explain = Callable[[Moment], Explanation]


def explaining(threshold: float | None) -> Explain:
    """A function that explains moments of a search whose threshold for relevance this is."""
    return lambda moment: Explanation(**explain(moment, threshold).to_dict())


def cards_of(site: Site, moments: Sequence[Moment], explained: Explain | None = None) -> list[Card]:
    """The cards of moments, in their order. Raises ArchiveError."""
    searcher = site.live.searcher
    shown = searcher.shown(moments, thumbnails=False)
    rows = site.videos.columns().of([found.video_id for found in shown])
    # The browser will request the thumbnails one by one: read them all at once.
    site.pictures.fetch(searcher.archive, [(m.slot.segment_id, m.slot.slot) for m in moments if m.slot])
    several = members_of(searcher.archive) is not None
    cards = []
    for moment, found in zip(moments, shown, strict=True):
        key = memory_id(moment.slot.segment_id, moment.slot.slot) if moment.slot else None
        cards.append(
            Card(
                video_id=found.video_id,
                name=name_of(found.uri),
                segment_id=found.segment_id,
                start_s=found.start_s,
                end_s=found.end_s,
                timestamp_s=found.timestamp_s,
                video_start_s=rows[found.video_id]["start_s"] if found.video_id in rows else 0.0,
                score=found.score,
                similarity=found.similarity,
                signals=list(found.signals),
                caption=found.caption,
                text=found.text,
                thumbnail=f"api/memories/{key}/thumbnail" if key else None,
                spans=spans_of(found.spans),
                archive=found.archive if several else None,
                explanation=explained(moment) if explained is not None else None,
            )
        )
    return cards
