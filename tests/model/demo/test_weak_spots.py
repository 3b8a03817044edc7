"""The benchmark of the demo model's weak spots: what it counts, compares and reads off."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from malmm.model.demo.questions import description
from malmm.model.demo.world import plan_scenes

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def spots(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import demo_weak_spots

    return demo_weak_spots


def test_a_description_lists_each_object_once(spots):
    for number in range(30):
        scenes = plan_scenes(60, (5, number))
        assert spots.listed(description(scenes)) == sum(len(scene.objects) for scene in scenes)


def test_others_differ_in_what_their_name_says(spots):
    chance = random.Random(2)
    for number in range(30):
        for scene in plan_scenes(60, (6, number)):
            thing = scene.objects[0]
            for name, other in spots.others_of(thing, chance):
                pairs = zip(("colour", "shape", "direction"), _looks(thing), _looks(other), strict=True)
                changed = {what for what, before, after in pairs if before != after}
                assert changed == set(name.removeprefix("another ").split()) or len(changed) == 3


def _looks(thing):
    return thing.colour, thing.shape, thing.motion


def test_a_probe_reads_what_is_there_and_nothing_else(spots):
    noise = torch.Generator().manual_seed(3)
    truth = torch.randint(0, 6, (20, 32), generator=noise)
    empty = torch.randn(20, 32, 40, generator=noise)
    told = empty.clone()
    told[..., :6] += 8 * torch.nn.functional.one_hot(truth, 6)
    assert (spots.probed(told, truth, 6) == truth).float().mean() > 0.99
    assert (spots.probed(empty, truth, 6) == truth).float().mean() < 0.35
