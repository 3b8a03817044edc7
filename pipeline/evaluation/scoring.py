"""Scores of answered questions: which answers are right, and the data set's figures with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from malmm.pipeline.evaluation.catalogue import Kind
from malmm.pipeline.evaluation.metrics.captions import bleu_of, bleu_parts, cider, rouge_l
from malmm.pipeline.evaluation.metrics.matching import chosen, digits, matches
from malmm.pipeline.evaluation.metrics.meteor import coco_words, meteor, missing_for_meteor
from malmm.pipeline.evaluation.metrics.resampling import Figure, figure_of
from malmm.pipeline.evaluation.metrics.words import words
from malmm.pipeline.evaluation.questions import Question

__all__ = ["Answered", "Scores", "difference", "score"]

_TOP = 5


@dataclass(frozen=True)
class Answered:
    """A question with the texts that the model returned, the best first."""

    question: Question
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Scores:
    """Figures over all answers, and top-1 of each task.

    ``marks`` are the score of each answer, by the question's id: 1 or 0, or a caption's CIDEr. ``notes`` are sentences
    for the report.
    """

    figures: tuple[Figure, ...]
    tasks: dict[str, Figure]
    marks: dict[str, float]
    notes: tuple[str, ...] = field(default=())


def score(kind: Kind, answered: Sequence[Answered], *, seed: int = 0) -> Scores:
    """Score answers as the data set does. Raises ValueError without answers."""
    return _captions(answered, seed) if kind.scoring == "captions" else _matched(kind, answered, seed)


def difference(
    kind: Kind,
    answered: Sequence[Answered],
    marks: Mapping[str, float],
    others: Mapping[str, float],
    *,
    seed: int = 0,
) -> Figure:
    """The data set's first figure by ``marks`` less that by ``others``, over the same questions.

    The same videos are drawn for both, so that what makes a video hard for both is no part of the interval. Raises
    ValueError without answers, KeyError for a question without both marks.
    """
    names = [each.question.question_id for each in answered]
    return figure_of(
        "difference",
        _counted([marks[name] - others[name] for name in names]),
        [each.question.group for each in answered],
        _percent,
        seed=seed,
        strata=[each.question.task for each in answered] if kind.by_task else None,
    )


def _matched(kind: Kind, answered: Sequence[Answered], seed: int) -> Scores:
    hits = [_hits(each, kind.scoring) for each in answered]
    groups = [each.question.group for each in answered]
    tasks = [each.question.task for each in answered]
    strata = tasks if kind.by_task else None
    tops = [1]
    if min(len(row) for row in hits) >= _TOP:
        tops.append(_TOP)
    figures = []
    for top in tops:
        parts = np.array([(any(row[:top]), 1.0) for row in hits])
        figures.append(figure_of(f"top-{top}", parts, groups, _percent, seed=seed, strata=strata))
    first = np.array([(row[0], 1.0) for row in hits])
    by_task = {}
    for task in sorted(set(tasks) - {""}):
        rows = [place for place, own in enumerate(tasks) if own == task]
        by_task[task] = figure_of("top-1", first[rows], [groups[row] for row in rows], _percent, seed=seed)
    marks = {each.question.question_id: float(row[0]) for each, row in zip(answered, hits, strict=True)}
    return Scores(tuple(figures), by_task, marks)


def _hits(each: Answered, scoring: str) -> list[bool]:
    texts, answer = each.texts or ("",), each.question.answers[0]
    if choices := each.question.choices:
        return matches([chosen(text, choices) for text in texts], answer)
    if scoring == "digits":
        texts = tuple(digits(text) for text in texts)
    return matches(texts, answer, first_word=scoring == "first_word")


def _captions(answered: Sequence[Answered], seed: int) -> Scores:
    said = [each.texts[0] if each.texts else "" for each in answered]
    lacking = missing_for_meteor()
    notes = [lacking] if lacking else []
    if lacking:
        captions = [words(text) for text in said]
        references = [[words(text) for text in each.question.answers] for each in answered]
        notes.append("Words are parted by this project's own rules, which differ from Java's in rare cases.")
    else:
        captions = [text[0] for text in coco_words([[text] for text in said])]
        references = coco_words([each.question.answers for each in answered])
    groups = [each.question.group for each in answered]
    figure = partial(figure_of, groups=groups, seed=seed)
    ciders = cider(captions, references)
    bleus = np.array([bleu_parts(*pair) for pair in zip(captions, references, strict=True)])
    rouges = [rouge_l(*pair) for pair in zip(captions, references, strict=True)]
    figures = [figure("CIDEr", _counted(ciders), of_sum=_percent)]
    figures += [
        figure(f"BLEU-{order}", bleus, of_sum=partial(_bleu_percent, order=order)) for order in range(1, 5)
    ]
    figures.append(figure("ROUGE_L", _counted(rouges), of_sum=_percent))
    if not lacking:
        value = 100 * meteor(captions, references)
        # METEOR is a figure of the whole corpus, and Java takes too long to resample it.
        figures.append(Figure("METEOR", value, value, value, len(answered), len(set(groups))))
        notes.append("METEOR has no interval: it is computed once, over all captions.")
    marks = {each.question.question_id: value for each, value in zip(answered, ciders, strict=True)}
    return Scores(tuple(figures), {}, marks, tuple(notes))


def _counted(values: Sequence[float]) -> np.ndarray:
    return np.array([(value, 1.0) for value in values])


def _percent(total: np.ndarray) -> float:
    return 100 * float(total[0] / total[1])


def _bleu_percent(total: np.ndarray, *, order: int) -> float:
    return 100 * bleu_of(total, order)
