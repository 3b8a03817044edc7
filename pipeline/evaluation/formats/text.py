"""How the authors' code prepares questions and captions: LAVIS' processors ``blip_question`` and ``blip_caption``."""

from __future__ import annotations

import re

__all__ = ["as_caption", "as_question"]

_MARKS = re.compile(r"[.!\"()*#:;~]")
_SPACES = re.compile(r"\s{2,}")
_MOST_WORDS = 50


def as_question(text: str) -> str:
    """A question in lower case without marks (question marks stay), of at most 50 words."""
    return _first_words(_MARKS.sub("", text.lower()).rstrip(" "))


def as_caption(text: str) -> str:
    """A caption in lower case, each mark a space and each run of spaces one, of at most 50 words."""
    return _first_words(_SPACES.sub(" ", _MARKS.sub(" ", text.lower())).rstrip("\n").strip(" "))


def _first_words(text: str) -> str:
    return " ".join(text.split(" ")[:_MOST_WORDS])
