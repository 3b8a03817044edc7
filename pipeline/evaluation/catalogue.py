"""The data sets: who reads each, how it is asked and scored, and what is published about it.

A new data set is a reader in ``formats/`` and a row here. Settings of the authors' data sets are those of
``run_scripts/*/test*.sh`` and ``lavis/projects/malmm/*.yaml`` of boheumd/MA-LMM.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from malmm.pipeline.evaluation.formats.actions import read_breakfast, read_coin
from malmm.pipeline.evaluation.formats.benchmarks import (
    read_egoschema,
    read_mlvu,
    read_ovo_bench,
    read_video_mme,
)
from malmm.pipeline.evaluation.formats.captions import read_segment_captions, read_video_captions
from malmm.pipeline.evaluation.formats.demo_world import read_demo_world
from malmm.pipeline.evaluation.formats.lvu import LVU_TASKS, read_lvu
from malmm.pipeline.evaluation.formats.open_questions import read_open_questions
from malmm.pipeline.evaluation.formats.own import read_own
from malmm.pipeline.evaluation.formats.reading import Reading, Source
from malmm.pipeline.evaluation.protocol import Protocol

__all__ = ["DATA_SETS", "Kind", "Published"]


@dataclass(frozen=True)
class Published:
    """A published figure: the name of the own figure that it compares with, its value, and whose it is."""

    figure: str
    value: float
    of: str


@dataclass(frozen=True)
class Kind:
    """A data set. ``by_task`` takes the mean over tasks.

    ``scoring`` is ``exact``, ``first_word``, ``digits`` (those of an answer without choices) or ``captions``.
    ``tasks`` are all that the published figure is over; empty if it is over all questions. ``as_authors``: pictures
    are scaled as MA-LMM's authors scale them.
    """

    title: str
    read: Callable[[Source], Reading]
    protocol: Protocol
    scoring: str = "exact"
    split: str = "test"
    by_task: bool = False
    tasks: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()
    as_authors: bool = False


_PAPER = "MA-LMM, trained on it (arXiv 2404.05726)"
_UNTRAINED = "MA-LMM, not trained on it (arXiv 2404.05726)"
_ASK = "Question: {} Short answer:"
_ACTIONS = Protocol(frames=100, bank_length=20, max_length=20)
_ANSWERS = Protocol(frames=20, bank_length=10, max_length=10, length_penalty=0.0, template=_ASK)
_CAPTIONS = Protocol(frames=80, bank_length=40, max_length=50, returned=1)
_OWN = Protocol(
    frames=60, bank_length=20, max_length=160, beams=1, returned=1, repetition_penalty=1.0, begin_token=None
)
_CHOICES = replace(_OWN, frames=64, max_length=10, choosing="written")

#: The data sets by the name of ``--dataset``.
DATA_SETS = {
    "lvu": Kind(
        "LVU",
        read_lvu,
        Protocol(frames=100, bank_length=20, max_length=5),
        by_task=True,
        tasks=LVU_TASKS,
        published=(Published("top-1", 63.0, _PAPER), Published("top-1", 33.1, _UNTRAINED)),
        as_authors=True,
    ),
    "breakfast": Kind(
        "Breakfast",
        read_breakfast,
        _ACTIONS,
        split="val",
        published=(Published("top-1", 93.0, _PAPER),),
        as_authors=True,
    ),
    "coin": Kind(
        "COIN",
        read_coin,
        _ACTIONS,
        split="val",
        published=(Published("top-1", 93.2, _PAPER),),
        as_authors=True,
    ),
    "msrvtt-qa": Kind(
        "MSRVTT-QA",
        read_open_questions,
        _ANSWERS,
        scoring="first_word",
        published=(Published("top-1", 48.5, _PAPER),),
        as_authors=True,
    ),
    "msvd-qa": Kind(
        "MSVD-QA",
        read_open_questions,
        _ANSWERS,
        scoring="first_word",
        published=(Published("top-1", 60.6, _PAPER),),
        as_authors=True,
    ),
    "activitynet-qa": Kind(
        "ActivityNet-QA",
        read_open_questions,
        _ANSWERS,
        published=(Published("top-1", 49.8, _PAPER), Published("top-1", 37.2, _UNTRAINED)),
        as_authors=True,
    ),
    "msrvtt-caption": Kind(
        "MSRVTT captions", read_video_captions, _CAPTIONS, scoring="captions", as_authors=True
    ),
    "msvd-caption": Kind(
        "MSVD captions", read_video_captions, _CAPTIONS, scoring="captions", as_authors=True
    ),
    "youcook2": Kind(
        "YouCook2 captions",
        read_segment_captions,
        Protocol(frames=80, bank_length=40, max_length=30, min_length=2, returned=1),
        scoring="captions",
        split="val",
        published=(Published("CIDEr", 131.2, _PAPER),),
        as_authors=True,
    ),
    "mlvu": Kind("MLVU", read_mlvu, _CHOICES, by_task=True),
    "video-mme": Kind("Video-MME", read_video_mme, _CHOICES),
    "egoschema": Kind("EgoSchema", read_egoschema, _CHOICES),
    "ovo-bench": Kind("OVO-Bench", read_ovo_bench, _CHOICES, scoring="digits", by_task=True),
    "own": Kind("Own questions", read_own, _OWN),
    "own-caption": Kind("Own captions", read_own, _OWN, scoring="captions"),
    "demo": Kind("The demo world", read_demo_world, _OWN),
}
