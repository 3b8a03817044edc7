"""Words of a caption, as caption metrics count them, without Java.

Close to Stanford's PTBTokenizer in lower case without punctuation, which pycocoevalcap runs: contractions are parted,
words with hyphens, numbers and abbreviations stay whole.
"""

from __future__ import annotations

import re

__all__ = ["words"]

_PARTED = {
    "cannot": "can not",
    "gimme": "gim me",
    "gonna": "gon na",
    "gotta": "got ta",
    "lemme": "lem me",
    "wanna": "wan na",
    "'tis": "'t is",
    "'twas": "'t was",
    "y'all": "y' all",
    "½": "1/2",
    "¼": "1/4",
    "¾": "3/4",
}
_TOKEN = re.compile(
    r"""
    (?:[a-z]\.){2,}[a-z]?(?![a-z])                     # u.s., u.s.a
    | \b[a-z]\.(?!\w)                                  # b. smith
    | \b(?:mr|mrs|ms|dr|st|vs|prof|jr|sr|etc|no|inc|co|ltd|ave|jan|feb|aug|sept?|oct|nov|dec)\.
    | (?<![\w/])\d+/\d+(?![\w/])                       # 1/2
    | (?<![\w-])[+-]?\d+(?:[.,:]\d+)*(?![\w-])        # 1,000, 3.5, 10:30, -3
    | c\+\+ | [cf]\#(?!\w) | [#@][a-z_]\w* | </?\w+>
    | 'tis\b | 'twas\b | y'all\b | 'n' | '\d0s\b | \b(?:o|d|l|ma)'\w+
    | \w+(?=n't\b) | n't\b                             # don't
    | '(?:s|re|ve|ll|d|m)\b                            # it's
    | \w+(?:[-/.@_]\w+)*                               # t-shirt
    | !{2,} | \?{2,}
    | [^\w\s]
    """,
    re.VERBOSE,
)
_PUNCTUATION = frozenset("'`.?!,:-;\"\u2013\u2014\u201c\u201d\u2018\u2026")
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}


def words(text: str) -> list[str]:
    """The words of a text. Brackets are words, as they are to pycocoevalcap, which drops them in capitals only."""
    found: list[str] = []
    for token in _TOKEN.findall(text.lower().replace("\u2019", "'").replace("\n", " ")):
        if token in _BRACKETS:
            found.append(_BRACKETS[token])
        elif token not in _PUNCTUATION:
            found += _PARTED.get(token, token).split()
    return found
