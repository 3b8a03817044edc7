"""Pagination of search results: a page continues where the last one ended, whatever is committed meanwhile.

A page needs few moments, and a search for few is quick, so a deeper search runs only when a later page is requested.
Moments shown before keep their places: a deeper search adds only moments that do not overlap them.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from malmm.pipeline.searching.fusion import Moment

__all__ = ["Ranking", "Rankings"]

_KEPT = 128
_DEEPER = 4
# A hundred candidates: quick, and usually enough for a page.
_FIRST = 10
MOST_RANKED = 1000
"""Most moments of one search."""

Search = Callable[[int], Sequence[Moment]]


class Ranking:
    """The moments of one search, in the order in which they are shown.

    ``search`` returns the moments for k results; ``recipe`` identifies the tables in which they were found.
    """

    def __init__(self, search: Search, recipe: str = "") -> None:
        self.recipe = recipe
        self._search = search
        self._lock = threading.Lock()
        self._moments: list[Moment] = []
        self._spans: dict[str, list[tuple[float, float]]] = {}
        self._depth = 0

    def part(self, begin: int, end: int) -> tuple[list[Moment], bool]:
        """Moments [begin, end), or fewer at the end, and whether more follow. Raises as ``search`` does."""
        with self._lock:
            while len(self._moments) <= end and self._depth < MOST_RANKED:
                self._depth = min(MOST_RANKED, max(_FIRST, self._depth * _DEEPER))
                grown = self._add(self._search(self._depth))
                if not grown:
                    self._depth = MOST_RANKED
            return self._moments[begin:end], len(self._moments) > end

    def _add(self, moments: Sequence[Moment]) -> bool:
        before = len(self._moments)
        for moment in moments:
            shown = self._spans.setdefault(moment.video_id, [])
            if before == 0 or not any(
                begin < end_s and start_s < end for begin, end in shown for start_s, end_s in moment.spans
            ):
                shown.extend(moment.spans)
                self._moments.append(moment)
        return len(self._moments) > before


class Rankings:
    """An LRU cache of recent searches, each with a name for cursors. Thread-safe."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Ranking] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, ranking: Ranking, name: str = "") -> str:
        """Add a search and return its name."""
        name = name or secrets.token_hex(8)
        with self._lock:
            self._kept[name] = ranking
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return name

    def find(self, name: str, recipe: str = "") -> Ranking | None:
        """The search with this name and recipe, if it is still cached."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            found = self._kept.get(name)
            return found if found is not None and found.recipe == recipe else None
