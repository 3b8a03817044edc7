"""Texts of a batch against transformers' `generate` of each alone: padding, ends and neighbours change no token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support.tiny_families import FAMILIES, save_tiny

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.decoding import Decoding, TextTokens
from malmm.model.families.family import Asked, Slots
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.families.registry import family_of, token_shape

KINDS = ("decoder", "encoder-decoder")
PROMPTS = ["What?", "x", "Who is the one that is here, and why?", "Where did it go in the end?", "And then?"]
NEW_TOKENS = 8
GREEDY = Decoding(NEW_TOKENS)
# No token twice, even by models that would repeat one.
VARIED = Decoding(NEW_TOKENS, repetition_penalty=1e6)
WAYS = {
    "greedy": (GREEDY, torch.float64),
    "greedy in float32": (GREEDY, torch.float32),
    "no token twice": (VARIED, torch.float64),
    "penalty and minimum": (
        Decoding(NEW_TOKENS, repetition_penalty=1.5, min_new_tokens=4),
        torch.float64,
    ),
    "beams": (Decoding(NEW_TOKENS, 3, length_penalty=0.5), torch.float64),
}


class Case:
    """A language part whose texts end early, and requests of mixed lengths."""

    def __init__(self, language: Any, asked: list[Asked]) -> None:
        self.language, self.asked = language, asked
        tokens = language.text_tokens
        # Tokens that it writes at the first, third and fifth place of a varied text end it.
        written = self.ids()
        ends = {tokens.padding, *tokens.end, written[0][4], written[1][2], written[2][0]}
        language.text_tokens = TextTokens(tuple(ends), tokens.padding, tokens.decoder_start)

    def ids(self) -> list[list[int]]:
        """New ids of each request's varied text, padded at the end."""
        if isinstance(self.language, LanguageModel):
            outputs = torch.stack(
                [asked.query_output for asked in self.asked if asked.query_output is not None]
            )
            prompts = self.language.prompt_ids([asked.prompt for asked in self.asked])
            start = int(self.language.is_encoder_decoder)
            return self.language.generate_ids(outputs, prompts, VARIED)[:, start:].tolist()
        [(places, ids)] = self.language._greedy_ids(self.asked, VARIED, None)
        return [row for _, row in sorted(zip(places, ids.tolist(), strict=True))]

    def alone(self, asked: Asked, decoding: Decoding) -> str:
        """The text by transformers, from the whole prompt at once."""
        language, model = self.language, self.language.model
        if isinstance(language, LanguageModel):
            assert asked.query_output is not None
            embeds, mask = language._prefix(asked.query_output[None], language.prompt_ids([asked.prompt]))
            given, before = {"inputs_embeds": embeds, "attention_mask": mask}, 0
        else:
            assert asked.slots is not None
            ids = torch.tensor([language.ids(asked)])
            if hasattr(model.model, "rope_deltas"):
                model.model.rope_deltas = None
            seen = language.wording.inputs(model, asked.slots.tokens.to(model.dtype), ids)
            given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | seen
            before = ids.shape[1]
        made = model.generate(
            **given,
            generation_config=decoding.generation_config(language.text_tokens),
            logits_processor=decoding.processors(before, vocabulary=lambda: language.vocabulary),
        )
        text: str = language.tokenizer.decode(made[0, before:], skip_special_tokens=True)
        return text.strip()


@pytest.fixture(scope="module")
def case(opened: Callable[..., Checkpoint], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    made: dict[tuple[str, torch.dtype], Case] = {}

    def plain(family: str, dtype: torch.dtype) -> Case:
        directory = tmp_path_factory.mktemp(family)
        save_tiny(directory, family)
        checkpoint = Checkpoint.open(str(directory), model_types=None)
        generator = torch.Generator().manual_seed(3)
        memories = []
        for slots in (4, 1, 2):
            tokens = torch.randn(slots, *token_shape(checkpoint), generator=generator, dtype=dtype)
            memories.append(Slots(tokens, tuple(float(at) for at in range(slots)), float(slots)))
        asked = [Asked(prompt, slots=memories[at % 3]) for at, prompt in enumerate(PROMPTS)]
        language: Any = family_of(checkpoint).load_language(checkpoint)
        return Case(language.to(dtype), asked)

    def blip(kind: str, dtype: torch.dtype) -> Case:
        outputs = torch.randn(len(PROMPTS), 8, 48, generator=torch.Generator().manual_seed(3), dtype=dtype)
        asked = [Asked(prompt, query_output=row) for prompt, row in zip(PROMPTS, outputs, strict=True)]
        return Case(LanguageModel.load(opened(kind), dtype=dtype).to(dtype), asked)

    def make(name: str, dtype: torch.dtype = torch.float64) -> Case:
        if (name, dtype) not in made:
            made[name, dtype] = (blip if name in KINDS else plain)(name, dtype)
        return made[name, dtype]

    return make


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*KINDS, *FAMILIES])
def test_a_text_of_a_batch_is_what_transformers_writes_alone(
    case: Callable[..., Case], name: str, way: str
) -> None:
    settings, dtype = WAYS[way]
    one = case(name, dtype)
    together = one.language.generate_texts(one.asked, settings)
    assert together == [one.alone(asked, settings) for asked in one.asked]


@pytest.mark.parametrize("name", [*KINDS, *FAMILIES])
def test_rows_leave_a_batch_when_their_text_ends(case: Callable[..., Case], name: str) -> None:
    one = case(name)
    ends = set(one.language.text_tokens.end)
    lengths = [
        next((at + 1 for at, token in enumerate(ids) if token in ends), NEW_TOKENS) for ids in one.ids()
    ]
    with steps(one) as sizes:
        one.language.generate_texts(one.asked, VARIED)
    # The prompt's own computation has the first token.
    assert sizes == [sum(length > step for length in lengths) for step in range(1, max(lengths))]
    assert len(set(lengths)) > 1


@contextmanager
def steps(one: Case) -> Iterator[list[int]]:
    """Rows of each step that computes one token after the prompts."""
    sizes: list[int] = []

    def note(module: Any, given: Any, named: dict[str, Any], made: Any) -> None:
        ids = named.get("input_ids", named.get("decoder_input_ids"))
        # Prompts are computed without a past, or with the last logits alone.
        if ids is not None and named.get("past_key_values") is not None and "logits_to_keep" not in named:
            sizes.append(len(ids))

    hook = one.language.model.register_forward_hook(note, with_kwargs=True)
    try:
        yield sizes
    finally:
        hook.remove()
