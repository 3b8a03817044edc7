"""Whether an answer is right: equal strings, as MA-LMM's authors score them.

Source: boheumd/MA-LMM, ``lavis/tasks/vqa.py`` and ``classification.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["chosen", "digits", "matches"]


def matches(texts: Sequence[str], answer: str, *, first_word: bool = False) -> list[bool]:
    """Whether each of the returned texts equals the answer; with ``first_word``, up to the first space."""
    return [(text.split(" ")[0] if first_word else text) == answer for text in texts]


def chosen(text: str, choices: Sequence[str]) -> str:
    """The choice that a written answer names; the text itself if it names none.

    A choice itself, else the first letter of a choice that stands alone (``B``, ``(B)``, ``B.``), for choices that are
    letters, else the first choice that the text begins with, whatever its case.
    """
    if text in choices:
        return text
    for found in re.finditer(r"(?<![\w'])([A-Z])(?![\w'])", text):
        if found[1] in choices:
            return found[1]
    begun = [choice for choice in choices if text.lower().startswith(choice.lower())]
    return max(begun, key=len) if begun else text


def digits(text: str) -> str:
    """The digits of a text, one behind the other, as OVO-Bench reads a counted number."""
    return "".join(re.findall(r"[0-9]", text))
