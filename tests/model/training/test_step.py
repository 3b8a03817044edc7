from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import nn

from malmm.model.conformance.whole_model import recorded_trainee
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.memory.settings import MemorySettings
from malmm.model.training.step import IGNORED, Lesson, Trainee, joined

RECORDED = Path(__file__).parents[2] / "data" / "train_short.safetensors"
EMPTY = torch.empty(0)


def padded(rows):
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask


@pytest.fixture(scope="module")
def recorded():
    with safe_open(str(RECORDED), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        return recorded_trainee(tensors, file.metadata()), tensors


@pytest.fixture
def lesson(recorded):
    _, tensors = recorded
    names = ("raw_tokens", "qformer_input_ids", "qformer_attention_mask", "llm_input_ids")
    names += ("llm_attention_mask", "output_ids", "output_attention_mask")
    return Lesson(*(tensors[name] for name in names))


TEXTS = st.lists(st.integers(3, 30), max_size=5)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_answers_stand_right_behind_their_prompts(pairs):
    """The answer's first token goes, and padding goes to the end of the row."""
    prompts, answers = [[2, *p] for p, _ in pairs], [[2, *a, 2] for _, a in pairs]
    ids, mask, labels = joined(Lesson(EMPTY, EMPTY, EMPTY, *padded(prompts), *padded(answers)), 0)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        text = prompt + answer[1:]
        rest = ids.shape[1] - len(text)
        assert ids[row].tolist() == text + [0] * rest
        assert mask[row].tolist() == [1] * len(text) + [0] * rest
        assert labels[row].tolist() == [IGNORED] * len(prompt) + answer[1:] + [IGNORED] * rest


def test_the_language_model_learns_nothing_and_all_else_does(recorded, lesson):
    trainee, _ = recorded
    trainee.freeze()
    trainee.zero_grad()
    trainee.loss(lesson, MemorySettings(length=6)).backward()
    learned = {name for name, parameter in trainee.named_parameters() if parameter.grad is not None}
    assert not [name for name in learned if name.startswith("language.model.")]
    assert {name.split(".")[0] for name in learned} == {"norm", "positions", "qformer", "language"}
    # Only the last frame's step has gradient, so only the last frame's row of the table learns.
    rows = trainee.positions.weight.grad.abs().sum(1)
    assert rows.nonzero().flatten().tolist() == [lesson.raw_tokens.shape[1] - 1]


def test_a_model_may_have_no_positions(recorded, lesson):
    trainee, _ = recorded
    without = Trainee(trainee.norm, None, trainee.qformer, trainee.language)
    settings = MemorySettings(length=6)
    assert without.loss(lesson, settings) != trainee.loss(lesson, settings)


def test_padding_and_the_rest_of_a_batch_change_no_answer(recorded, lesson):
    """The mean over the batch is the mean of each row's, weighted by its answer's tokens."""
    trainee, _ = recorded
    settings = MemorySettings(length=6)
    with torch.no_grad():
        whole = trainee.loss(lesson, settings)
        total, count = 0.0, 0
        for row in range(len(lesson.raw_tokens)):
            texts = {}
            for part in ("qformer", "prompt", "answer"):
                present = getattr(lesson, f"{part}_mask")[row].bool()
                for kind in ("ids", "mask"):
                    texts[f"{part}_{kind}"] = getattr(lesson, f"{part}_{kind}")[row : row + 1, present]
            alone = replace(lesson, raw_tokens=lesson.raw_tokens[row : row + 1], **texts)
            tokens = texts["answer_ids"].shape[1] - 1
            total, count = total + trainee.loss(alone, settings) * tokens, count + tokens
    torch.testing.assert_close(whole, total / count, rtol=0, atol=1e-6)


def test_videos_of_a_batch_may_have_different_lengths(recorded, lesson):
    """Each row's query output is that of its video alone, and in its own place."""
    trainee, _ = recorded
    settings = MemorySettings(length=2)
    raw = [video[: count + 1] for count, video in enumerate(lesson.raw_tokens)]
    with torch.no_grad():
        outputs = trainee.query_output(replace(lesson, raw_tokens=raw), settings)
        for row, video in enumerate(raw):
            texts = {
                f"qformer_{kind}": getattr(lesson, f"qformer_{kind}")[row : row + 1]
                for kind in ("ids", "mask")
            }
            alone = trainee.query_output(replace(lesson, raw_tokens=[video], **texts), settings)
            torch.testing.assert_close(outputs[row : row + 1], alone, rtol=0, atol=1e-10)


def test_what_cannot_be_trained_is_refused(recorded, lesson, opened):
    trainee, _ = recorded
    with pytest.raises(ValueError, match="training needs the query banks"):
        trainee.loss(lesson, MemorySettings(length=6, query=False))
    t5 = LanguageModel.load(opened("encoder-decoder"))
    other = Trainee(nn.LayerNorm(24), None, trainee.qformer, t5)
    with pytest.raises(ValueError, match="decoder-only"):
        other.loss(lesson, MemorySettings(length=6))
