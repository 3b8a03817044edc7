from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.models import edit_json

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.decoding import Decoding, TextTokens
from malmm.model.families.instructblip.language import LanguageModel

PROMPTS = ["a photo of", "What?", "x"]
LABELS = ["yes", "no", "perhaps"]
KINDS = ("decoder", "encoder-decoder")
# What published configurations say, and worse. None: the field is left out.
LIES = [
    {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1},  # Vicuna v1.1
    {"bos_token_id": 7, "eos_token_id": [5, 9], "pad_token_id": 3},
    {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None},
]


def queries(count):
    return torch.randn(count, 8, 48, generator=torch.Generator().manual_seed(3))


def load(directory):
    return LanguageModel.load(Checkpoint.open(str(directory), model_types=("instructblip",)))


def lie(directory, lies):
    """Have every configuration of a checkpoint contradict its tokenizer."""

    def change(config):
        for part in (config, config["text_config"]):
            for name, value in lies.items():
                part.pop(name, None)
                if value is not None:
                    part[name] = value

    edit_json(directory / "config.json", change)
    (directory / "generation_config.json").write_text('{"eos_token_id": 8, "max_length": 9, "num_beams": 2}')
    return directory


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lies", LIES)
def test_a_configuration_that_lies_changes_nothing(checkpoint_directory, copied, kind, lies):
    honest, misled = load(checkpoint_directory(kind)), load(lie(copied(kind), lies))
    of_tokenizer = honest.tokenizer
    assert misled.text_tokens.end == (of_tokenizer.eos_token_id,)
    assert misled.text_tokens.padding == of_tokenizer.pad_token_id
    given = queries(3)
    for beams in (1, 3):
        expected = honest.generate(given, PROMPTS, Decoding(12, beams))
        assert misled.generate(given, PROMPTS, Decoding(12, beams)) == expected
    assert misled.classify(given, PROMPTS, LABELS) == honest.classify(given, PROMPTS, LABELS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [1, 3])
def test_texts_end_at_the_tokenizers_end(copied, monkeypatch, kind, beams):
    language = load(lie(copied(kind), LIES[0]))
    end, padding = language.tokenizer.eos_token_id, language.tokenizer.pad_token_id
    found = []
    monkeypatch.setattr(language.tokenizer, "batch_decode", lambda ids, **_: found.append(ids) or [])

    steps = []

    def prefer_end(module, given, made):
        """The second row ends after two tokens, the first after four."""
        steps.append(made)
        row = torch.arange(len(made.logits)) // beams
        made.logits[:, -1, end] += 40 * (row + len(steps) // 2 >= 2)
        return made

    language.model.register_forward_hook(prefer_end)
    language.generate(queries(2), PROMPTS[:2], Decoding(9, beams))
    [rows] = found
    for row in rows.tolist():
        assert end in row
        assert len(row) < 9
        assert set(row[row.index(end) + 1 :]) <= {padding, end}


def test_the_begin_token_counts_for_the_penalty_and_is_no_text(opened):
    language = LanguageModel.load(opened("decoder"))
    given = queries(1)
    [first] = language.generate(given, ["x"], Decoding(1))
    begin = language.tokenizer.convert_tokens_to_ids(first)
    penalised = Decoding(1, begin_token=begin, repetition_penalty=1000.0)
    assert language.generate(given, ["x"], penalised) != [first]
    assert language.generate(given, ["x"], Decoding(1, begin_token=begin)) == [first]
    other = Decoding(1, begin_token=begin + 1, repetition_penalty=1000.0)
    assert language.generate(given, ["x"], other) == [first]


def test_a_begin_token_that_the_model_does_not_have(opened):
    language = LanguageModel.load(opened("decoder"))
    rows = language.model.config.vocab_size
    with pytest.raises(
        ValueError, match=f"begin token of {rows}: the language model's table ends at {rows - 1}"
    ):
        language.generate(queries(1), ["x"], Decoding(2, begin_token=rows))


@pytest.mark.parametrize("beams", [1, 3])
def test_sequences_with_a_begin_token_are_those_of_transformers(opened, beams):
    language = LanguageModel.load(opened("decoder"))
    given = queries(3)
    expected = []
    for row, prompt in enumerate(PROMPTS):
        embeds, mask = language._prefix(given[row : row + 1], language.prompt_ids([prompt]))
        with torch.inference_mode():
            [ids] = language.model.generate(
                input_ids=torch.ones(1, 1, dtype=torch.long),
                inputs_embeds=embeds,
                attention_mask=mask,
                max_new_tokens=9,
                num_beams=beams,
                repetition_penalty=1.5,
                length_penalty=0.0,
                eos_token_id=language.tokenizer.eos_token_id,
                pad_token_id=language.tokenizer.pad_token_id,
            )
        expected.append(language.tokenizer.decode(ids[1:], skip_special_tokens=True).strip())
    settings = Decoding(9, beams, begin_token=1, repetition_penalty=1.5, length_penalty=0.0)
    assert language.generate(given, PROMPTS, settings) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_several_texts_return_with_the_best_first(opened, kind):
    language = LanguageModel.load(opened(kind))
    given = queries(3)
    settings = Decoding(6, 4, repetition_penalty=1.5, returned=3)
    found = language.candidates(given, PROMPTS, settings)
    assert [len(texts) for texts in found] == [3, 3, 3]
    assert all(len(set(texts)) > 1 for texts in found)
    assert [texts[0] for texts in found] == language.generate(given, PROMPTS, settings)
    assert language.generate(given, PROMPTS, replace(settings, returned=1)) == [texts[0] for texts in found]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [1, 3])
def test_a_text_has_the_least_number_of_tokens(opened, kind, beams):
    language = LanguageModel.load(opened(kind))
    end = language.tokenizer.eos_token_id

    def only_the_end(module, given, made):
        made.logits[:, -1, end] += 60
        return made

    language.model.register_forward_hook(only_the_end)
    ids = language.prompt_ids(PROMPTS)
    at_once = language.generate_ids(queries(3), ids, Decoding(8, beams))
    later = language.generate_ids(queries(3), ids, Decoding(8, beams, min_new_tokens=4))
    begins = int(language.is_encoder_decoder)
    assert at_once[:, begins].tolist() == [end] * 3
    assert [row.index(end) - begins for row in later.tolist()] == [4, 4, 4]


def test_the_authors_lengths_count_the_begin_token():
    settings = Decoding.of_lengths(8, min_length=3, length_penalty=0.0, returned=5)
    assert settings == Decoding(7, 5, 1, 1.5, 0.0, min_new_tokens=2, returned=5)
    assert Decoding.of_lengths(8).min_new_tokens == 0


@pytest.mark.parametrize(
    ("end", "padding", "expected"),
    [(2, 32000, TextTokens((2,), 32000)), (2, None, TextTokens((2,), 2)), (None, None, TextTokens((), 0))],
)
def test_tokens_that_a_tokenizer_lacks(end, padding, expected):
    assert TextTokens.of(SimpleNamespace(eos_token_id=end, pad_token_id=padding)) == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_new_tokens": 0}, "at least 1"),
        ({"num_beams": 0}, "at least 1"),
        ({"repetition_penalty": 0.0}, "positive"),
        ({"repetition_penalty": float("nan")}, "positive"),
        ({"length_penalty": float("inf")}, "a number"),
        ({"min_new_tokens": -1}, "from 0 to"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "from 0 to"),
        ({"returned": 0}, "from 1 to 1"),
        ({"num_beams": 3, "returned": 4}, "from 1 to 3"),
        ({"begin_token": -1}, "from 0 on"),
    ],
)
def test_settings_that_cannot_be(settings, said):
    with pytest.raises(ValueError, match=said):
        Decoding(**settings)
