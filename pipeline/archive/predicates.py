"""SQL filters over key columns, safe with untrusted input and bounded in length."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["IDS_PER_FILTER", "equals", "is_in"]

# Lance parses and plans every literal of an IN list, again at each retry of a delete.
IDS_PER_FILTER = 1000

_ID = re.compile(r"[0-9a-f]{8,64}(-[0-9]{4,9})?")
_COLUMN = re.compile(r"[a-z_]+")


def equals(column: str, identifier: str) -> str:
    """The filter ``column = 'identifier'``. Raises ConfigError for anything but a hexadecimal id."""
    return f"{_column(column)} = {_literal(identifier)}"


def is_in(column: str, identifiers: Iterable[str], size: int = IDS_PER_FILTER) -> Iterator[str]:
    """Filters that together select the rows whose ``column`` is one of ``identifiers``, ``size`` at a time.

    Repeated identifiers count once; without identifiers there is no filter. Raises ConfigError for anything but
    hexadecimal ids.
    """
    literals = [_literal(identifier) for identifier in dict.fromkeys(identifiers)]
    for first in range(0, len(literals), size):
        yield f"{_column(column)} IN ({', '.join(literals[first : first + size])})"


def _literal(identifier: str) -> str:
    if not isinstance(identifier, str) or not _ID.fullmatch(identifier):
        raise ConfigError(
            f"{identifier!r} is not an identifier: 24 hexadecimal digits, as the tables hold them"
        )
    return f"'{identifier}'"


def _column(name: str) -> str:
    if not _COLUMN.fullmatch(name):
        raise ConfigError(f"{name!r} is not a column of an archive")
    return name
