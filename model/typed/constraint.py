"""Decoding under a grammar: which tokens may follow, for transformers' generation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from malmm.model.typed.grammar import Grammar
from malmm.model.typed.vocabulary import Vocabulary

__all__ = ["Constraint"]


class Constraint(LogitsProcessor):
    """Lets only tokens through that a grammar allows, for one generation.

    Keeps one state for each sequence of the last step, by its new ids, so that beams may change places. ``start`` is
    how many ids stand before what is generated. Raises VocabularyError as ``Vocabulary.check`` does, and ImportError
    without llguidance.
    """

    def __init__(self, vocabulary: Vocabulary, grammar: Grammar, start: int = 0) -> None:
        vocabulary.check(grammar)
        self._vocabulary, self._start = vocabulary, start
        from llguidance import LLMatcher

        compiled = LLMatcher.grammar_from_regex(grammar.pattern)
        if problem := LLMatcher.validate_grammar(compiled, vocabulary.tokenizer):
            raise ValueError(f"llguidance refuses the grammar of a schema: {problem}")
        self._states: dict[tuple[int, ...], Any] = {(): LLMatcher(vocabulary.tokenizer, compiled)}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, V], with minus infinity where a token may not follow the row's ids."""
        states: dict[tuple[int, ...], Any] = {}
        masks = []
        for row in input_ids[:, self._start :].tolist():
            ids = tuple(row)
            if ids not in states:
                states[ids] = self._states[ids] if ids in self._states else self._after(ids)
            masks.append(self._allowed(states[ids], scores.shape[-1]))
        self._states = states
        return scores.masked_fill(~torch.stack(masks).to(scores.device), -torch.inf)

    def _after(self, ids: tuple[int, ...]) -> Any:
        """The state after one more id; None for a sequence that has ended, or that a beam of score zero has left."""
        before = self._states[ids[:-1]]
        if before is None or before.is_stopped():
            return None
        after = before.deep_copy()
        if ids[-1] == self._vocabulary.end or not after.consume_token(ids[-1]):
            return None
        return after

    def _allowed(self, state: Any, width: int) -> Tensor:
        """Which tokens may follow a state, bool [V]."""
        allowed = torch.zeros(width, dtype=torch.bool)
        if state is None or state.is_stopped():
            allowed[self._vocabulary.end] = True
            return allowed
        usable = self._vocabulary.usable
        bits = np.frombuffer(state.compute_bitmask(), np.uint8)
        here = torch.from_numpy(np.unpackbits(bits, count=len(usable), bitorder="little").astype(bool))
        allowed[: len(usable)] = here & usable
        if not bool(allowed.any()):
            raise ValueError("no token of the model's vocabulary can follow in a typed answer")
        return allowed
