from __future__ import annotations

import dataclasses
import json
import math

import pytest
from support.archive_rows import RECIPE

from malmm.pipeline.schema.config import CAPTION, IndexConfig, Prompt, Recipe, stable_id
from malmm.pipeline.schema.decoding import TextSettings
from malmm.pipeline.schema.errors import ConfigError


def test_recipe_goes_through_json():
    assert Recipe.from_json(RECIPE.to_json()) == RECIPE


def test_recipe_id_depends_on_what_decides_the_rows():
    changes = {
        "model_fingerprint": "x",
        "retrieval_fingerprint": "x",
        "fps": 2.0,
        "segment_s": 50.0,
        "bank_length": 10,
        "merge_policy": "frame",
        "image_size": 224,
        "sampling": "keyframes",
        "min_segment_s": 5.0,
        "token_layers": 4,
        "decoding": '{"beams": 5}',
        "tokens": "int8",
        "indexed_with": "y",
        "stages": "no dark frames, 1",
    }
    others = {dataclasses.replace(RECIPE, **{name: value}).recipe_id for name, value in changes.items()}
    assert len(others | {RECIPE.recipe_id}) == 1 + len(changes)
    assert set(changes) | {"model", "retrieval_model"} == {f.name for f in dataclasses.fields(Recipe)}


def test_fields_added_since_leave_the_recipes_of_before_as_they_are():
    """This is what 0.1 wrote, and the id it had."""
    written = json.loads(RECIPE.to_json())
    assert {field.name for field in dataclasses.fields(Recipe)} - set(written) == {
        "token_layers",
        "decoding",
        "tokens",
        "indexed_with",
        "stages",
    }
    old = {name: value for name, value in written.items() if name not in ("model", "retrieval_model")}
    assert RECIPE.recipe_id == stable_id(json.dumps(old, sort_keys=True))
    changes = {"token_layers": 4, "decoding": TextSettings(beams=5).to_text(), "tokens": "int8"}
    other = dataclasses.replace(RECIPE, **changes)
    assert Recipe.from_json(other.to_json()) == other
    assert Recipe.from_json(RECIPE.to_json()) == RECIPE


def test_vectors_made_anew_change_the_tower_and_not_the_ids_of_rows():
    first = RECIPE.retrieval_fingerprint
    anew = dataclasses.replace(RECIPE, retrieval_fingerprint="x", indexed_with=first)
    assert (anew.recipe_id, anew.tower_id == RECIPE.tower_id) == (RECIPE.recipe_id, False)
    asked = dataclasses.replace(RECIPE, retrieval_fingerprint="x")
    assert (anew.takes(asked), anew.takes(RECIPE), RECIPE.takes(asked), RECIPE.takes(RECIPE)) == (
        True,
        False,
        False,
        True,
    )
    assert not anew.takes(dataclasses.replace(asked, fps=2.0))


def test_where_a_checkpoint_lies_is_not_part_of_the_recipe():
    moved = dataclasses.replace(RECIPE, model="/elsewhere", retrieval_model="/elsewhere")
    assert moved.recipe_id == RECIPE.recipe_id
    assert RECIPE.differences(moved) == []


def test_differences_are_stored_then_asked():
    assert RECIPE.differences(dataclasses.replace(RECIPE, fps=2.0)) == [("fps", "1.0", "2.0")]


def test_a_prompt_is_read_from_the_command_line():
    assert Prompt.parse("count = How many balls = shapes?") == Prompt("count", "How many balls = shapes?")


@pytest.mark.parametrize(
    ("option", "said"),
    [("How many?", "no '='"), ("=How?", "not usable"), ("a b=How?", "not usable"), ("count= ", "no text")],
)
def test_prompts_that_cannot_be(option, said):
    with pytest.raises(ConfigError, match=said):
        Prompt.parse(option)


@pytest.mark.parametrize(("task", "labels"), [("classification", ()), ("question", ("a",)), ("poem", ())])
def test_tasks_that_cannot_be(task, labels):
    with pytest.raises(ConfigError):
        Prompt("p", "What?", task=task, labels=labels)


def test_another_text_is_another_version():
    prompts = [
        Prompt("p", "What?"),
        Prompt("p", "Who?"),
        Prompt("q", "What?"),
        Prompt("p", "What?", task="caption"),
        Prompt("p", "What?", task="classification", labels=("a", "b")),
        Prompt("p", "What?", task="classification", labels=("b", "a")),
    ]
    assert len({prompt.version for prompt in prompts}) == len(prompts)
    assert Prompt("p", "What?").version == prompts[0].version


def test_the_caption_is_there_unless_replaced():
    config = IndexConfig(("a.mp4",), "archive", prompts=(Prompt("who", "Who?"),))
    assert [prompt.name for prompt in config.all_prompts] == ["caption", "who"]
    mine = Prompt("caption", "Describe it.", task="caption")
    assert IndexConfig(("a.mp4",), "archive", prompts=(mine,)).all_prompts == (mine,)
    assert IndexConfig(("a.mp4",), "archive").all_prompts == (CAPTION,)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sources": ()}, "no sources"),
        ({"archive": ""}, "no archive"),
        ({"fps": 0.0}, "--fps 0"),
        ({"fps": -1.0}, "--fps -1"),
        ({"fps": math.nan}, "--fps nan"),
        ({"fps": math.inf}, "--fps inf"),
        ({"segment_s": 0.0}, "--segment-s 0"),
        ({"segment_s": math.inf}, "--segment-s inf"),
        ({"fps": 0.005}, "less than one frame a segment: use segments of at least 200 s"),
        ({"segment_s": 1e6}, "at most 20000"),
        ({"bank_length": 0}, "--bank-length 0"),
        ({"bank_length": 1001}, "--bank-length 1001"),
        ({"merge_policy": "best"}, "--merge-policy 'best': one of token, frame, fifo, average"),
        ({"decoder": "gstreamer"}, "--decoder 'gstreamer'"),
        ({"batch_segments": 0}, "--batch-segments 0"),
        ({"max_new_tokens": 0}, "--max-new-tokens 0"),
        ({"max_new_tokens": 3, "texts": TextSettings(min_new_tokens=4)}, "--min-new-tokens 4: at most"),
        ({"resources": (("encode_gpus", -0.5),)}, "--resource encode_gpus=-0.5: 0 or more"),
        (
            {"resources": (("decode_workers", 0.0),)},
            "--resource decode_workers=0: a whole number, at least 1",
        ),
        ({"resources": (("decode_workers", 1.5),)}, "--resource decode_workers=1.5: a whole number"),
        ({"resources": (("workers", 1.0),)}, "--resource workers=1: one of decode_workers"),
        ({"limit": 0}, "--limit 0: at least 1"),
        ({"min_segment_s": 60.0}, "at most half of --segment-s (50 s)"),
        ({"min_segment_s": 0.5}, "--min-segment-s 0.5: at least one frame (1 s)"),
        ({"sampling": "some"}, "--sampling 'some': one of rate"),
        ({"sampling": "keyframes", "decoder": "decord"}, "needs --decoder av"),
        ({"decode_limit_s": 0.0}, "--decode-limit-s 0"),
        ({"prompts": (Prompt("p", "a"), Prompt("p", "b"))}, "prompt 'p' is given twice"),
    ],
)
def test_values_that_cannot_be(change, said):
    with pytest.raises(ConfigError) as caught:
        IndexConfig(**{"sources": ("a.mp4",), "archive": "archive", **change})
    assert said in str(caught.value)


def test_nothing_is_compiled_unless_asked_for():
    assert IndexConfig(("a.mp4",), "archive").compile is False
    assert IndexConfig(("a.mp4",), "archive", compile=True).compile is True
