"""Texts of a server that is given embeddings, with transformers' own `generate` behind its protocol as the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from support.completions_server import CompletionsServer, completions
from support.tiny_families import save_tiny

from malmm.model.batch_limit import Mishap
from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.checkpoints.debug import save_debug_checkpoint
from malmm.model.decoding import Decoding
from malmm.model.families.family import Asked, Slots
from malmm.model.families.registry import family_of, token_shape
from malmm.model.generation.engine import Choice, Request
from malmm.model.generation.language_checkpoint import served_config, write_language
from malmm.model.generation.transformers_engine import TransformersEngine
from malmm.model.generation.vllm_engine import VllmEngine
from malmm.model.generation.vllm_server import VllmServer, served_name

CPU = torch.device("cpu")
PROMPTS = ("What?", "Who is it, and where?", "x", "What colour has it?", "And then?", "y")
GREEDY = Decoding(12)


class Both(NamedTuple):
    """A language part, requests to it, its own engine, and one with a server."""

    asked: list[Asked]
    language: Any
    own: TransformersEngine
    engine: VllmEngine
    server: CompletionsServer


@pytest.fixture(scope="module", params=["instructblip", "smolvlm", "llava_onevision"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "instructblip":
        save_debug_checkpoint(folder / "whole", kind="decoder", seed=0)
    else:
        save_tiny(folder / "whole", request.param)
    checkpoint = Checkpoint.open(str(folder / "whole"), model_types=None)
    write_language(checkpoint, folder / "alone")
    language: Any = family_of(checkpoint).load_language(checkpoint)
    with completions(CompletionsServer(folder / "alone", served_name(checkpoint))) as server:
        client = VllmServer(server.address, served_name(checkpoint))
        client.check(int(served_config(checkpoint).hidden_size))
        engines = TransformersEngine(language, CPU), VllmEngine(language, CPU, client)
        yield Both(asked_of(checkpoint, request.param), language, *engines, server)


def asked_of(checkpoint: Checkpoint, family: str) -> list[Asked]:
    drawn = torch.Generator().manual_seed(1)
    if family == "instructblip":
        outputs = torch.randn(len(PROMPTS), 8, 48, generator=drawn)
        return [Asked(prompt, query_output=row) for prompt, row in zip(PROMPTS, outputs, strict=True)]
    memories = [
        Slots(
            torch.randn(count, *token_shape(checkpoint), generator=drawn),
            tuple(map(float, range(count))),
            9.0,
        )
        for count in (3, 1)
    ]
    return [Asked(prompt, slots=memories[place % 2]) for place, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize("decoding", [GREEDY, Decoding(12, min_new_tokens=9), Decoding(1)])
def test_greedy_texts_are_those_of_the_own_engine(both: Both, decoding: Decoding) -> None:
    requests = [Request(one, decoding) for one in both.asked]
    before = len(both.server.asked)
    assert both.engine.texts(requests) == both.own.texts(requests)
    assert len(both.server.asked) == before + len(requests)


def test_an_embedding_stands_for_each_token_of_the_prompt(both: Both) -> None:
    both.server.prompts.clear()
    both.engine.texts([Request(both.asked[0], GREEDY)])
    [sent] = both.server.prompts
    assert sent.shape == (both.language.prompt_tokens(both.asked[0]), both.server.model.config.hidden_size)


def test_beams_penalties_and_labels_stay_in_the_worker(both: Both) -> None:
    decodings = [Decoding(6, 3, returned=2), GREEDY, Decoding(6, repetition_penalty=1.5), GREEDY]
    requests = [Request(*pair) for pair in zip(both.asked, decodings, strict=False)]
    before = len(both.server.asked)
    assert both.engine.texts(requests) == both.own.texts(requests)
    assert len(both.server.asked) == before + 2
    choices = [Choice(one, ("yes", "no")) for one in both.asked[:2]]
    assert both.engine.scores(choices) == both.own.scores(choices)
    assert len(both.server.asked) == before + 2


def test_the_words_of_a_single_text_are_told(both: Both) -> None:
    told: list[str] = []
    [texts] = both.engine.texts([Request(both.asked[0], GREEDY)], on_words=told.append)
    assert told == texts


def test_a_prompt_that_cannot_be_written_and_one_whose_server_goes_away_fail_alone(both: Both) -> None:
    requests = [Request(one, GREEDY) for one in (*both.asked[:2], Asked("neither"))]
    expected = both.own.texts(requests[:2])
    found = both.engine.texts(requests)
    assert found[:2] == expected
    assert isinstance(found[2], Mishap)
    both.server.away = 1
    found = both.engine.texts(requests[:2])
    [lost] = [each for each in found if isinstance(each, Mishap)]
    assert lost.kind == "ServerError"
    assert lost.message.startswith(f"no vLLM server answers at {both.server.address} from ")
    assert next(each for each in found if not isinstance(each, Mishap)) in expected
    assert both.engine.texts(requests[:2]) == expected


def test_a_text_that_is_cut_short_for_lack_of_room_fails(both: Both) -> None:
    request = Request(both.asked[0], Decoding(12, min_new_tokens=12))
    both.server.context = both.language.prompt_tokens(both.asked[0]) + 3
    [found] = both.engine.texts([request])
    both.server.context = 100_000
    assert isinstance(found, Mishap)
    assert "has no room for 12 tokens after a prompt of" in found.message
