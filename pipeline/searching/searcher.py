"""Search an archive by text, by image or by an example moment. Needs no Ray and no language model.

``query_vectors`` turns a ``SearchQuery`` into vectors, ``candidates`` finds slots and texts near it, and ``fusion``
fuses them into moments.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from malmm.pipeline.archive.filters import scope_of
from malmm.pipeline.archive.joined import open_archives
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.scope import Scope
from malmm.pipeline.schema.config import CAPTION
from malmm.pipeline.schema.errors import ArchiveError, ConfigError
from malmm.pipeline.searching.combined import Combination, Part
from malmm.pipeline.searching.explanation import Explanation, explain
from malmm.pipeline.searching.fusion import Moment, Slot, TextHit, fuse
from malmm.pipeline.searching.passing import leading_texts, passing
from malmm.pipeline.searching.query import MAX_K, SIGNALS, Like, SearchQuery
from malmm.pipeline.searching.query_vectors import QueryVectors
from malmm.pipeline.searching.relevance import Relevance, relevance_of
from malmm.pipeline.searching.several import candidates_of, of_one_tower

if TYPE_CHECKING:
    from malmm.model.checkpoints.resolve import Models

__all__ = ["MAX_K", "SIGNALS", "Found", "Like", "SearchQuery", "Searcher", "search"]

_RERANKED, _RERANKED_A_RESULT = 20, 3
# So many of the best texts add slots that vectors do not find; later texts would rank below all results.
_LEADING, _LEADING_A_RESULT = 20, 2


@dataclass(frozen=True)
class Found:
    """A search result: a moment with its caption, text and thumbnail.

    ``matched`` is the matching head's probability if results were re-ranked; ``thumbnail`` a JPEG of the best slot.
    ``spans`` are the spans of seconds [start, end) of a moment that has several, of which [start_s, end_s) is the hull;
    else None. ``explanation`` says what each signal gave, if that was asked for. ``archive`` is the name of the
    archive that the video is read from.
    """

    video_id: str
    uri: str
    segment_id: str | None
    start_s: float
    end_s: float
    timestamp_s: float
    score: float
    similarity: float | None
    matched: float | None
    signals: tuple[str, ...]
    caption: str | None
    text: str | None
    thumbnail: bytes | None
    spans: tuple[tuple[float, float], ...] | None = None
    archive: str | None = None
    explanation: Explanation | None = None

    def to_dict(self) -> dict[str, Any]:
        """All fields but the thumbnail, for JSON; the explanation only if there is one."""
        fields = {
            name: value for name, value in vars(self).items() if name not in ("thumbnail", "explanation")
        }
        explained = {} if self.explanation is None else {"explanation": self.explanation.to_dict()}
        return (
            fields
            | {
                "signals": list(self.signals),
                "spans": self.spans and [{"start_s": start, "end_s": end} for start, end in self.spans],
            }
            | explained
        )


class Searcher:
    """Searches one archive, or several as one (``archive.catalog``).

    Of several, those that cannot be reached or have vectors of another retrieval model than the first are left out;
    ``members_of(searcher.archive)`` names them. Loads the retrieval model at the first query that needs it, and keeps
    it. ``model`` and ``retrieval_model`` are paths or ids of the archive's checkpoints, if not those it recorded.
    """

    def __init__(
        self,
        archive: str | Sequence[str] | ArchiveReader,
        *,
        model: str | None = None,
        retrieval_model: str | None = None,
    ) -> None:
        self.archive = of_one_tower(archive if isinstance(archive, ArchiveReader) else open_archives(archive))
        self.query_vectors = QueryVectors(self.archive.recipe, (model, retrieval_model))
        self._candidates = candidates_of(self.archive)
        self._relevance: Relevance | None = None

    def over(self, archive: ArchiveReader) -> Searcher:
        """A searcher over some of these archives, with the same models."""
        other = copy.copy(self)
        other.archive, other._candidates, other._relevance = archive, candidates_of(archive), None
        return other

    def search(
        self,
        text: str | None = None,
        *,
        image: str | Path | None = None,
        like: Like | None = None,
        k: int = 10,
        video_ids: Iterable[str] | None = None,
        signals: Sequence[str] = SIGNALS,
        rerank: bool = False,
        exact: bool = False,
        thumbnails: bool = True,
        where: str | None = None,
        examples: Sequence[Like] = (),
        without: Sequence[str] = (),
    ) -> list[Found]:
        """The ``k`` best moments for a text, an image file, example moments, or several of these together, best first.

        ``examples`` are moments beside ``like``; ``without`` are words that a moment should not fit (``combined``).

        ``video_ids`` are the videos to search, None for all; ``where`` is a filter over metadata, answers, labels and
        time, as ``archive.filters`` describes. ``signals`` chooses what may find a moment. ``rerank``
        reorders the best results by the matching head, which reads their stored tokens; only for texts. ``exact``
        bypasses the approximate index. Raises ConfigError for an invalid query, ArchiveError if the query needs vectors
        and the archive has none, and CheckpointError if the archive's model is missing.
        """
        query = SearchQuery(
            text=text,
            image=None if image is None else Path(image),
            like=like,
            k=k,
            video_ids=None if video_ids is None else tuple(sorted(set(video_ids))),
            signals=tuple(signals),
            rerank=rerank,
            exact=exact,
            where=where,
            examples=tuple(examples),
            without=tuple(without),
        )
        return self.find(query, thumbnails=thumbnails)

    def find(self, query: SearchQuery, *, thumbnails: bool = True, explained: bool = False) -> list[Found]:
        """The best moments for a query, best first; ``explained`` says what each signal gave. Raises as ``search``."""
        moments = self.ranked(query)
        matched: dict[Moment, float] = {}
        if query.rerank and query.text is not None:
            best = moments[: max(_RERANKED, _RERANKED_A_RESULT * query.k)]
            moments, matched = self._reranked(query.text, best)
        shown = self.shown(moments[: query.k], matched, thumbnails=thumbnails)
        if not explained:
            return shown
        threshold = self.threshold_of(query)
        return [
            replace(found, explanation=explain(moment, threshold))
            for found, moment in zip(shown, moments, strict=False)
        ]

    def threshold_of(self, query: SearchQuery, vector: np.ndarray | None = None) -> float | None:
        """The cosine from which on a moment is relevant to a query; None unless vectors are compared with a text.

        ``vector`` is the text's unit vector [V], if already known.
        """
        if query.text is None or not query.compares_vectors or not self.archive.slots.has_vectors:
            return None
        return self.relevance_threshold(query.text, query.video_ids, query.where, vector)

    def ranked(self, query: SearchQuery, vector: np.ndarray | None = None) -> list[Moment]:
        """All moments found for a query, best first, more than ``k``. ``shown`` makes results of them.

        ``vector`` is the unit vector [V] of the query's text, if already known. Raises as ``search`` does.
        """
        within = scope_of(self.archive, query.where, query.video_ids)
        if within.is_empty:
            return []
        # Texts are searched while the query is encoded and compared.
        with ThreadPoolExecutor(1) as beside:
            words, count = query.words, query.candidates
            finding = None if words is None else beside.submit(self._candidates.hits, words, count, within)
            compared = None
            slots: list[Slot] = []
            combined = None
            if query.compares_vectors:
                parts = self._parts_of(query, vector)
                if parts:
                    compared = parts[0].vectors

                    def find(part: np.ndarray) -> list[Slot]:
                        return self._candidates.slots(part, count, within, exact=query.exact)

                    if len(parts) > 1:
                        combined = Combination.of(self.archive, parts)
                        slots = combined.rescored(self.archive, combined.nearest(find))[:count]
                    else:
                        slots = find(compared)
                elif words is None:
                    raise ArchiveError(
                        f"{self.archive.root} has no retrieval vectors (it was indexed with --retrieval-model none), "
                        "so it can only be searched for words: index it again with a retrieval model",
                        uri=self.archive.root,
                    )
            hits = finding.result() if finding is not None else []
        if hits and query.without:
            hits = self._without(hits, query, within)
        leading = hits[: max(_LEADING, _LEADING_A_RESULT * query.k)]
        if compared is None:
            slots = self._candidates.slots_at(leading, within)
            return passing(fuse(slots, leading_texts(hits, slots, within)), within)
        floor = slots[-1].similarity if slots else None
        slots = self._candidates.with_slots_of(leading, slots, compared, within)
        if combined is not None:
            slots = combined.rescored(self.archive, slots)
        moments = passing(fuse(slots, leading_texts(hits, slots, within), floor=floor), within)
        return [moment for moment in moments if not any(_holds(moment, like) for like in query.likes)]

    def shown(
        self,
        moments: Sequence[Moment],
        matched: Mapping[Moment, float] | None = None,
        *,
        thumbnails: bool = True,
    ) -> list[Found]:
        """Add URI, caption and thumbnail to ranked moments. ``matched`` has the matching head's probabilities."""
        videos = {moment.video_id for moment in moments}
        uris, names = self.archive.addresses_of(videos), self.archive.names_of(videos)
        segments = {moment.slot.segment_id for moment in moments if moment.slot}
        captions = self.archive.texts_of(segments, CAPTION.name)
        pictures = self.archive.slots.thumbnails(
            [(moment.slot.segment_id, moment.slot.slot) for moment in moments if moment.slot]
            if thumbnails
            else []
        )
        shown = []
        for moment in moments:
            slot = moment.slot
            shown.append(
                Found(
                    video_id=moment.video_id,
                    uri=uris.get(moment.video_id, ""),
                    segment_id=slot.segment_id if slot else None,
                    start_s=moment.start_s,
                    end_s=moment.end_s,
                    timestamp_s=_picture_s(moment),
                    score=moment.score,
                    similarity=moment.similarity,
                    matched=(matched or {}).get(moment),
                    signals=moment.signals,
                    caption=captions.get(slot.segment_id) if slot else None,
                    text=moment.text,
                    thumbnail=pictures.get((slot.segment_id, slot.slot)) if slot else None,
                    spans=moment.spans if len(moment.spans) > 1 else None,
                    archive=names.get(moment.video_id),
                )
            )
        return shown

    def models(self) -> Models:
        """All of the archive's checkpoints, with the language model. Raises CheckpointError."""
        return self.query_vectors.models()

    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [B, V] of texts, by the retrieval model's text tower. Raises CheckpointError."""
        return self.query_vectors.of_texts(texts)

    def relevance_threshold(
        self,
        text: str,
        video_ids: Sequence[str] | None = None,
        where: str | None = None,
        vector: np.ndarray | None = None,
    ) -> float:
        """The cosine from which on the best slot, of these videos or of what a filter leaves, is relevant to a text.

        Raises CheckpointError, and ConfigError for a model whose background cannot be read.
        """
        if self._relevance is None:
            self._relevance = relevance_of(self.archive, self.query_vectors.retrieval(), self.text_vectors)
        if self._relevance.background is None:
            return self._relevance.threshold
        slots = self._candidates.slot_count(scope_of(self.archive, where, video_ids))
        return self._relevance.cosine(self.text_vectors([text])[0] if vector is None else vector, slots)

    def _parts_of(self, query: SearchQuery, vector: np.ndarray | None) -> list[Part]:
        """The parts of a query, wanted ones first, the text before the others; none in an archive without vectors.

        ``vector`` is the text's unit vector [V], if already known.
        """
        if not self.archive.slots.has_vectors:
            return []
        parts = []
        if query.text is not None:
            parts.append(Part("text", self.text_vectors([query.text])[0] if vector is None else vector))
        if query.image is not None:
            parts.append(Part("image", self.query_vectors.of_image(query.image)))
        for like in query.likes:
            vectors = self.archive.slots.vectors_at(like.video_id, like.at_s)
            if vectors is None:
                raise ConfigError(f"video {like.video_id} has no retrieval vectors at {like.at_s:g} s")
            parts.append(Part(f"like {like.video_id}@{like.at_s:g}", vectors))
        for text, own in zip(query.without, self._text_vectors_of(query.without), strict=True):
            parts.append(Part(f"not {text}", own, is_wanted=False))
        return parts

    def _text_vectors_of(self, texts: Sequence[str]) -> Sequence[np.ndarray]:
        return list(self.text_vectors(texts)) if texts else []

    def _without(self, hits: Sequence[TextHit], query: SearchQuery, within: Scope) -> list[TextHit]:
        """The texts that have no word of what should not be there."""
        unwanted = {
            hit for text in query.without for hit in self._candidates.hits(text, query.candidates, within)
        }
        subjects = {(hit.video_id, hit.segment_id, hit.start_s, hit.text) for hit in unwanted}
        return [hit for hit in hits if (hit.video_id, hit.segment_id, hit.start_s, hit.text) not in subjects]

    def _reranked(self, text: str, moments: Sequence[Moment]) -> tuple[list[Moment], dict[Moment, float]]:
        held = [(moment, moment.slot) for moment in moments if moment.slot is not None]
        if not held:
            return list(moments), {}
        tokens = self.archive.slots.slot_tokens([(slot.segment_id, slot.slot) for _, slot in held])
        chances = self.query_vectors.matches(tokens, text)
        by_chance = sorted(zip(chances, held, strict=True), key=lambda pair: -pair[0])
        matched = {
            replace(moment, signals=(*moment.signals, "match")): chance for chance, (moment, _) in by_chance
        }
        return [*matched, *(moment for moment in moments if moment.slot is None)], matched


def search(archive: str | Sequence[str], text: str, **options: Any) -> list[Found]:
    """The best moments of an archive for a text. See ``Searcher.search``; a ``Searcher`` keeps the model loaded."""
    return Searcher(archive).search(text, **options)


def _picture_s(moment: Moment) -> float:
    """The time that a moment's picture shows: its slot's, unless the moment is a text's short span beside it."""
    slot = moment.slot
    if slot is not None and moment.start_s <= slot.timestamp_s <= moment.end_s:
        return slot.timestamp_s
    return moment.start_s


def _holds(moment: Moment, like: Like | None) -> bool:
    """Whether a moment contains the example that was searched by."""
    if like is None or moment.video_id != like.video_id:
        return False
    return any(start <= like.at_s < end for start, end in moment.spans)
