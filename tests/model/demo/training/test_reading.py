from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, SmolVLMForConditionalGeneration

from malmm.model.demo.checkpoint import language_tokenizer
from malmm.model.demo.plain import plain_config, plain_tokenizer, start_of_language, start_of_vision
from malmm.model.demo.questions import questions
from malmm.model.demo.training.reading import Chat, evenly
from malmm.model.demo.training.seeing import new_vision
from malmm.model.demo.training.speaking import answer_loss
from malmm.model.demo.world import plan_scenes
from malmm.model.families.family import Asked, Slots
from malmm.model.families.plain.language import PlainLanguage
from malmm.model.families.smolvlm import WORDING

CHANNELS = 128


@pytest.fixture(scope="module")
def whole() -> SmolVLMForConditionalGeneration:
    torch.manual_seed(1)
    return SmolVLMForConditionalGeneration(plain_config(plain_tokenizer())).eval().requires_grad_(False)


def slots_of(count: int, end_s: float) -> Slots:
    tokens = torch.randn(count, 1, CHANNELS, generator=torch.Generator().manual_seed(count))
    return Slots(tokens, tuple(end_s * place / count for place in range(count)), end_s)


def test_the_loss_is_that_of_the_shipped_code_on_each_question_alone(
    whole: SmolVLMForConditionalGeneration,
) -> None:
    """Films of unlike length in a batch, several questions behind one prefix."""
    chat = Chat(plain_tokenizer())
    language = PlainLanguage(whole, chat.tokenizer, WORDING)
    model = LlamaForCausalLM(whole.config.text_config).eval()
    model.model.load_state_dict(whole.model.text_model.state_dict())
    model.lm_head.load_state_dict(whole.lm_head.state_dict())
    films = [slots_of(3, 20.0), slots_of(9, 75.0)]
    asked = [random.Random(2).sample(questions(plan_scenes(40, (1, film))), 4) for film in range(2)]
    losses = []
    for slots, of_film in zip(films, asked, strict=True):
        for question in of_film:
            before = language.ids(Asked(question.prompt, slots=slots))
            said = [*chat.tokenizer(question.answer)["input_ids"], chat.tokenizer.eos_token_id]
            ids = torch.tensor([before + said])
            logits = whole(input_ids=ids, **WORDING.inputs(whole, slots.tokens, ids)).logits[0]
            here = logits[len(before) - 1 : -1]
            losses.append(F.cross_entropy(here, torch.tensor(said), reduction="none"))
    with torch.no_grad():
        prefix, present = chat.prefix(model, films)
        answers = chat.tokens.answers([[chat.question(each) for each in of_film] for of_film in asked])
        loss, _ = answer_loss(model, prefix, present, answers)
    torch.testing.assert_close(loss, torch.cat(losses).mean(), atol=1e-5, rtol=1e-5)


def test_known_tokens_keep_their_rows() -> None:
    known, tokenizer = language_tokenizer(), plain_tokenizer()
    config = plain_config(tokenizer).text_config
    config.vocab_size = len(known)
    before = LlamaForCausalLM(config)
    after = start_of_language(before, known, tokenizer)
    rows = before.get_input_embeddings().weight, after.get_input_embeddings().weight
    for old, new in (("Ġred", "Ġred"), ("Ġred", "red"), ("</s>", "<end_of_utterance>")):
        place, now = known.convert_tokens_to_ids(old), tokenizer.convert_tokens_to_ids(new)
        assert tokenizer.unk_token_id != now
        assert torch.equal(rows[0][place], rows[1][now])
    assert torch.equal(before.model.layers[0].mlp.up_proj.weight, after.model.layers[0].mlp.up_proj.weight)


def test_the_corner_takes_the_class_tokens_place(whole: SmolVLMForConditionalGeneration) -> None:
    """With the corner's picture at zero both encoders compute the same."""
    torch.manual_seed(3)
    vision = new_vision().model.eval()
    seen = whole.model.vision_model
    seen.load_state_dict(start_of_vision(vision.state_dict()))
    pixels = torch.randn(2, 3, 96, 96)
    patches = seen.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
    positions = seen.embeddings.position_embedding.weight
    placed = patches + positions
    placed[:, 0] = positions[0]
    inner = vision.embeddings(pixels)
    # The corner's own patch is what is lost.
    kept = torch.cat([inner[:, :1], inner[:, 2:]], dim=1)
    torch.testing.assert_close(placed, kept)
    torch.testing.assert_close(
        seen.encoder(placed, None).last_hidden_state,
        vision.encoder(kept).last_hidden_state,
        atol=1e-5,
        rtol=0,
    )


@given(st.integers(1, 300), st.integers(1, 40))
def test_frames_at_equal_distances_are_in_order_and_within(frames: int, count: int) -> None:
    picked = evenly(frames, count)
    assert picked == sorted(set(picked))
    assert len(picked) == min(frames, count)
    assert 0 <= picked[0] <= picked[-1] < frames
