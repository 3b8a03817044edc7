"""The queue of questions for one model: each waiting question knows how many are ahead of it."""

from __future__ import annotations

import asyncio

from malmm.pipeline.web.api.problems import Busy

__all__ = ["QuestionQueue", "Turn"]


class QuestionQueue:
    """One question has its turn, and at most ``waiting`` others wait. For use in one event loop."""

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        self.line: list[Turn] = []

    def join(self) -> Turn:
        """Join the queue. Raises Busy if too many wait already."""
        if len(self.line) > self.waiting:
            raise Busy(
                f"The model is busy and {len(self.line) - 1} questions wait already: ask again in a while."
            )
        turn = Turn(self)
        self.line.append(turn)
        return turn


class Turn:
    """A place in the queue, until ``leave`` is called."""

    def __init__(self, turns: QuestionQueue) -> None:
        self._turns = turns
        self._changed = asyncio.Event()

    @property
    def ahead(self) -> int:
        """How many are ahead: 0 when it is this one's turn."""
        return self._turns.line.index(self)

    async def moved(self) -> None:
        """Wait until one ahead of this one has left."""
        await self._changed.wait()
        self._changed.clear()

    def leave(self) -> None:
        """Leave the queue; those behind move up."""
        if self in self._turns.line:
            place = self._turns.line.index(self)
            del self._turns.line[place]
            for other in self._turns.line[place:]:
                other._changed.set()
