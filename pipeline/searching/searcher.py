"""Searching an archive, by words, by a picture, or by a moment that is there. Needs no Ray and no language model.

A text goes through the retrieval model's text tower. Candidates come from the vectors of memory slots and from the
words of annotations; ``malmm.pipeline.searching.fusion`` makes moments of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from malmm.pipeline.archive.location import lance_errors
from malmm.pipeline.archive.predicates import is_in
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.recipe_models import archive_models
from malmm.pipeline.archive.search_indexes import VECTORS_INDEX, has_index
from malmm.pipeline.schema.config import CAPTION
from malmm.pipeline.schema.errors import ArchiveError, ConfigError
from malmm.pipeline.searching.fusion import Moment, Slot, TextHit, fuse
from malmm.pipeline.searching.relevance import Relevance, relevance_of

if TYPE_CHECKING:
    from malmm.model.checkpoints.resolve import Models
    from malmm.model.families.instructblip.vision import VisionEncoder
    from malmm.model.towers.blip2 import RetrievalModel

__all__ = ["SIGNALS", "Found", "Like", "Searcher", "search"]

SIGNALS = ("vectors", "text")
MAX_K = 1000
# Candidates: enough for neighbours to be among them, and for a level of what has nothing to do with the query.
_CANDIDATES, _CANDIDATES_A_RESULT = 100, 10
_RERANKED, _RERANKED_A_RESULT = 20, 3
# The best texts lead to slots that their vectors do not; later ones would be below whatever is shown.
_LEADING, _LEADING_A_RESULT, _SLOTS_A_TEXT = 20, 2, 5
# Of the approximate index; docs/retrieval.md has the log of what was tried.
_PROBES, _REFINE = 120, 5
_SLOT_COLUMNS = ["video_id", "segment_id", "slot", "start_s", "end_s", "timestamp_s"]


@dataclass(frozen=True)
class Like:
    """A moment of a video to find more like: its id and seconds on its clock."""

    video_id: str
    at_s: float


@dataclass(frozen=True)
class Found:
    """A moment that was found, with what people look at.

    ``matched`` is the matching head's probability where results were re-ranked; ``thumbnail`` a JPEG of the best slot.
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

    def to_dict(self) -> dict[str, Any]:
        """For JSON: all but the picture."""
        return {name: value for name, value in vars(self).items() if name != "thumbnail"} | {
            "signals": list(self.signals)
        }


class Searcher:
    """Searches one archive. Loads the retrieval model at the first query that needs it, and keeps it.

    ``model`` and ``retrieval_model`` say where the archive's checkpoints lie, if not where they were.
    """

    def __init__(
        self, archive: str | ArchiveReader, *, model: str | None = None, retrieval_model: str | None = None
    ) -> None:
        self.archive = ArchiveReader.open(archive) if isinstance(archive, str) else archive
        self._names = (model, retrieval_model)
        self._models: Models | None = None
        self._texts: RetrievalModel | None = None
        self._images: RetrievalModel | None = None
        self._vision: VisionEncoder | None = None
        self._relevance: Relevance | None = None

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
    ) -> list[Found]:
        """The ``k`` best moments for a text, an image file, or a moment, best first.

        ``video_ids`` are the videos to search, all without. ``signals`` says what may find a moment. ``rerank`` orders
        the best by the matching head, which reads their stored tokens; only for texts. ``exact`` passes the approximate
        index by. Raises ConfigError for a query that cannot be, ArchiveError for an archive without vectors where
        nothing else can answer, and CheckpointError when the archive's model is not to be found.
        """
        _check(text, image, like, k, signals, rerank)
        moments = self._moments(text, image, like, k, video_ids, signals, exact=exact)
        if like is not None:
            moments = [
                m for m in moments if m.video_id != like.video_id or not m.start_s <= like.at_s < m.end_s
            ]
        matched: dict[Moment, float] = {}
        if rerank and text is not None:
            moments, matched = self._reranked(text, moments[: max(_RERANKED, _RERANKED_A_RESULT * k)])
        return self.shown(moments[:k], matched, thumbnails=thumbnails)

    def ranked(
        self,
        text: str,
        *,
        k: int = 10,
        video_ids: Iterable[str] | None = None,
        signals: Sequence[str] = SIGNALS,
        vector: np.ndarray | None = None,
    ) -> list[Moment]:
        """All moments of the candidates that ``k`` results of a text are taken from, best first, for ``shown``.

        ``vector`` is the text's own, if it is known already. Raises as ``search`` does.
        """
        _check(text, None, None, k, signals, False)
        return self._moments(text, None, None, k, video_ids, signals, vector=vector)

    def shown(
        self,
        moments: Sequence[Moment],
        matched: Mapping[Moment, float] | None = None,
        *,
        thumbnails: bool = True,
    ) -> list[Found]:
        """Ranked moments with what people look at; ``matched`` has the matching head's probabilities, if there are."""
        uris = self.archive.addresses_of({moment.video_id for moment in moments})
        segments = {moment.slot.segment_id for moment in moments if moment.slot}
        captions = self.archive.texts_of(segments, CAPTION.name)
        pictures = self.archive.thumbnails(
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
                    timestamp_s=slot.timestamp_s if slot else moment.start_s,
                    score=moment.score,
                    similarity=moment.similarity,
                    matched=(matched or {}).get(moment),
                    signals=moment.signals,
                    caption=captions.get(slot.segment_id) if slot else None,
                    text=moment.text,
                    thumbnail=pictures.get((slot.segment_id, slot.slot)) if slot else None,
                )
            )
        return shown

    def _moments(
        self,
        text: str | None,
        image: str | Path | None,
        like: Like | None,
        k: int,
        video_ids: Iterable[str] | None,
        signals: Sequence[str],
        *,
        exact: bool = False,
        vector: np.ndarray | None = None,
    ) -> list[Moment]:
        chosen = None if video_ids is None else sorted(set(video_ids))
        if chosen is not None and not chosen:
            return []
        count = max(_CANDIDATES, _CANDIDATES_A_RESULT * k)
        # Words are looked up while the query is encoded and compared.
        with ThreadPoolExecutor(1) as beside:
            asked = text if "text" in signals else None
            finding = beside.submit(self._hits, asked, count, chosen)
            query = None
            slots: list[Slot] = []
            if "vectors" in signals or text is None:
                query = vector if vector is not None else self._query(text, image, like)
                if query is not None:
                    where = None if chosen is None else _any_of("video_id", chosen)
                    slots = self._slots(query, count, where, exact=exact)
                elif asked is None:
                    raise ArchiveError(
                        f"{self.archive.root} has no retrieval vectors (it was indexed with --retrieval-model none), "
                        "so it can only be searched for words: index it anew with a retrieval model",
                        uri=self.archive.root,
                    )
            hits = finding.result()
        if query is None:
            return fuse([], hits)
        floor = slots[-1].similarity if slots else None
        leading = hits[: max(_LEADING, _LEADING_A_RESULT * k)]
        return fuse(self._with_slots_of(leading, slots, query), hits, floor=floor)

    def models(self) -> Models:
        """The archive's checkpoints. Raises CheckpointError."""
        if self._models is None:
            self._models = archive_models(self.archive.recipe, *self._names)
        return self._models

    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors float32 [B, V] of texts. Raises CheckpointError."""
        return self._text_model().text_vectors(texts).cpu().numpy()

    def relevance_threshold(self, text: str, video_ids: Sequence[str] | None = None) -> float:
        """The cosine with a text from which on the best slot, of these videos or of all, counts as being about it.

        Raises CheckpointError, and ConfigError for a model whose background cannot be read.
        """
        if self._relevance is None:
            self._relevance = relevance_of(self.archive, self.models().retrieval, self.text_vectors)
        if self._relevance.background is None:
            return self._relevance.threshold
        return self._relevance.cosine(self.text_vectors([text])[0], self.archive.slot_count(video_ids))

    def _query(self, text: str | None, image: str | Path | None, like: Like | None) -> np.ndarray | None:
        """Unit vectors [V] of a text or [Q, V] of pictures; None for an archive without vectors."""
        if not self.archive.has_vectors:
            return None
        if text is not None:
            return self.text_vectors([text])[0]
        if image is not None:
            return self._image_vectors(Path(image))
        if like is None:
            raise ConfigError("nothing to search for")
        return self.archive.vectors_at(like.video_id, like.at_s)

    def _text_model(self) -> RetrievalModel:
        if self._texts is None:
            # torch and transformers take seconds to load, which a query of words alone need not wait for.
            from malmm.model.towers.blip2 import RetrievalModel

            checkpoint = self.models().retrieval
            if checkpoint is None:
                raise ConfigError("the archive has no retrieval model")
            self._texts = self._images or RetrievalModel.load(checkpoint)
        return self._texts

    def _image_model(self) -> RetrievalModel:
        if self._images is None:
            from malmm.model.towers.blip2 import RetrievalModel

            models = self.models()
            if models.retrieval is None:
                raise ConfigError("the archive has no retrieval model")
            # The image encoders were compared when the archive was made, and the weights are still the same.
            self._images = RetrievalModel.load(
                models.retrieval, instructblip=models.instructblip, check_vision=False
            )
        return self._images

    def _image_vectors(self, path: Path) -> np.ndarray:
        import torch
        from PIL import Image, UnidentifiedImageError

        from malmm.model.families.instructblip.vision import VisionEncoder

        try:
            with Image.open(path) as opened:
                picture = opened.convert("RGB")
        except FileNotFoundError as error:
            raise ConfigError(f"no such image: {path}") from error
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise ConfigError(f"{path} is not an image that can be read: {error}") from error
        if self._vision is None:
            self._vision = VisionEncoder.load(self.models().instructblip, dtype=torch.float32).eval()
        side = self._vision.image_size
        squashed = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))
        with torch.inference_mode():
            tokens = self._vision(torch.from_numpy(squashed.copy())[None])
        return self._image_model().slot_vectors(tokens)[0].cpu().numpy()

    def _with_slots_of(self, hits: Sequence[TextHit], slots: Sequence[Slot], query: np.ndarray) -> list[Slot]:
        """``slots`` and the nearest ones of what the texts are about, so that a text leads to a moment in it."""
        there = {slot.segment_id for slot in slots} | {slot.video_id for slot in slots}
        segments = [hit.segment_id for hit in hits if hit.segment_id and hit.segment_id not in there]
        videos = [hit.video_id for hit in hits if not hit.segment_id and hit.video_id not in there]
        more: list[Slot] = []
        if segments:
            limit = _SLOTS_A_TEXT * len(segments)
            near = self.archive.similarities(segments, query, _SLOT_COLUMNS, limit=limit)
            more += [Slot(**row, similarity=similarity) for row, similarity in near]
        if videos:
            more += self._slots(query, _SLOTS_A_TEXT * len(videos), _any_of("video_id", videos), exact=True)
        return sorted([*slots, *more], key=lambda slot: -(slot.similarity or 0.0))

    def _slots(self, query: np.ndarray, count: int, where: str | None, *, exact: bool) -> list[Slot]:
        table = self.archive.table("memories")
        with lance_errors(self.archive.uri, "search"):
            asked = table.search(query.astype(np.float32), vector_column_name="vectors").distance_type(
                "cosine"
            )
            if exact or not has_index(table, VECTORS_INDEX):
                asked = asked.bypass_vector_index()
            else:
                asked = asked.nprobes(_PROBES).refine_factor(_REFINE)
            if where is not None:
                asked = asked.where(where, prefilter=True)
            rows = asked.select([*_SLOT_COLUMNS, "_distance"]).limit(count).to_list()
        done = self.archive.completed_among({row["segment_id"] for row in rows})
        # Several query vectors are compared one by one, and their distances added.
        vectors = 1 if query.ndim == 1 else len(query)
        return [
            Slot(**{name: row[name] for name in _SLOT_COLUMNS}, similarity=1 - row["_distance"] / vectors)
            for row in rows
            if row["segment_id"] in done
        ]

    def _hits(self, text: str | None, count: int, video_ids: Sequence[str] | None) -> list[TextHit]:
        if text is None:
            return []
        from lancedb.query import MatchQuery

        table = self.archive.table("annotations")
        columns = ["video_id", "segment_id", "start_s", "end_s", "text"]
        with lance_errors(self.archive.uri, "search"):
            # Words, not a query language: what people type is never a syntax error.
            asked = table.search(MatchQuery(text, "text"), query_type="fts")
            if video_ids is not None:
                asked = asked.where(_any_of("video_id", video_ids), prefilter=True)
            rows = asked.select([*columns, "_score"]).limit(count).to_list()
        # What a killed run left is not there for readers, before the next run sweeps it.
        done = self.archive.completed_among({row["segment_id"] for row in rows if row["segment_id"]})
        return [
            TextHit(**{name: row[name] for name in columns}, score=row["_score"])
            for row in rows
            if row["segment_id"] is None or row["segment_id"] in done
        ]

    def _reranked(self, text: str, moments: Sequence[Moment]) -> tuple[list[Moment], dict[Moment, float]]:
        import torch

        held = [(moment, moment.slot) for moment in moments if moment.slot is not None]
        if not held:
            return list(moments), {}
        tokens = self.archive.slot_tokens([(slot.segment_id, slot.slot) for _, slot in held])
        stacked = torch.from_numpy(np.stack(tokens).astype(np.float32))
        chances = self._image_model().match(stacked, [text] * len(held)).tolist()
        by_chance = sorted(zip(chances, held, strict=True), key=lambda pair: -pair[0])
        matched = {
            replace(moment, signals=(*moment.signals, "match")): chance for chance, (moment, _) in by_chance
        }
        return [*matched, *(moment for moment in moments if moment.slot is None)], matched


def search(archive: str, text: str, **options: Any) -> list[Found]:
    """The best moments of an archive for a text. See ``Searcher.search``, which keeps the model between queries."""
    return Searcher(archive).search(text, **options)


def _check(
    text: str | None,
    image: str | Path | None,
    like: Like | None,
    k: int,
    signals: Sequence[str],
    rerank: bool,
) -> None:
    if sum(given is not None for given in (text, image, like)) != 1:
        raise ConfigError("search for one thing: a text, an image, or a moment")
    if text is not None and not text.strip():
        raise ConfigError("an empty query finds nothing: give a few words, such as 'a red car'")
    if not 1 <= k <= MAX_K:
        raise ConfigError(f"-k {k}: from 1 to {MAX_K} results")
    if not signals or set(signals) - set(SIGNALS):
        raise ConfigError(f"signals {list(signals)}: one or more of {', '.join(SIGNALS)}")
    if rerank and text is None:
        raise ConfigError(
            "only results of a text can be re-ranked: the matching head compares pictures with words"
        )


def _any_of(column: str, ids: Iterable[str]) -> str:
    return " OR ".join(f"({part})" for part in is_in(column, ids))
