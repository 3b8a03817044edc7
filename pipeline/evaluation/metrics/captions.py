"""BLEU, ROUGE-L and CIDEr as pycocoevalcap computes them, from words.

Sources: Papineni et al., "BLEU" (2002); Lin, "ROUGE" (2004), with beta 1.2 and the best reference's precision and
recall apart; Vedantam et al., "CIDEr" (2015), which in pycocoevalcap has CIDEr-D's clipping and length penalty.
Figures are equal to pycocoevalcap's to 1e-9, given its words.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

__all__ = ["BLEU_PARTS", "bleu_of", "bleu_parts", "cider", "rouge_l"]

Words = Sequence[str]
_ORDER = 4
#: Numbers that ``bleu_parts`` returns for a caption.
BLEU_PARTS = 2 * _ORDER + 2
_BETA = 1.2
_SIGMA = 6.0
# pycocoevalcap's, which keep an empty caption from dividing by zero.
_SMALL, _TINY = 1e-9, 1e-15


def _ngrams(words: Words) -> Counter[tuple[str, ...]]:
    return Counter(
        tuple(words[begin : begin + order])
        for order in range(1, _ORDER + 1)
        for begin in range(len(words) - order + 1)
    )


def bleu_parts(caption: Words, references: Sequence[Words]) -> np.ndarray:
    """Terms of BLEU's sums over captions: lengths of caption and closest reference, n-grams matched, n-grams made."""
    most: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        most |= _ngrams(reference)
    right = [0] * _ORDER
    for ngram, count in _ngrams(caption).items():
        right[len(ngram) - 1] += min(most[ngram], count)
    closest = min((abs(len(reference) - len(caption)), len(reference)) for reference in references)[1]
    made = [max(0, len(caption) - order) for order in range(_ORDER)]
    return np.array([len(caption), closest, *right, *made], dtype=np.float64)


def bleu_of(parts: np.ndarray, order: int = 4) -> float:
    """BLEU up to n-grams of ``order``, of a corpus whose ``bleu_parts`` have this sum."""
    right, made = parts[2 : 2 + _ORDER], parts[2 + _ORDER :]
    shares = [(right[place] + _TINY) / (made[place] + _SMALL) for place in range(order)]
    ratio = (parts[0] + _TINY) / (parts[1] + _SMALL)
    return math.prod(shares) ** (1 / order) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0)


def rouge_l(caption: Words, references: Sequence[Words]) -> float:
    """ROUGE-L of one caption. Words of an empty text are one empty word."""
    said = list(caption) or [""]
    common = [(_common(said, list(reference) or [""]), max(1, len(reference))) for reference in references]
    precision = max(length / len(said) for length, _ in common)
    recall = max(length / of for length, of in common)
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _common(first: Words, second: Words) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = 0
        for place, other in enumerate(second, 1):
            before, row[place] = row[place], before + 1 if word == other else max(row[place], row[place - 1])
    return row[-1]


def cider(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> list[float]:
    """CIDEr of each caption; rarity of n-grams is counted over the references of all of them."""
    counted = [[_ngrams(reference) for reference in of] for of in references]
    documents: Counter[tuple[str, ...]] = Counter()
    for each in counted:
        documents.update({ngram for ngrams in each for ngram in ngrams})
    total = math.log(len(captions)) if captions else 0.0

    def weighted(
        ngrams: Counter[tuple[str, ...]],
    ) -> tuple[list[dict[tuple[str, ...], float]], list[float], int]:
        weights: list[dict[tuple[str, ...], float]] = [{} for _ in range(_ORDER)]
        for ngram, count in ngrams.items():
            weights[len(ngram) - 1][ngram] = count * (total - math.log(max(1, documents[ngram])))
        norms = [math.sqrt(sum(value**2 for value in of.values())) for of in weights]
        return weights, norms, sum(count for ngram, count in ngrams.items() if len(ngram) == 2)

    scores = []
    for caption, each in zip(captions, counted, strict=True):
        said, said_norms, said_length = weighted(_ngrams(caption))
        found = 0.0
        for ngrams in each:
            told, told_norms, told_length = weighted(ngrams)
            penalty = math.exp(-((said_length - told_length) ** 2) / (2 * _SIGMA**2))
            for of_said, of_told, norm, other in zip(said, told, said_norms, told_norms, strict=True):
                shared = sum(
                    min(value, of_told.get(ngram, 0.0)) * of_told.get(ngram, 0.0)
                    for ngram, value in of_said.items()
                )
                found += (shared / (norm * other) if norm and other else shared) * penalty
        scores.append(10 * found / _ORDER / len(each))
    return scores
