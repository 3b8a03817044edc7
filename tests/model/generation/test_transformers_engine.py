"""Requests of mixed kinds, in batches cut by their size in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_families import FAMILIES, save_tiny

from malmm.model.batch_limit import BatchLimit, Mishap
from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.decoding import Decoding
from malmm.model.families.family import Asked, LabelScores, Slots
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.families.registry import family_of, token_shape
from malmm.model.generation.engine import Choice, Request
from malmm.model.generation.sizes import budget_bytes, kv_bytes, text_bytes
from malmm.model.generation.transformers_engine import TransformersEngine

CPU = torch.device("cpu")
SHORT, BEAMS = Decoding(4), Decoding(6, 3, returned=2)
LABELS = ("yes", "no", "perhaps")


class Watched:
    """A language part that notes what is asked of it together, and has memory for so many requests at most."""

    def __init__(self, language: Any, most: int = 1000) -> None:
        self.language, self.model, self.most = language, language.model, most
        self.batches: list[list[Asked]] = []

    def _noted(self, asked: Sequence[Asked]) -> None:
        self.batches.append(list(asked))
        if len(asked) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    def prompt_tokens(self, asked: Asked) -> int:
        return int(self.language.prompt_tokens(asked))

    def generate_texts(
        self, asked: Sequence[Asked], decoding: Decoding, *, on_words: Callable[[str], None] | None = None
    ) -> list[str]:
        self._noted(asked)
        made: list[str] = self.language.generate_texts(asked, decoding, on_words=on_words)
        return made

    def candidate_texts(self, asked: Sequence[Asked], decoding: Decoding) -> list[list[str]]:
        self._noted(asked)
        made: list[list[str]] = self.language.candidate_texts(asked, decoding)
        return made

    def score_labels(self, asked: Sequence[Asked], labels: Sequence[str]) -> list[LabelScores]:
        self._noted(asked)
        made: list[LabelScores] = self.language.score_labels(asked, labels)
        return made


@pytest.fixture(scope="module")
def language(opened: Callable[..., Checkpoint]) -> LanguageModel:
    return LanguageModel.load(opened())


def asked_of(prompts: Sequence[str], seed: int = 1) -> list[Asked]:
    outputs = torch.randn(len(prompts), 8, 48, generator=torch.Generator().manual_seed(seed))
    return [Asked(prompt, query_output=row) for prompt, row in zip(prompts, outputs, strict=True)]


def test_results_come_by_request_whatever_was_computed_together(language: LanguageModel) -> None:
    asked = asked_of(["What?", "x", "Who is it, and where?", "And then?", "y", "What colour has it?"])
    decodings = [SHORT, BEAMS, SHORT, SHORT, BEAMS, SHORT]
    watched = Watched(language)
    engine = TransformersEngine(watched, CPU)
    found = engine.texts([Request(*pair) for pair in zip(asked, decodings, strict=True)])
    assert found == [
        language.candidate_texts([one], how)[0] for one, how in zip(asked, decodings, strict=True)
    ]
    assert [len(batch) for batch in watched.batches] == [4, 2]
    for batch in watched.batches:
        lengths = [language.prompt_tokens(one) for one in batch]
        assert lengths == sorted(lengths, reverse=True)
    labels = [LABELS, LABELS[:2], LABELS, LABELS[:2], LABELS, LABELS]
    scores = engine.scores([Choice(*pair) for pair in zip(asked, labels, strict=True)])
    for one, offered, made in zip(asked, labels, scores, strict=True):
        [alone] = language.score_labels([one], offered)
        assert isinstance(made, LabelScores)
        assert made.labels == offered
        assert made.probabilities == pytest.approx(alone.probabilities, rel=1e-4)
    assert (engine.texts([]), engine.scores([])) == ([], [])


def test_a_request_that_cannot_be_answered_fails_alone(language: LanguageModel) -> None:
    asked = asked_of(["What?", "x", "y", "And then?"])
    asked[1] = Asked("x", query_output=torch.zeros(8, 5))
    asked[2] = Asked("y", system="Be brief.", query_output=asked[0].query_output)
    engine = TransformersEngine(language, CPU)
    for found in (
        engine.texts([Request(one, SHORT) for one in asked]),
        engine.scores([Choice(one, LABELS) for one in asked]),
    ):
        assert [isinstance(each, Mishap) for each in found] == [False, True, True, False]
        assert [each.kind for each in found if isinstance(each, Mishap)] == ["RuntimeError", "ValueError"]


def test_batches_are_cut_by_size_and_halved_where_memory_runs_out(language: LanguageModel) -> None:
    asked = asked_of(["x"] * 8)
    size = text_bytes(language.model, language.prompt_tokens(asked[0]), SHORT)
    requests = [Request(one, SHORT) for one in asked]
    expected = [language.candidate_texts([one], SHORT)[0] for one in asked]
    for most, sizes in ((1000, [4, 4]), (3, [4, 2, 2, 2, 2])):
        watched = Watched(language, most)
        engine = TransformersEngine(watched, CPU, most_bytes=4 * size)
        assert engine.texts(requests) == expected
        assert [len(batch) for batch in watched.batches] == sizes
    watched.batches.clear()
    assert engine.texts(requests) == expected
    assert [len(batch) for batch in watched.batches] == [2] * 4


def test_words_are_told_of_a_single_request(language: LanguageModel) -> None:
    engine = TransformersEngine(language, CPU)
    asked = asked_of(["x", "y"])
    for how in (SHORT, BEAMS):
        told: list[str] = []
        [found] = engine.texts([Request(asked[0], how)], on_words=told.append)
        assert isinstance(found, list)
        assert "".join(told).strip() == found[0]
    told.clear()
    engine.texts([Request(one, SHORT) for one in asked], on_words=told.append)
    assert told == []


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_and_values_have_the_size_that_is_planned(family: str, tmp_path_factory: Any) -> None:
    directory = tmp_path_factory.mktemp(family)
    save_tiny(directory, family)
    checkpoint = Checkpoint.open(str(directory), model_types=None)
    language: Any = family_of(checkpoint).load_language(checkpoint)
    tokens = torch.zeros(2, *token_shape(checkpoint))
    memories = [Slots(tokens, (0.0, 1.0), 2.0) for _ in range(2)]
    asked = [Asked(prompt, slots=memories[at % 2]) for at, prompt in enumerate(["x", "yy", "zzzzzz", "y"])]
    watched = Watched(language)
    TransformersEngine(watched, CPU).texts([Request(one, SHORT) for one in asked])
    # Those on one memory side by side, behind the longest.
    assert [one.prompt for one in watched.batches[0]] == ["zzzzzz", "x", "yy", "y"]
    length = language.prompt_tokens(asked[0])
    prefill = language._prefill(language.ids(asked[0]), memories[0])
    held = sum(
        layer.keys.nbytes + layer.values.nbytes
        for layer in prefill.cache.layers
        if getattr(layer, "keys", None) is not None
    )
    assert held == length * kv_bytes(language.model.config.get_text_config(), number_bytes=4)


def test_beams_and_logits_count() -> None:
    class Config:
        num_attention_heads, hidden_size, num_hidden_layers, vocab_size = 4, 32, 2, 100

        def get_text_config(self) -> Config:
            return self

    class Model:
        config, dtype = Config(), torch.float16

    one = text_bytes(Model(), 10, Decoding(6))
    assert one == 16 * 2 * 2 * 2 * 32 + 3 * 4 * 100
    assert text_bytes(Model(), 10, Decoding(6, 5)) == 5 * one
    assert budget_bytes(CPU) == 2**30


@given(st.lists(st.integers(1, 9), max_size=20), st.integers(1, 40))
def test_no_batch_is_larger_than_it_may_be(sizes: list[int], most: int) -> None:
    batches: list[list[int]] = []

    def work(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        return [-item for item in items]

    limit = BatchLimit(CPU, most)
    assert limit.results(range(len(sizes)), work, sizes=sizes) == [-item for item in range(len(sizes))]

    def fits(items: Sequence[int]) -> bool:
        return max(sizes[item] for item in items) * len(items) <= most

    assert all(len(batch) == 1 or fits(batch) for batch in batches)
    # The next item had no room in the batch before it.
    assert not any(fits([*batch, following[0]]) for batch, following in pairwise(batches))
