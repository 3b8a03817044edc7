from __future__ import annotations

import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from malmm.model.demo.training.matching import is_true, phrase_of
from malmm.model.demo.training.matching_head import wrong_slots
from malmm.model.demo.world import plan_scenes


@given(st.integers(0, 2**31), st.integers(0, 2**31))
def test_a_phrase_is_true_of_the_scene_that_it_is_said_of(seed, other):
    chance = random.Random(seed)
    for scene in plan_scenes(60, (seed, other)):
        for thing in scene.objects:
            text, phrase = phrase_of(thing, chance)
            assert is_true(phrase, scene)
            for said in filter(None, phrase):
                assert said in text


def test_a_phrase_must_be_true_of_one_object_alone():
    scene = next(s for n in range(99) for s in plan_scenes(60, (n, 0)) if len(s.objects) == 2)
    left, right = scene.objects
    assert is_true((left.colour, left.shape, left.motion), scene)
    crossed = (left.colour, right.shape, None)
    assert is_true(crossed, scene) == (left.colour == right.colour or left.shape == right.shape)


@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.25, 1.0]))
def test_a_wrong_slot_is_one_that_its_phrase_is_surely_not_true_of(seed, hard):
    torch.manual_seed(seed)
    true, unsure = torch.rand(6, 20) < 0.3, torch.rand(6, 20) < 0.3
    free = ~(true | unsure)
    slots = wrong_slots(2 * torch.rand(6, 20) - 1, true, unsure, hard)
    assert slots.shape == (20,)
    assert (free.gather(0, slots[None])[0] | ~free.any(0)).all()


def test_wrong_slots_that_look_right_are_chosen_when_told():
    score = torch.tensor([0.9, 0.8, -0.5])[:, None].expand(3, 400)
    true = torch.tensor([True, False, False])[:, None].expand(3, 400)
    none = torch.zeros(3, 400, dtype=torch.bool)
    torch.manual_seed(0)
    assert (wrong_slots(score, true, none, 1.0) == 1).all()
    share = (wrong_slots(score, true, none, 0.0) == 1).float().mean()
    assert 0.4 < share < 0.6
