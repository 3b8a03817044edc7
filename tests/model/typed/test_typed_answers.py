"""Whatever a model is, its answer is valid JSON under the schema."""

from __future__ import annotations

import json
import re
from decimal import Decimal

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.answer_schemas import SCHEMAS
from support.tiny_families import save_tiny, tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.checkpoints.resolve import demo_checkpoint
from malmm.model.decoding import Decoding
from malmm.model.families.family import Asked, Slots
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.families.registry import family_of
from malmm.model.typed.constraint import Constraint
from malmm.model.typed.digits import between
from malmm.model.typed.grammar import LONGEST_BYTES, Grammar
from malmm.model.typed.schema import SchemaError, plain_schema
from malmm.model.typed.vocabulary import Vocabulary, VocabularyError

SCENE = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "A scene",
    "type": "object",
    "properties": {
        "weather": {"enum": ["rain", "sun", "brouillard épais"]},
        "people": {"type": "integer", "minimum": 0, "maximum": 20},
        "certain": {"$ref": "#/$defs/share"},
        "who": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 2},
    },
    "required": ["weather"],
    "additionalProperties": False,
    "$defs": {"share": {"type": "number", "minimum": 0, "maximum": 1}},
}


def byte_tokenizer(letters, *, unigram=False):
    """A tokenizer of these letters alone, byte-level or of whole letters as sentencepiece has them."""
    if not unigram:
        return tokenizer("smolvlm")
    made = Tokenizer(models.Unigram([("<unk>", 0.0), *((letter, -1.0) for letter in letters)], unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["</s>", "<unk>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", unk_token="<unk>")  # noqa: S106


BYTES = Vocabulary.of(tokenizer("smolvlm"))
LETTERS = Vocabulary.of(
    byte_tokenizer([chr(n) for n in range(33, 127)] + ["▁", "é", "en", '{"'], unigram=True)
)


def drawn(vocabulary, grammar, seed, rows=2):
    """Texts by random choices, and whether each ended by itself."""
    generator = torch.Generator().manual_seed(seed)
    constraint = Constraint(vocabulary, grammar)
    ids = torch.zeros(rows, 0, dtype=torch.long)
    for _ in range(grammar.longest_bytes + 1):
        scores = torch.randn(rows, len(vocabulary.pieces) + 3, generator=generator)
        ids = torch.cat([ids, constraint(ids, scores).argmax(1, keepdim=True)], 1)
        if (ids == vocabulary.end).any(1).all():
            break
    return [(vocabulary.text(row), vocabulary.end in row) for row in ids.tolist()]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(SCHEMAS, st.integers(0, 999))
def test_random_choices_make_valid_json_that_ends_by_itself(schema, seed):
    try:
        grammar = Grammar.of(plain_schema(schema))
    except SchemaError:
        # Only where several properties multiply to more than an answer may have.
        assert "anyOf" in json.dumps(schema) or "array" in json.dumps(schema)
        return
    for text, ended in drawn(BYTES, grammar, seed):
        assert ended
        assert len(text.encode()) <= grammar.longest_bytes
        jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("seed", range(3))
def test_a_vocabulary_of_whole_letters_follows_a_schema_too(seed):
    for text, ended in drawn(LETTERS, Grammar.of(plain_schema(SCENE)), seed):
        assert ended
        jsonschema.validate(json.loads(text), SCENE)


def languages(tmp_path_factory, checkpoint_directory):
    tiny = tmp_path_factory.mktemp("smolvlm")
    save_tiny(tiny, "smolvlm")
    plain = Checkpoint.open(str(tiny), model_types=None)
    yield family_of(plain).load_language(plain), 48
    for kind in ("decoder", "encoder-decoder"):
        opened = Checkpoint.open(str(checkpoint_directory(kind, 0)), model_types=("instructblip",))
        yield LanguageModel.load(opened), None


def test_language_models_of_random_weights_answer_under_a_schema(tmp_path_factory, checkpoint_directory):
    tried = 0
    for language, width in languages(tmp_path_factory, checkpoint_directory):
        generator = torch.Generator().manual_seed(tried)
        if width is None:
            queries = [torch.randn(8, language.projection.in_features, generator=generator) for _ in range(3)]
            asked = [Asked(f"What {n}?", query_output=query) for n, query in enumerate(queries)]
        else:
            slots = [Slots(torch.randn(2, 4, width, generator=generator), (0.0, 1.0), 2.0) for _ in range(2)]
            asked = [
                Asked("What is it?", slots=slots[0]),
                Asked("And", slots=slots[0]),
                Asked("x", slots=slots[1]),
            ]
        schema = SCENE
        try:
            language.vocabulary.check(Grammar.of(plain_schema(schema)))
        except VocabularyError:
            # The words of its tokenizer have no braces.
            schema = {"enum": ["a", "b"]}
        for decoding in (Decoding(4), Decoding(4, 3, repetition_penalty=1.5), Decoding(4, begin_token=1)):
            texts = language.generate_texts(asked, decoding.under(Grammar.of(plain_schema(schema))))
            for text in texts:
                jsonschema.validate(json.loads(text), schema)
            tried += 1
    assert tried == 9


def test_the_demo_model_follows_a_schema():
    opened = Checkpoint.open(str(demo_checkpoint()), model_types=("instructblip",))
    language = LanguageModel.load(opened)
    output = torch.randn(1, 32, language.projection.in_features, generator=torch.Generator().manual_seed(0))
    [text] = language.generate(output, ["What is it?"], Decoding().under(Grammar.of(plain_schema(SCENE))))
    jsonschema.validate(json.loads(text), SCENE)


@settings(max_examples=60, deadline=None)
@given(
    st.decimals(-300, 300, places=2),
    st.decimals(0, 300, places=2),
    st.integers(0, 2),
    st.integers(-40_000, 40_000),
)
def test_numbers_between_two_bounds_and_no_others(low, width, decimals, scaled):
    high = low + width
    value = Decimal(scaled) / 10**decimals
    written = f"{value:.{decimals}f}"
    pattern = between(low, high, decimals)
    if written.startswith("-") and value == 0:
        return
    assert bool(pattern and re.fullmatch(pattern, written)) == (low <= value <= high)


def test_times_of_records_lie_in_the_segment():
    record = plain_schema(
        {"type": "object", "properties": {"kind": {"enum": ["goal", "foul"]}}, "required": ["kind"]}
    )
    grammar = Grammar.of_spans(record, 59.96, 102.5)
    for seed in range(4):
        for text, ended in drawn(BYTES, grammar, seed):
            assert ended
            for each in json.loads(text):
                assert set(each) == {"start_s", "end_s", "kind"}
                assert 60.0 <= each["start_s"] <= 102.5
                assert 60.0 <= each["end_s"] <= 102.5


STRING = {"type": "string", "maxLength": 9}
REFUSED = {
    "no end": ({"type": "string"}, "#: it needs maxLength"),
    "no end of a list": ({"type": "array", "items": STRING}, "#: it needs maxItems"),
    "no end of a number": ({"type": "number", "minimum": 0}, "#: it needs maximum"),
    "inside": (
        {
            "type": "object",
            "properties": {"a": {"type": "array", "maxItems": 1, "items": {"type": "string"}}},
        },
        "#/properties/a/items: it needs maxLength",
    ),
    "pattern": ({**STRING, "pattern": "^a"}, "'pattern' cannot be held"),
    "format": ({**STRING, "format": "date"}, "'format' cannot be held"),
    "oneOf": ({"oneOf": [STRING]}, "'oneOf' cannot be held while decoding: write anyOf"),
    "uniqueItems": ({"type": "array", "items": STRING, "maxItems": 2, "uniqueItems": True}, "'uniqueItems'"),
    "not": ({**STRING, "not": {"const": "a"}}, "'not' cannot be held"),
    "recursion": (
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/a"}}},
        },
        "leads back to itself",
    ),
    "bad reference": ({"$ref": "#/nope"}, "names nothing in"),
    "bad type": ({"type": "strng"}, "has type 'strng'"),
    "no type": ({}, "says no type"),
    "no properties": ({"type": "object"}, "needs properties"),
    "unknown required": (
        {"type": "object", "properties": {"a": STRING}, "required": ["b"]},
        "required names 'b'",
    ),
    "no whole number": ({"type": "integer", "minimum": 0.2, "maximum": 0.8}, "no whole number"),
    "upside down": ({"type": "integer", "minimum": 2, "maximum": 1}, "minimum 2 is above maximum 1"),
    "too long": (
        {"type": "array", "maxItems": 50, "items": {"type": "string", "maxLength": 500}},
        f"{LONGEST_BYTES} are the most",
    ),
    "wrong enum": ({"type": "string", "enum": [1]}, "no value of [1] has type 'string'"),
    "half a letter": ({"enum": ["\ud800"]}, "cannot be written as JSON in UTF-8"),
    "not an object": ([1], "a schema is a JSON object"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_by_name(name):
    schema, said = REFUSED[name]
    with pytest.raises(SchemaError) as refused:
        Grammar.of(plain_schema(schema))
    assert said in str(refused.value)


def test_a_vocabulary_without_braces_is_refused():
    without = Vocabulary.of(byte_tokenizer([chr(n) for n in range(33, 123)] + ["▁"], unigram=True))
    empty = {"type": "object", "properties": {"a": {"type": "null"}}}
    with pytest.raises(VocabularyError, match=r"cannot write \{ \}, which"):
        Constraint(without, Grammar.of(plain_schema(empty)))
    weather = {"enum": ["rain", "sun"]}
    for text, ended in drawn(without, Grammar.of(plain_schema(weather)), 0):
        assert ended
        assert json.loads(text) in weather["enum"]
