"""Paging through what a search found: later pages go on where the first left off, whatever is committed meanwhile.

A page needs few moments and a search that finds few is quick, so more are looked for only when somebody goes on. What
was shown keeps its place: a deeper search adds what overlaps nothing that is there.
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
# A hundred candidates: that is quick, and most often enough for a page.
_FIRST = 10
MOST_RANKED = 1000
"""Moments of one search: nobody looks further."""

Search = Callable[[int], Sequence[Moment]]


class Ranking:
    """The moments of one search in the order that they are shown in.

    ``search`` gives those for k results; ``recipe`` tells what they were found in from what came after it.
    """

    def __init__(self, search: Search, recipe: str = "") -> None:
        self.recipe = recipe
        self._search = search
        self._lock = threading.Lock()
        self._moments: list[Moment] = []
        self._spans: dict[str, list[tuple[float, float]]] = {}
        self._depth = 0

    def part(self, begin: int, end: int) -> tuple[list[Moment], bool]:
        """Moments [begin, end), as many as there are, and whether more follow. Raises as the search does."""
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
            spans = self._spans.setdefault(moment.video_id, [])
            if not any(start < moment.end_s and moment.start_s < end for start, end in spans) or before == 0:
                spans.append((moment.start_s, moment.end_s))
                self._moments.append(moment)
        return len(self._moments) > before


class Rankings:
    """The searches of late, each with a name for cursors. Safe to use from several threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Ranking] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, ranking: Ranking, name: str = "") -> str:
        """Keep one; gives its name."""
        name = name or secrets.token_hex(8)
        with self._lock:
            self._kept[name] = ranking
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return name

    def find(self, name: str, recipe: str = "") -> Ranking | None:
        """The one of that name and recipe, if it is still kept."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            found = self._kept.get(name)
            return found if found is not None and found.recipe == recipe else None
