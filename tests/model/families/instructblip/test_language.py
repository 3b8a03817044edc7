from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.models import edit_json, edit_weights, random_frames
from tokenizers import Tokenizer, models
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError, quiet_transformers
from malmm.model.decoding import Decoding
from malmm.model.families.family import LabelScores
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.families.instructblip.qformer import MemorySettings

PROMPTS = ["a photo of", "What is it?", "x", "Describe the scene in one sentence."]
QUERIES = 8


def official(directory):
    """transformers' own model and processor of a checkpoint."""
    with quiet_transformers():
        model = InstructBlipForConditionalGeneration.from_pretrained(directory).eval()
        processor = InstructBlipProcessor.from_pretrained(directory)
    processor.num_query_tokens = QUERIES
    return model, processor


def official_text(model, processor, frame, prompt, **options):
    inputs = processor(images=Image.fromarray(frame), text=prompt, return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**inputs, do_sample=False, **options)[0]
    if not model.language_model.config.is_encoder_decoder:
        ids = ids[inputs["input_ids"].shape[1] :]
    return processor.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_frame_is_described_as_transformers_itself_would(checkpoint_directory, kind, seed):
    directory = checkpoint_directory(kind, seed)
    model, processor = official(directory)
    checkpoint = Checkpoint.open(str(directory), model_types=("instructblip",))
    encoder, language = Encoder.load(checkpoint), LanguageModel.load(checkpoint)
    texts = []
    for place, prompt in enumerate(PROMPTS):
        frame = random_frames(10 * seed + place, 1)
        (encoded,) = encoder.encode([frame], [[prompt]], MemorySettings())
        for beams in (1, 5):
            (ours,) = language.generate(encoded.query_output, [prompt], Decoding(12, beams))
            theirs = official_text(model, processor, frame[0], prompt, max_new_tokens=12, num_beams=beams)
            assert ours == theirs
            texts.append(ours)
    assert any(len(text) > 3 for text in texts)


def random_queries(seed, count):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, QUERIES, 48, generator=generator)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 2**32),
    st.lists(
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20), min_size=1, max_size=5
    ),
    st.sampled_from([1, 3]),
)
def test_a_batch_of_prompts_gives_what_each_gives_alone(language, seed, prompts, beams):
    queries = random_queries(seed, len(prompts))
    together = language.generate(queries, prompts, Decoding(8, beams))
    alone = [
        language.generate(queries[row : row + 1], [prompt], Decoding(8, beams))[0]
        for row, prompt in enumerate(prompts)
    ]
    assert together == alone


def inputs_of(language, queries, prompts):
    """The rows that stand for queries and prompts, without padding: one [Q + L, E] each."""
    embed = language.model.get_input_embeddings()
    rows = []
    for query, prompt in zip(queries, prompts, strict=True):
        ids = torch.tensor(language.tokenizer(prompt)["input_ids"])
        rows.append(torch.cat([language.projection(query.to(embed.weight.dtype)), embed(ids)]))
    return rows


def computed(module, shapes):
    """Note how many rows and positions a part of the model computes at each call."""
    return module.register_forward_hook(lambda module, given, made: shapes.append(tuple(made[0].shape[:2])))


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize("beams", [3, 5])
@pytest.mark.parametrize("seed", [1, 2])
def test_beams_find_the_tokens_that_transformers_finds_for_whole_inputs(
    opened, monkeypatch, kind, beams, seed
):
    language = LanguageModel.load(opened(kind, seed))
    # Many tokens end a text, so that beams end at different times.
    language.text_tokens = replace(language.text_tokens, end=tuple(range(4, 100, 7)))
    queries = random_queries(seed, len(PROMPTS))
    rows = inputs_of(language, queries, PROMPTS)
    side = "left" if kind == "decoder" else "right"
    with torch.inference_mode():
        expected = language.model.generate(
            inputs_embeds=pad_sequence(rows, batch_first=True, padding_side=side),
            attention_mask=pad_sequence(
                [torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True, padding_side=side
            ),
            max_new_tokens=16,
            num_beams=beams,
            do_sample=False,
            eos_token_id=list(range(4, 100, 7)),
            pad_token_id=language.tokenizer.pad_token_id,
            decoder_start_token_id=language.text_tokens.decoder_start,
        )
    found = []
    monkeypatch.setattr(language.tokenizer, "batch_decode", lambda ids, **_: found.append(ids) or [])
    language.generate(queries, PROMPTS, Decoding(16, beams))
    # transformers pads with an end token where the padding token is 0.
    expected = expected.clone()
    begin = int(kind == "encoder-decoder")
    for row in expected:
        ended = [place for place in range(begin, len(row)) if int(row[place]) in language.text_tokens.end]
        row[min(ended, default=len(row)) + 1 :] = language.text_tokens.padding
    assert torch.equal(found[0], expected)
    assert len(expected.unique(dim=0)) > 2


def test_beams_share_the_prompt(opened):
    language = LanguageModel.load(opened("decoder"))
    queries = random_queries(0, 2)
    longest = max(len(row) for row in inputs_of(language, queries, PROMPTS[:2]))
    shapes = []
    computed(language.model.base_model, shapes)
    language.generate(queries, PROMPTS[:2], Decoding(4, 3))
    assert shapes == [(2, longest - 1), *[(6, 1)] * 4]


def test_beams_share_the_encoding(opened):
    language = LanguageModel.load(opened("encoder-decoder"))
    queries = random_queries(0, 2)
    longest = max(len(row) for row in inputs_of(language, queries, PROMPTS[:2]))
    shapes = []
    computed(language.model.get_encoder(), shapes)
    language.generate(queries, PROMPTS[:2], Decoding(4, 3))
    assert shapes == [(2, longest)]


def test_no_prompts_no_texts(language):
    assert language.generate(torch.zeros(0, QUERIES, 48), []) == []
    assert language.classify(torch.zeros(0, QUERIES, 48), [], ["a"]) == []


def test_new_tokens_are_bounded_however_long_the_prompt(language):
    for prompt in ("x", "x" * 200):
        (text,) = language.generate(random_queries(1, 1), [prompt], Decoding(3))
        assert len(text) <= 3


LABELS = ["yes", "no", "perhaps not", "Z"]


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_label_scores_are_the_losses_of_transformers_own_model(
    checkpoint_directory, languages, encoder, kind
):
    """Its loss is the mean over the label's tokens and the end; a score is their negative sum."""
    model, processor = official(checkpoint_directory(kind))
    language = languages[kind]
    tokenizer = processor.tokenizer
    frames = random_frames(3, 2)
    queries, expected = [], []
    encoder = Encoder.load(Checkpoint.open(str(checkpoint_directory(kind)), model_types=("instructblip",)))
    for frame, prompt in zip(frames, PROMPTS, strict=False):
        queries.append(encoder.encode([frame[None]], [[prompt]], MemorySettings())[0].query_output[0])
        inputs = processor(images=Image.fromarray(frame), text=prompt, return_tensors="pt")
        scores = []
        for label in LABELS:
            ids = [*tokenizer(label, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            target = torch.tensor([ids])
            given = dict(inputs)
            if kind == "decoder":
                ignored = torch.full_like(inputs["input_ids"], -100)
                given["input_ids"] = torch.cat([inputs["input_ids"], target], dim=1)
                given["attention_mask"] = torch.ones_like(given["input_ids"])
                target = torch.cat([ignored, target], dim=1)
            with torch.inference_mode():
                scores.append(-model(**given, labels=target).loss.item() * len(ids))
        expected.append(torch.tensor(scores, dtype=torch.float64).softmax(0))
    for batch_size in (32, 3):
        results = language.classify(torch.stack(queries), PROMPTS[:2], LABELS, batch_size=batch_size)
        for result, probabilities in zip(results, expected, strict=True):
            assert result.labels == tuple(LABELS)
            assert result.probabilities == pytest.approx(probabilities.tolist(), rel=1e-4)
            assert sum(result.probabilities) == pytest.approx(1)
            assert result.best == (
                LABELS[int(probabilities.argmax())],
                max(result.probabilities),
            )


def plain_score(language, row, label):
    """The log-probability of a label and the end after one row, in a single pass over all of it."""
    tokenizer, embed = language.tokenizer, language.model.get_input_embeddings()
    target = torch.tensor([*tokenizer(label, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id])
    if language.is_encoder_decoder:
        start = torch.tensor([language.model.config.decoder_start_token_id])
        given = {"inputs_embeds": row[None], "decoder_input_ids": torch.cat([start, target[:-1]])[None]}
    else:
        given = {"inputs_embeds": torch.cat([row, embed(target[:-1])])[None]}
    logits = language.model(**given).logits[0, -len(target) :]
    return logits.log_softmax(-1)[range(len(target)), target].sum()


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 9, 32])
def test_labels_that_share_a_prompt_score_as_each_does_alone(opened, kind, batch_size):
    language = LanguageModel.load(opened(kind))
    queries = random_queries(4, len(PROMPTS))
    results = language.classify(queries, PROMPTS, LABELS, batch_size=batch_size)
    with torch.inference_mode():
        for row, result in zip(inputs_of(language, queries, PROMPTS), results, strict=True):
            expected = torch.stack([plain_score(language, row, label) for label in LABELS]).softmax(0)
            assert result.probabilities == pytest.approx(expected.tolist(), rel=1e-4)


LONGEST, LAST = len("perhaps not") + 1, len("Z") + 1


def test_a_decoder_computes_a_prompt_once_for_all_labels(opened):
    """And no more labels together than the size of a batch."""
    language = LanguageModel.load(opened("decoder"))
    queries = random_queries(0, 2)
    one, two = (len(row) for row in inputs_of(language, queries, PROMPTS[:2]))
    shapes = []
    computed(language.model.base_model, shapes)
    language.classify(queries, PROMPTS[:2], LABELS, batch_size=8)
    assert shapes == [(2, max(one, two) - 1), (8, LONGEST)]
    shapes.clear()
    language.classify(queries, PROMPTS[:2], LABELS, batch_size=3)
    assert shapes == [
        *((1, one - 1), (3, LONGEST), (1, LAST)),
        *((1, two - 1), (3, LONGEST), (1, LAST)),
    ]


def test_an_encoder_computes_a_prompt_once_for_all_labels(opened):
    language = LanguageModel.load(opened("encoder-decoder"))
    queries = random_queries(0, 2)
    one, two = (len(row) for row in inputs_of(language, queries, PROMPTS[:2]))
    encoded, decoded = [], []
    computed(language.model.get_encoder(), encoded)
    computed(language.model.get_decoder(), decoded)
    language.classify(queries, PROMPTS[:2], LABELS, batch_size=8)
    assert (encoded, decoded) == ([(2, max(one, two))], [(8, LONGEST)])
    encoded.clear()
    decoded.clear()
    language.classify(queries, PROMPTS[:2], LABELS, batch_size=3)
    assert (encoded, decoded) == ([(1, one), (1, two)], [(3, LONGEST), (1, LAST)] * 2)


def test_the_only_label_is_certain(language):
    (result,) = language.classify(random_queries(0, 1), ["x"], ["yes"])
    assert result == LabelScores(("yes",), (1.0,))
    assert result.best == ("yes", 1.0)


def test_labels_stand_for_themselves_in_any_order(language):
    queries = random_queries(5, 2)
    forth = language.classify(queries, PROMPTS[:2], LABELS)
    back = language.classify(queries, PROMPTS[:2], LABELS[::-1])
    for a, b in zip(forth, back, strict=True):
        assert a.probabilities == pytest.approx(b.probabilities[::-1], rel=1e-4)
        assert all(math.isfinite(p) and p >= 0 for p in a.probabilities)


@pytest.mark.parametrize("labels", [[], ["a", "b", "a"]])
def test_labels_must_differ(language, labels):
    with pytest.raises(ValueError, match="labels that differ"):
        language.classify(random_queries(0, 1), ["x"], labels)


def test_a_label_needs_tokens(language):
    with pytest.raises(ValueError, match="the label '' has no tokens"):
        language.classify(random_queries(0, 1), ["x"], ["", "a"])


def test_half_precision_generates(opened):
    for kind in ("decoder", "encoder-decoder"):
        language = LanguageModel.load(opened(kind), dtype=torch.bfloat16)
        assert language.projection.weight.dtype == torch.float32
        assert len(language.generate(random_queries(0, 2), ["a", "bcd"], Decoding(4))) == 2
        (result,) = language.classify(random_queries(0, 1), ["x"], ["a", "b"])
        assert sum(result.probabilities) == pytest.approx(1)


def test_another_models_tokenizer_is_refused(copied, opened):
    directory = copied()
    checkpoint = Checkpoint.open(str(directory), model_types=("instructblip",))
    tokenizer = checkpoint.tokenizer()
    tokenizer.add_tokens([f"word{i}" for i in range(9)])
    tokenizer.save_pretrained(directory)
    with pytest.raises(CheckpointError, match="the tokenizer is another model's"):
        LanguageModel.load(Checkpoint.open(str(directory), model_types=("instructblip",)))


@pytest.mark.parametrize("tied", [True, False])
def test_t5_checkpoints_may_hold_an_output_layer_and_copies_of_the_embeddings(copied, tied):
    """FLAN-T5's do: copies of the embeddings for either side, and an untied output layer."""
    directory = copied("encoder-decoder")
    shared = "language_model.shared.weight"

    def edit(tensors):
        for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head"):
            tensors[f"language_model.{name}.weight"] = tensors[shared].clone()
        if not tied:
            tensors["language_model.lm_head.weight"].normal_(
                0, 0.3, generator=torch.Generator().manual_seed(1)
            )

    def state(config):
        config["text_config"].pop("scale_decoder_outputs", None)
        config["text_config"]["tie_word_embeddings"] = tied

    edit_weights(directory, edit)
    edit_json(directory / "config.json", state)
    model, _ = official(directory)
    language = LanguageModel.load(Checkpoint.open(str(directory), model_types=("instructblip",)))
    expected = model.language_model.state_dict()
    ours = language.model.state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], value) for name, value in expected.items())
    assert torch.equal(ours["lm_head.weight"], ours["shared.weight"]) is tied
    assert language.model.config.scale_decoder_outputs is tied


@pytest.mark.parametrize("token", ["<unk>", "<s>"])
def test_control_tokens_are_no_text_where_a_tokenizer_does_not_say_so(token):
    """The authors decode ids below 2 as the end token."""
    others = [each for each in ("<unk>", "<s>", "</s>", "red") if each != token]
    vocabulary = {each: place for place, each in enumerate([token, *others])}
    roles = {"eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary)), **roles)
    config = LlamaConfig(
        vocab_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    # All logits are equal, so the first token is written again and again.
    nn.init.zeros_(model.lm_head.weight)
    language = LanguageModel(nn.Linear(4, 8), model, tokenizer)
    asked = torch.zeros(1, 2, 4), ["red"]
    assert language.generate(*asked, Decoding.of_lengths(4, num_beams=1, repetition_penalty=1.0)) == [""]
    assert token in language.generate(*asked, Decoding(3))[0]
