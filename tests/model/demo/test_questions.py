from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from malmm.model.demo.questions import DESCRIBE, KINDS, NUMBERS, description, questions
from malmm.model.demo.world import Object, Scene, plan_scenes

videos = st.builds(plan_scenes, st.floats(3, 400), st.tuples(st.integers(0, 2**31), st.integers(0, 99)))


def thing(name: str, motion: str = "still") -> Object:
    colour, shape = name.split()
    return Object(colour, shape, motion, "small", 30, 100, 100, 0)


def scene(start: float, end: float, *things: Object) -> Scene:
    return Scene(start, end, things, ((0, 0, 0), (0, 0, 0)), 0.0, 100.0, 0.0, 2.0)


THREE = [
    scene(0, 5, thing("red circle", "left")),
    scene(5, 25, thing("blue square"), thing("red star", "up")),
    scene(25, 30, thing("white cross")),
]


def answers(scenes):
    return {question.prompt: question.answer for question in questions(scenes)}


def test_every_kind_is_answered_from_the_scenes():
    found = answers(THREE)
    assert found["Write a short description of the video."] == (
        "a red circle moving left, then a blue square and a red star moving up, then a white cross"
    )
    assert found["What colour is the square?"] == "blue"
    assert found["What shape is the white object?"] == "cross"
    assert found["What appears first?"] == "a red circle"
    assert found["What appears last?"] == "a white cross"
    assert found["What appears before the white cross?"] == "a blue square and a red star"
    assert found["What appears after the red circle?"] == "a blue square and a red star"
    assert found["How many objects appear?"] == "four"
    assert found["Which way does the red star move?"] == "up"
    assert found["Which way does the white cross move?"] == "it does not move"
    assert found["When does the red circle appear?"] == "at the beginning"
    assert found["When does the white cross appear?"] == "near the end"
    assert found["Does a red circle appear?"] == "yes"
    assert {question.kind for question in questions(THREE)} == set(KINDS)


def test_what_has_two_answers_is_not_asked():
    found = answers(THREE)
    assert "What shape is the red object?" not in found
    assert "When does the blue square appear?" not in found
    twice = answers([scene(0, 5, thing("red circle")), scene(5, 10, thing("red circle", "up"))])
    assert not any("the red circle" in prompt for prompt in twice)
    assert twice["What shape is the red object?"] == "circle"


@given(videos)
def test_no_prompt_has_two_answers(scenes):
    asked = questions(scenes)
    assert len({question.prompt for question in asked}) == len(asked)
    assert all(question.answer for question in asked)


@given(videos)
def test_existence_is_asked_as_often_of_what_is_there_as_of_what_is_not(scenes):
    seen = {thing.name for scene in scenes for thing in scene.objects}
    asked = [question for question in questions(scenes) if question.kind == "exists"]
    assert [q.answer for q in asked].count("yes") * 2 == len(asked)
    for question in asked:
        name = question.prompt.removeprefix("Does a ").removesuffix(" appear?")
        assert (question.answer == "yes") == (name in seen)


@given(videos, st.integers(0, 99))
def test_other_wordings_have_the_same_answers(scenes, seed):
    plain, worded = questions(scenes), questions(scenes, random.Random(seed))
    assert [(q.kind, q.answer, q.scene) for q in plain] == [(q.kind, q.answer, q.scene) for q in worded]


def test_objects_are_counted_once_however_often_they_are_seen():
    names = ["red circle", "blue star", "red circle"]
    scenes = [scene(5.0 * i, 5.0 * (i + 1), thing(name)) for i, name in enumerate(names)]
    assert answers(scenes)["How many objects appear?"] == NUMBERS[1]
    assert description(scenes) == "a red circle, then a blue star, then a red circle"
    assert questions(scenes)[0].kind == DESCRIBE
