"""Words of languages that an English tokenizer does not split: a column beside each text, and how a query meets it.

LanceDB's words are runs of letters, stemmed as English: 猫 is not found in 黒猫が座る, 고양이 not in 고양이가,
Fahrzeug not in Feuerwehrfahrzeug, and élève not as eleve. Texts that are not plain English therefore have a second
column of grams, in which characters of scripts without spaces count one by one and in pairs, and words of others as
they are and in threes, without accents. English texts have none there, and their ranking stays that of their words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

__all__ = ["GRAMS_COLUMN", "QueryGrams", "grams_of", "is_plain_english", "with_grams"]

GRAMS_COLUMN = "text_grams"
"""The column of ``annotations`` that holds a text's grams with spaces between; null for plain English."""

_GRAM = 3
_FEWEST_LETTERS = 4
_ENOUGH = 0.6
# Longer words are rare in English, and compounds in others.
_LONG = 14
# Han, kana, Hangul, Thai, Lao, Tibetan, Burmese and Khmer: scripts whose words are not, or not always, apart.
_DENSE = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]"
)
_HAN = re.compile("[\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
# Accents of Latin, Greek and Cyrillic, points of Hebrew and Arabic. Marks of kana and Indic scripts stay: without them
# it is another letter.
_ACCENTS = re.compile(
    "[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0640\u064b-\u0652\u0670]"
)
_PLAIN_LETTERS = str.maketrans(
    {"đ": "d", "ø": "o", "ł": "l", "\u0131": "i", "æ": "ae", "œ": "oe", "þ": "th", "ð": "d"}
)
_ENGLISH_WORDS = (
    "a about after all an and are as at be behind between but by can does down first for from has have he her his how "
    "in into is it its left moving near no not of off on one or out over right she some that the their then there "
    "these they this through to two under up was were what when where which while who with without you"
)
_OTHER_WORDS = (
    "aan al alla allo att auf aus avec bei bir bis com con d da dal dalla dan dans das de degli dei del della den der "
    "des det di die dla do dos du durch ein eine einem einen einer eines el elle en ena er es est et ett fra fram het "
    "hos ich ihr il ile im ist ja jag je jest ju ke kein keine l la las le leur lo los lui mais med met mit mot nach "
    "nad nei nella nicht nie non och oder og ou ove pada para parmi pas per pod por pour pra przy qu quand que qui sa "
    "sans se sein seine si sich sie sind som sono sont su sua sul sulla sur te till tra um una und une uno unter "
    "uma van vers vid voor vom von vor wie wird y yang ya za ze zu zum zur zwei zwischen"
)
_ENGLISH, _OTHERS = frozenset(_ENGLISH_WORDS.split()), frozenset(_OTHER_WORDS.split())


def is_plain_english(text: str) -> bool:
    """Whether English words are all that a text may be found by, so that it needs no grams.

    Letters beyond ASCII, more little words of other languages than of English, or a long word without any little
    word make a text something else. A short text that says neither counts as English.
    """
    if any(ord(letter) > 127 and letter.isalpha() for letter in text):
        return False
    words = re.findall(r"[a-z]+", text.lower())
    english = sum(word in _ENGLISH for word in words)
    others = sum(word in _OTHERS for word in words)
    return others <= english and (english > 0 or max(map(len, words), default=0) < _LONG)


def grams_of(text: str) -> str | None:
    """The grams of a text with spaces between; None for plain English."""
    if is_plain_english(text):
        return None
    return " ".join(gram for run in _runs(text) for gram in _grams(run)) or None


def with_grams(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of ``annotations`` with their grams, in the columns of the table's schema.

    Archives of 0.1 lack columns, that of grams among them, until they are optimized. Columns that the rows lack are
    null.
    """
    if GRAMS_COLUMN in schema.names:
        grams = pa.array([grams_of(text) for text in rows["text"].to_pylist()], pa.string())
        rows = rows.append_column(schema.field(GRAMS_COLUMN), grams)
    for field in schema:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows.select(schema.names)


@dataclass(frozen=True)
class QueryGrams:
    """A query's words as grams, to look texts up by, and to tell which of those found have the words."""

    words: str
    runs: tuple[str, ...]

    @classmethod
    def of(cls, words: str) -> QueryGrams:
        """Of what people type."""
        return cls(words, tuple(_runs(words)))

    @property
    def is_first(self) -> bool:
        """Whether texts found by grams come before those found by English words, as the query is not English."""
        return any(ord(letter) > 127 and letter.isalpha() for letter in self.words)

    @property
    def wanted(self) -> str:
        """The grams to look up, with spaces between."""
        return " ".join(dict.fromkeys(gram for run in self.runs for gram in _looked_up(run)))

    def are_in(self, grams: str) -> bool:
        """Whether one of the query's words is in a text of these grams, perhaps inflected or in a compound."""
        there = frozenset(grams.split(" "))
        return any(_is_in(run, there) for run in self.runs)


def _is_in(run: str, there: frozenset[str]) -> bool:
    if run in there:
        return True
    if not _DENSE.match(run):
        return len(run) >= _FEWEST_LETTERS and _share(_threes(run), there) >= _ENOUGH
    # 黑猫 is in 黑色的猫, and 食べる in 食べます: of what is written with Han, these characters carry the meaning.
    meaning = _HAN.findall(run)
    return (bool(meaning) and there.issuperset(meaning)) or _share(_pairs(run), there) >= _ENOUGH


def _share(grams: Sequence[str], there: frozenset[str]) -> float:
    return sum(gram in there for gram in grams) / len(grams) if grams else 0.0


def _grams(run: str) -> list[str]:
    if _DENSE.match(run):
        return [*run, *_pairs(run)]
    return [run, *(_threes(run) if len(run) >= _FEWEST_LETTERS else [])]


def _looked_up(run: str) -> list[str]:
    """As ``_grams``, without single letters that are in every other text."""
    if _DENSE.match(run) and len(run) > 1:
        return [*_HAN.findall(run), *_pairs(run)]
    return _grams(run)


def _pairs(run: str) -> list[str]:
    return [run[place : place + 2] for place in range(len(run) - 1)]


def _threes(word: str) -> list[str]:
    # Marked, so that the three letters of `car` in `carpet` are not the word.
    return [f"_{word[place : place + _GRAM]}" for place in range(len(word) - _GRAM + 1)]


def _runs(text: str) -> Iterator[str]:
    """Words, and unbroken stretches of scripts without spaces, in lower case, without accents."""
    apart = _ACCENTS.sub("", unicodedata.normalize("NFKD", text).casefold())
    folded = unicodedata.normalize("NFKC", apart).translate(_PLAIN_LETTERS)
    run, was_dense = "", False
    for letter in folded:
        belongs = letter.isalnum() or unicodedata.category(letter).startswith("M")
        dense = belongs and _DENSE.match(letter) is not None
        if run and (not belongs or dense != was_dense):
            yield run
            run = ""
        if belongs:
            run += letter
        was_dense = dense
    if run:
        yield run
