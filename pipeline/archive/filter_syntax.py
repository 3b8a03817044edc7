"""The language of ``--where``: conditions over columns, joined with AND, OR and NOT.

    camera = 'north' AND recorded >= '2026-01-01' AND NOT (label.weather IN ('rain', 'fog') OR start_s < 60)

A condition compares a column with values: ``=``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``LIKE``, ``ILIKE``, ``IN``,
``BETWEEN``, ``IS NULL``, each with ``NOT`` where English has it; a column of truth values may stand alone. Texts are in
single quotes (a quote within is doubled), names that are not plain words in double quotes. A name may have a part
before a dot: ``label.weather``.

The result has no NOT: it is moved into the conditions, as in SQL's logic of three values a condition and its opposite
are both false where there is no value. Values stay apart from the text all the way (``filter_columns`` writes them), so
that nothing in a filter is read as SQL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["AllOf", "AnyOf", "Condition", "Node", "Value", "parse_filter", "refusal"]

_LONGEST, _MOST_VALUES, _DEEPEST = 10_000, 1000, 50

_TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<text>'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")*")
    |(?P<number>[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?(?![\w.]))
    |(?P<word>[^\W\d](?:[\w-]*\w)?|[0-9][\w-]*)
    |(?P<sign><=|>=|<>|!=|==|=|<|>|\(|\)|,|\.)""",
    re.VERBOSE,
)
_OPPOSITE = {
    "=": "!=",
    "<": ">=",
    ">": "<=",
    "LIKE": "NOT LIKE",
    "ILIKE": "NOT ILIKE",
    "IN": "NOT IN",
    "BETWEEN": "NOT BETWEEN",
    "IS NULL": "IS NOT NULL",
    "IS TRUE": "IS FALSE",
}
_OPPOSITES = _OPPOSITE | {after: before for before, after in _OPPOSITE.items()}
_SAME = {"==": "=", "<>": "!="}
_RESERVED = {"AND", "OR", "NOT", "IN", "LIKE", "ILIKE", "BETWEEN", "IS", "NULL", "TRUE", "FALSE"}


@dataclass(frozen=True)
class Value:
    """A value of a filter: its text, ``kind`` (text, number or bool), and where it stands."""

    text: str
    kind: str
    place: int


@dataclass(frozen=True)
class Condition:
    """A condition over one column. ``names`` are the parts of its name, and ``place`` is where it stands."""

    names: tuple[str, ...]
    place: int
    operator: str
    values: tuple[Value, ...] = ()

    @property
    def name(self) -> str:
        """The column as it was written."""
        return ".".join(self.names)


@dataclass(frozen=True)
class AllOf:
    """Holds where all parts hold."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class AnyOf:
    """Holds where one of its parts holds."""

    parts: tuple[Node, ...]


Node = Condition | AllOf | AnyOf


def refusal(text: str, place: int, why: str) -> ConfigError:
    """The error for a filter, with the place that is wrong."""
    near = text[place : place + 24].split("\n")[0]
    at = f"at character {place + 1} (near {near!r})" if near else "at its end"
    return ConfigError(f"the filter {text[:200]!r} is wrong {at}: {why}")


def parse_filter(text: str) -> Node:
    """Parse a filter. Raises ConfigError that says where it is wrong."""
    if len(text) > _LONGEST:
        raise ConfigError(f"the filter has {len(text)} characters, and may have {_LONGEST}")
    if not text.strip():
        raise ConfigError(
            "the filter is empty: write a condition such as \"camera = 'north'\", or leave it out"
        )
    return _Parser(text).whole()


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    place: int


def _tokens(text: str) -> Iterator[_Token]:
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            why = {
                "'": "this text is never closed: it needs another '",
                '"': 'this name is never closed: it needs another "',
            }.get(text[place], f"{text[place]!r} means nothing here")
            raise refusal(text, place, why)
        if found.lastgroup != "space":
            yield _Token(str(found.lastgroup), found.group(), place)
        place = found.end()
    yield _Token("end", "", len(text))


class _Parser:
    """Reads tokens from left to right. ``opposite`` is whether an odd number of NOTs stands before."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._next = 0
        self._depth = 0

    def whole(self) -> Node:
        found = self._any(opposite=False)
        if self._token.kind != "end":
            raise self._refuse("AND, OR or the end should follow")
        return found

    def _any(self, *, opposite: bool) -> Node:
        return self._joined("OR", self._all, opposite=opposite)

    def _all(self, *, opposite: bool) -> Node:
        return self._joined("AND", self._one, opposite=opposite)

    def _joined(self, word: str, read: Callable[..., Node], *, opposite: bool) -> Node:
        parts = [read(opposite=opposite)]
        while self._takes(word):
            parts.append(read(opposite=opposite))
        if len(parts) == 1:
            return parts[0]
        # The opposite of "both" is "one of the opposites".
        return AllOf(tuple(parts)) if (word == "AND") != opposite else AnyOf(tuple(parts))

    def _one(self, *, opposite: bool) -> Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._refuse(f"more than {_DEEPEST} parentheses and NOTs within one another")
        try:
            if self._takes("NOT"):
                return self._one(opposite=not opposite)
            if self._takes("("):
                found = self._any(opposite=opposite)
                self._expect(")")
                return found
            return self._condition(opposite=opposite)
        finally:
            self._depth -= 1

    def _condition(self, *, opposite: bool) -> Condition:
        place = self._token.place
        names = [self._name()]
        while self._takes("."):
            names.append(self._name())
        operator, values = self._comparison()
        return Condition(tuple(names), place, _OPPOSITES[operator] if opposite else operator, values)

    def _comparison(self) -> tuple[str, tuple[Value, ...]]:
        token = self._token
        if token.kind == "sign" and (token.text in _OPPOSITES or token.text in _SAME):
            self._next += 1
            return _SAME.get(token.text, token.text), (self._value(),)
        if self._takes("IS"):
            negated = self._takes("NOT")
            if self._takes("NULL"):
                return ("IS NOT NULL" if negated else "IS NULL"), ()
            for word in ("TRUE", "FALSE"):
                if self._takes(word):
                    return ("IS FALSE" if (word == "FALSE") != negated else "IS TRUE"), ()
            raise self._refuse("NULL, TRUE or FALSE should follow IS")
        negated = self._takes("NOT")
        if self._takes("IN"):
            operator, values = "IN", self._list()
        elif self._takes("BETWEEN"):
            low = self._value()
            self._expect("AND")
            operator, values = "BETWEEN", (low, self._value())
        elif self._takes("LIKE"):
            operator, values = "LIKE", (self._value(),)
        elif self._takes("ILIKE"):
            operator, values = "ILIKE", (self._value(),)
        elif negated:
            raise self._refuse("IN, LIKE, ILIKE or BETWEEN should follow NOT")
        else:
            return "IS TRUE", ()
        return (_OPPOSITES[operator] if negated else operator), values

    def _list(self) -> tuple[Value, ...]:
        self._expect("(")
        values = [self._value()]
        while self._takes(","):
            values.append(self._value())
            if len(values) > _MOST_VALUES:
                raise self._refuse(f"a list may have {_MOST_VALUES} values")
        self._expect(")")
        return tuple(values)

    def _value(self) -> Value:
        token = self._token
        self._next += 1
        if token.kind == "text":
            return Value(token.text[1:-1].replace("''", "'"), "text", token.place)
        if token.kind == "number":
            return Value(token.text, "number", token.place)
        if token.kind == "word" and token.text.upper() in ("TRUE", "FALSE"):
            return Value(token.text.lower(), "bool", token.place)
        if token.kind == "word" and token.text.upper() == "NULL":
            raise refusal(self._text, token.place, "nothing equals NULL: write IS NULL or IS NOT NULL")
        if token.kind in ("word", "quoted"):
            inner = token.text.strip('"').replace("'", "''")
            why = f"a value should stand here; a text is written in single quotes: '{inner}'"
            raise refusal(self._text, token.place, why)
        raise refusal(self._text, token.place, "a value should stand here: a number, 'a text', TRUE or FALSE")

    def _name(self) -> str:
        token = self._token
        if token.kind == "quoted":
            self._next += 1
            return token.text[1:-1].replace('""', '"')
        if token.kind == "word" and token.text.upper() not in _RESERVED:
            self._next += 1
            return token.text
        raise self._refuse("the name of a column should stand here")

    @property
    def _token(self) -> _Token:
        return self._tokens[min(self._next, len(self._tokens) - 1)]

    def _takes(self, wanted: str) -> bool:
        token = self._token
        if token.kind in ("word", "sign") and token.text.upper() == wanted:
            self._next += 1
            return True
        return False

    def _expect(self, wanted: str) -> None:
        if not self._takes(wanted):
            raise self._refuse(f"{wanted!r} should stand here")

    def _refuse(self, why: str) -> ConfigError:
        return refusal(self._text, self._token.place, why)
