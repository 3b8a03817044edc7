from __future__ import annotations

import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from malmm.model.demo.checkpoint import language_tokenizer, qformer_tokenizer
from malmm.model.demo.questions import description, questions
from malmm.model.demo.training.lessons import Tokens, ask, attributes_of, scene_of, window_weights
from malmm.model.demo.training.pool import IGNORED
from malmm.model.demo.world import plan_scenes

seeds = st.tuples(st.integers(0, 2**31), st.integers(0, 99))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 40))
def test_windows_are_shared_among_the_scenes_that_fill_them(lengths, windows):
    begins = [sum(lengths[:place]) for place in range(len(lengths))]
    weights = window_weights(begins, sum(lengths), windows)
    assert weights.shape == (windows, len(lengths))
    torch.testing.assert_close(weights.sum(1), torch.ones(windows))
    torch.testing.assert_close(weights.sum(0), torch.tensor(lengths) / sum(lengths) * windows)


@given(st.floats(3, 100), seeds)
def test_scenes_survive_as_attributes(seconds, seed):
    for scene in plan_scenes(seconds, seed):
        again = scene_of(attributes_of(scene), scene.start_s, scene.end_s)
        assert description([again]) == description([scene])


@given(st.floats(3, 100), seeds)
def test_what_is_asked_has_its_answer(seconds, seed):
    scenes = plan_scenes(seconds, seed)
    truth = {(question.kind, question.answer) for question in questions(scenes)}
    assert {(q.kind, q.answer) for q in ask(scenes, 8, random.Random(seed[0]))} <= truth


def test_labels_are_the_answers_and_their_ends_alone():
    tokens = Tokens(qformer_tokenizer(), language_tokenizer())
    asked = [questions(plan_scenes(30, (1, 2)))[:5], questions(plan_scenes(9, (3, 4)))[:3]]
    answers = tokens.answers(asked)
    for film, of_film in enumerate(asked):
        for number, question in enumerate(of_film):
            here = answers.question[film] == number
            ids, labels = answers.ids[film][here], answers.labels[film][here]
            assert answers.position[film][here].tolist() == list(range(len(ids)))
            prompt = tokens.language(question.prompt)["input_ids"]
            assert ids[: len(prompt)].tolist() == prompt
            assert (labels[: len(prompt)] == IGNORED).all()
            said = labels[len(prompt) :]
            assert torch.equal(said, ids[len(prompt) :])
            assert said[-1] == tokens.language.eos_token_id
            assert tokens.language.decode(said, skip_special_tokens=True).strip() == question.answer
    assert (answers.labels[answers.question == -1] == IGNORED).all()
