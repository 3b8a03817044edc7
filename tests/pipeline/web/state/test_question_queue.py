from __future__ import annotations

import asyncio

import pytest

from malmm.pipeline.web.api.problems import Busy
from malmm.pipeline.web.state.question_queue import QuestionQueue


def test_those_who_wait_are_told_how_many_come_before() -> None:
    async def go() -> None:
        turns = QuestionQueue(2)
        first, second, third = turns.join(), turns.join(), turns.join()
        assert [turn.ahead for turn in (first, second, third)] == [0, 1, 2]
        with pytest.raises(Busy, match="2 questions wait"):
            turns.join()
        waits = asyncio.ensure_future(third.moved())
        second.leave()
        await waits
        assert third.ahead == 1
        first.leave()
        first.leave()
        await third.moved()
        assert third.ahead == 0
        assert turns.join().ahead == 1

    asyncio.run(go())
