"""Scores of texts by their words (BM25) over several archives, with the statistics of all of them.

Lance's own scores are BM25 too (Robertson and Zaragoza, 2009, "The Probabilistic Relevance Framework", with Lucene's
idf), but by the statistics of one table: a word that is rare in one archive counts more there than where it is
frequent. Here they are computed anew from the texts, as Lance would over one table of all texts.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import lance
import numpy as np
from lance.query import MatchQuery

from malmm.pipeline.archive.location import lance_errors
from malmm.pipeline.archive.predicates import IDS_PER_FILTER, is_in
from malmm.pipeline.archive.reader import ArchiveReader

__all__ = ["Statistics", "TextStatistics", "pooled", "scores", "words_of", "words_of_each"]

_K1, _B = 1.2, 0.75
# The mean length is that of so many texts at most: it changes a score little.
_MEASURED = 4096
_WORDS_KEPT = 4096
# Stands between texts, as a word that no stemmer changes.
_BETWEEN = "qz7between7zq"


@dataclass(frozen=True)
class Statistics:
    """How many texts there are, how many words they have in all, and how many texts have each word."""

    texts: int
    length: float
    with_word: Counter[str] = field(default_factory=Counter)

    def weight(self, word: str) -> float:
        """The inverse document frequency."""
        having = self.with_word[word]
        return math.log(1 + (self.texts - having + 0.5) / (having + 0.5))


def words_of(text: str, column: str) -> list[str]:
    """The words of a text as Lance's index of a column of ``annotations`` has them."""
    if column != "text":
        return text.split()  # grams, with spaces between
    # As in archive.search_indexes: English words, which is Lance's default.
    tokens = lance.tokenize(
        text, language="English", lower_case=True, stem=True, remove_stop_words=True, ascii_folding=True
    )
    return [token.text for token in tokens]


def words_of_each(texts: Sequence[str], column: str) -> list[list[str]]:
    """``words_of`` of each text, in one call: a call costs more than the words of most texts."""
    if column != "text":
        return [words_of(text, column) for text in texts]
    found: list[list[str]] = [[]]
    for word in words_of(f" {_BETWEEN} ".join(texts), column):
        if word == _BETWEEN:
            found.append([])
        else:
            found[-1].append(word)
    # A text may have that word too.
    return found if len(found) == len(texts) else [words_of(text, column) for text in texts]


def pooled(parts: Sequence[Statistics]) -> Statistics:
    """The statistics of several archives together."""
    with_word: Counter[str] = Counter()
    for part in parts:
        with_word.update(part.with_word)
    return Statistics(sum(part.texts for part in parts), sum(part.length for part in parts), with_word)


def scores(asked: Sequence[str], texts: Sequence[Sequence[str]], statistics: Statistics) -> list[float]:
    """How well the words of each text match those that are asked for."""
    weights = [(word, statistics.weight(word)) for word in asked]
    mean = max(statistics.length / max(1, statistics.texts), 1e-9)
    found = []
    for text in texts:
        worn = _K1 * (1 - _B + _B * len(text) / mean)
        total = 0.0
        for word, weight in weights:
            if times := text.count(word):
                total += weight * times * (_K1 + 1) / (times + worn)
        # Lance computes with 32 bits: what it takes for equal is to be equal here.
        found.append(float(np.float32(total)))
    return found


class TextStatistics:
    """Statistics of one archive's texts, kept until they change. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state: object = None
        self._sizes: dict[str, tuple[int, float]] = {}
        self._having: OrderedDict[tuple[str, str], int] = OrderedDict()

    def of(
        self,
        archive: ArchiveReader,
        column: str,
        words: Sequence[str],
        elsewhere: frozenset[str],
        found: Sequence[Sequence[str]] | None,
    ) -> Statistics:
        """Statistics of a column of ``annotations`` for these words.

        ``elsewhere`` are videos whose texts do not count, as they are read from another archive; more than a thousand
        of them do count. ``found`` are the words of all texts that have any of these words, if they were read.
        """
        skipped = "" if len(elsewhere) > IDS_PER_FILTER else next(is_in("video_id", sorted(elsewhere)), "")
        dataset = archive.tables.dataset("annotations")
        if column not in dataset.schema.names:
            return Statistics(0, 0.0)
        state = (archive.uri, dataset.version, skipped)
        with self._lock:
            if self._state != state:
                self._state, self._sizes = state, {}
                self._having.clear()
            size = self._sizes.get(column)
            having = {word: self._having[column, word] for word in words if (column, word) in self._having}
        condition = f"NOT ({skipped})" if skipped else None
        with lance_errors(archive.uri, "search"):
            size = size or _size(dataset, column, condition)
            if found is not None:
                times = Counter(word for text in found for word in set(text))
                having |= {word: times[word] for word in words}
            for word in words:
                if word not in having:
                    having[word] = _having(dataset, column, word, condition)
        with self._lock:
            if self._state == state:
                self._sizes[column] = size
                for word, count in having.items():
                    self._having[column, word] = count
                while len(self._having) > _WORDS_KEPT:
                    self._having.popitem(last=False)
        return Statistics(*size, Counter(having))


def _size(dataset: lance.LanceDataset, column: str, condition: str | None) -> tuple[int, float]:
    """How many texts a column has, and how many words they have in all, estimated where there are very many."""
    there = f"{column} IS NOT NULL" + (f" AND {condition}" if condition else "")
    texts = dataset.count_rows(filter=there)
    if texts == 0:
        return 0, 0.0
    if texts <= _MEASURED:
        measured: list[Any] = dataset.to_table(columns=[column], filter=there)[column].to_pylist()
    else:
        rows = dataset.count_rows()
        places = np.linspace(0, rows - 1, _MEASURED).astype(int).tolist()
        measured = dataset.take(places, columns=[column])[column].drop_null().to_pylist()
    # Words of several texts at once: stop words and stems do not depend on their neighbours.
    words = len(words_of("\n".join(measured), column))
    return texts, texts * words / max(1, len(measured))


def _having(dataset: lance.LanceDataset, column: str, word: str, condition: str | None) -> int:
    """How many texts have a word."""
    scanner = dataset.scanner(
        columns=["annotation_id", "_score"],
        full_text_query=MatchQuery(word, column),
        filter=condition,
        prefilter=True,
    )
    return int(scanner.count_rows())
