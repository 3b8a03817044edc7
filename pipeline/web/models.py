"""The models behind a page: vectors of search texts and answers to questions, computed off the event loop.

A page needs only the protocol ``Models``. ``LocalModels`` runs them in this process; ``malmm.pipeline.web.ray_serve``
runs them in replicas.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.searching.asker import Answer, Asker, Reply
from malmm.pipeline.web.api.events import Answered, Begun, CitedMoment, Done, Event, Queued, Started, Words
from malmm.pipeline.web.api.problems import Busy
from malmm.pipeline.web.api.response_models import spans_of
from malmm.pipeline.web.display_names import name_of
from malmm.pipeline.web.state.live import LiveArchive
from malmm.pipeline.web.state.question_queue import QuestionQueue, Turn

__all__ = ["LocalModels", "Models"]

_SEARCHES_WAITING = 64


class Models(Protocol):
    """The archive's models as a page uses them."""

    async def vector(self, text: str) -> np.ndarray | None:
        """The text's unit vector [V]; None for an archive without vectors. Raises CheckpointError and Busy."""
        ...

    def ask(
        self, question: str, video_ids: Sequence[str] | None, k: int, where: str | None = None
    ) -> AsyncIterator[Event]:
        """Answer, as a stream of events. Raises Busy before the first event, and as ``Asker.ask`` does after it."""
        ...


class _GoneAwayError(Exception):
    """The client has disconnected."""


class LocalModels:
    """The models in this process. One thread makes vectors, another answers, so that neither waits for the other."""

    def __init__(self, archive: LiveArchive, *, max_new_tokens: int, waiting: int) -> None:
        self._archive = archive
        self._max_new_tokens = max_new_tokens
        self._vectors = ThreadPoolExecutor(1, "vectors")
        self._answers = ThreadPoolExecutor(1, "answers")
        self._searching = 0
        self._turns = QuestionQueue(waiting)
        self._asker: Asker | None = None
        self._asked_of = ""

    def warm(self) -> None:
        """Start loading what the first query needs. That query raises the error, if there is one."""
        self._vectors.submit(self._vector, "warm")

    def close(self) -> None:
        """Let the threads end."""
        self._vectors.shutdown(wait=False, cancel_futures=True)
        self._answers.shutdown(wait=False, cancel_futures=True)

    async def vector(self, text: str) -> np.ndarray | None:
        """See ``Models``."""
        if self._searching > _SEARCHES_WAITING:
            raise Busy(f"{self._searching} searches wait already: search again in a while.")
        self._searching += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._vectors, self._vector, text)
        finally:
            self._searching -= 1

    async def ask(
        self, question: str, video_ids: Sequence[str] | None, k: int, where: str | None = None
    ) -> AsyncIterator[Event]:
        """See ``Models``. Stops generating when the iteration is left."""
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[Event | None] = asyncio.Queue()
        stopped = threading.Event()
        answering: asyncio.Future[Reply] | None = None

        def tell(event: Event) -> None:
            if stopped.is_set():
                raise _GoneAwayError
            loop.call_soon_threadsafe(told.put_nowait, event)

        turn = self._turns.join()
        try:
            while turn.ahead:
                yield Queued(ahead=turn.ahead)
                await turn.moved()
            yield Started()
            asked = {"video_ids": video_ids, "k": k, "where": where}
            answering = loop.run_in_executor(self._answers, self._answered, question, asked, tell)
            answering.add_done_callback(lambda _: told.put_nowait(None))
            # The turn lasts as long as the thread works: until its next event if the client has disconnected, and no
            # longer than the answer takes, however slowly the client reads.
            answering.add_done_callback(lambda done: _left(turn, done))
            while (event := await told.get()) is not None:
                yield event
            reply = answering.result()
            yield Done(found=reply.found, similarity=reply.similarity, threshold=reply.threshold)
        finally:
            stopped.set()
            if answering is None:
                turn.leave()

    def _vector(self, text: str) -> np.ndarray | None:
        searcher = self._archive.searcher
        return searcher.text_vectors([text])[0] if searcher.archive.slots.has_vectors else None

    def _answered(self, question: str, asked: Mapping[str, Any], tell: Callable[[Event], None]) -> Reply:
        starts: dict[str, float] = {}
        unfinished: list[Answer] = []
        begun = False

        def finish(texts: Sequence[str]) -> None:
            # An answer is complete when the next one begins.
            if unfinished:
                tell(Answered(text="".join(texts).strip()))
            unfinished.clear()

        words: list[str] = []

        def on_begun(answer: Answer) -> None:
            nonlocal begun
            finish(words)
            words.clear()
            if answer.video_id not in starts:
                rows = asker.archive.video_rows([answer.video_id]).to_pylist()
                starts.update({row["video_id"]: row["start_s"] for row in rows})
            pictures = _pictures(asker.archive, answer)
            unfinished.append(answer)
            begun = True
            tell(_begun(answer, starts.get(answer.video_id, 0.0), pictures))

        def on_words(text: str) -> None:
            words.append(text)
            tell(Words(text=text))

        options: dict[str, Any] = {**asked, "on_begun": on_begun, "on_words": on_words}
        while True:
            asker = self._current()
            try:
                reply = asker.ask(question, **options)
            except ArchiveError:
                # A new recipe has replaced this asker's: try again, unless events were sent already.
                if begun or not self._archive.renewed(self._asked_of):
                    raise
            else:
                finish(words)
                return reply

    def _current(self) -> Asker:
        """The asker of the recipe in force. It has models of its own, since tokenizers are not thread-safe."""
        served = self._archive.reader.uri
        if self._asker is None or self._asked_of != served:
            # Of several archives it may ask fewer.
            self._asked_of = served
            self._asker = Asker(self._archive.another_searcher(), max_new_tokens=self._max_new_tokens)
        return self._asker


def _left(turn: Turn, done: asyncio.Future[Reply]) -> None:
    """Give the turn back, and mark the future's exception as seen: ``ask`` raises it, if anybody still waits."""
    turn.leave()
    if not done.cancelled():
        done.exception()


def _pictures(archive: ArchiveReader, answer: Answer) -> dict[tuple[str, float], str]:
    """Addresses of the cited segments' thumbnails, by segment and time: a moment's time is its best slot's."""
    segments = {moment.segment_id for moment in answer.moments if moment.segment_id is not None}
    rows = archive.memory_rows(sorted(segments), ("memory_id", "segment_id", "timestamp_s")).to_pylist()
    return {
        (row["segment_id"], row["timestamp_s"]): f"api/memories/{row['memory_id']}/thumbnail" for row in rows
    }


def _begun(answer: Answer, video_start_s: float, pictures: Mapping[tuple[str, float], str]) -> Begun:
    return Begun(
        video_id=answer.video_id,
        name=name_of(answer.uri),
        segment_id=answer.segment_id,
        start_s=answer.start_s,
        end_s=answer.end_s,
        video_start_s=video_start_s,
        moments=[
            CitedMoment(
                start_s=moment.start_s,
                end_s=moment.end_s,
                timestamp_s=moment.timestamp_s,
                similarity=moment.similarity,
                thumbnail=pictures.get((moment.segment_id or "", moment.timestamp_s)),
                spans=spans_of(moment.spans),
            )
            for moment in answer.moments
        ],
    )
