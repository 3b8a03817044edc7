"""An engine that has greedy texts written by a vLLM server; all else stays with transformers in this process.

vLLM scores no labels after prompt embeddings, has other beams than transformers, and does not know our grammars.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import Any, Protocol

import torch
from torch import Tensor

from malmm.model.batch_limit import BatchLimit, Mishap
from malmm.model.decoding import Decoding, TextTokens
from malmm.model.families.family import Asked, LabelScores, LanguagePart
from malmm.model.generation.engine import Choice, Engine, Request
from malmm.model.generation.transformers_engine import TransformersEngine
from malmm.model.generation.vllm_server import ServerError, VllmServer

__all__ = ["EmbedsPrompts", "VllmEngine", "is_served"]

#: Texts that a worker has on the server at a time. Their embeddings take some megabytes each.
_AT_A_TIME = 64


class EmbedsPrompts(LanguagePart, Protocol):
    """A language part whose prompts can be written as embeddings."""

    tokenizer: Any
    text_tokens: TextTokens

    def prompt_embeddings(self, asked: Asked) -> Tensor:
        """Input embeddings [P, E] of a request. Raises ValueError for one that cannot be answered."""


def is_served(decoding: Decoding) -> bool:
    """Whether a server writes texts with these settings as transformers would: greedy ones.

    A repetition penalty leaves prompts out here, and a begin token counts for it.
    """
    return (
        decoding.num_beams == 1
        and decoding.repetition_penalty == 1
        and decoding.begin_token is None
        and decoding.grammar is None
    )


class VllmEngine:
    """Answers requests with ``server``, and those that it cannot answer with a family's language part.

    The server gets up to 64 texts at a time, and decides what it computes together.
    """

    def __init__(self, language: EmbedsPrompts, device: torch.device, server: VllmServer) -> None:
        self.language, self.server = language, server
        self._own: Engine = TransformersEngine(language, device)
        self._embedding = BatchLimit(device, 1)

    @property
    def device_lost(self) -> bool:
        """As ``Engine``."""
        return self._own.device_lost or self._embedding.device_lost

    def texts(
        self, requests: Sequence[Request], *, on_words: Callable[[str], None] | None = None
    ) -> list[list[str] | Mishap]:
        """As ``Engine``; the words of a text that the server writes come at its end."""
        served = [place for place, request in enumerate(requests) if is_served(request.decoding)]
        left = [place for place, request in enumerate(requests) if not is_served(request.decoding)]
        found: dict[int, list[str] | Mishap] = {}
        if served:
            found.update(zip(served, self._served([requests[place] for place in served]), strict=True))
        if left:
            tell = on_words if len(requests) == 1 else None
            made = self._own.texts([requests[place] for place in left], on_words=tell)
            found.update(zip(left, made, strict=True))
        elif on_words is not None and len(requests) == 1 and not isinstance(found[0], Mishap):
            on_words(found[0][0])
        return [found[place] for place in range(len(requests))]

    def scores(self, choices: Sequence[Choice]) -> list[LabelScores | Mishap]:
        """As ``Engine``."""
        return self._own.scores(choices)

    def _served(self, requests: Sequence[Request]) -> list[list[str] | Mishap]:
        room = BoundedSemaphore(_AT_A_TIME)
        waiting: list[Future[list[str] | Mishap] | Mishap] = []
        with ThreadPoolExecutor(min(_AT_A_TIME, len(requests)), thread_name_prefix="malmm-vllm") as threads:
            for request in requests:
                # Embedded here, in the thread that the model belongs to, and no more than wait for the server.
                room.acquire()
                embeds_PE = self._embedded(request.asked)
                if isinstance(embeds_PE, Mishap):
                    room.release()
                    waiting.append(embeds_PE)
                    continue
                sent = threads.submit(self._text, embeds_PE, request.decoding)
                sent.add_done_callback(lambda _: room.release())
                waiting.append(sent)
        return [each if isinstance(each, Mishap) else each.result() for each in waiting]

    def _embedded(self, asked: Asked) -> Tensor | Mishap:
        [found] = self._embedding.results(
            [asked], lambda some: [self.language.prompt_embeddings(each).cpu() for each in some]
        )
        return found

    def _text(self, embeds_PE: Tensor, decoding: Decoding) -> list[str] | Mishap:
        try:
            ids = self.server.token_ids(
                embeds_PE,
                max_new_tokens=decoding.max_new_tokens,
                min_new_tokens=decoding.min_new_tokens,
                end=self.language.text_tokens.end,
            )
        except ServerError as error:
            return Mishap(type(error).__name__, str(error), "")
        return [str(self.language.tokenizer.decode(ids, skip_special_tokens=True)).strip()]
