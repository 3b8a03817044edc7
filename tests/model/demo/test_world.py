from __future__ import annotations

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from malmm.model.demo.drawing import position
from malmm.model.demo.world import COLOURS, HEIGHT, LONGEST_S, SHAPES, SHORTEST_S, WIDTH, Scene, plan_scenes

seeds = st.tuples(st.integers(0, 2**31), st.integers(0, 2**31))


@given(st.floats(3, 2000), seeds)
def test_scenes_tile_the_video(seconds, seed):
    scenes = plan_scenes(seconds, seed)
    assert scenes[0].start_s == 0
    assert scenes[-1].end_s == seconds
    for before, after in itertools.pairwise(scenes):
        assert before.end_s == after.start_s
    assert all(SHORTEST_S <= scene.end_s - scene.start_s < LONGEST_S + SHORTEST_S for scene in scenes)


@given(st.floats(3, 600), seeds)
def test_objects_stay_in_their_part_of_the_picture(seconds, seed):
    for scene in plan_scenes(seconds, seed):
        room = WIDTH / len(scene.objects)
        for place, thing in enumerate(scene.objects):
            for share in (0.0, 0.5, 1.0):
                x, y = position(thing, share)
                assert place * room <= x - thing.radius
                assert x + thing.radius <= (place + 1) * room
                assert y - thing.radius >= 0
                assert y + thing.radius <= HEIGHT


@given(seeds)
def test_no_object_is_seen_again_before_all_were(seed):
    names = [thing.name for scene in plan_scenes(600, seed) for thing in scene.objects]
    whole = len(COLOURS) * len(SHAPES)
    assert len(set(names[:whole])) == min(len(names), whole)


@given(st.floats(3, 300), seeds)
def test_the_same_seed_gives_the_same_scenes_and_json_keeps_them(seconds, seed):
    scenes = plan_scenes(seconds, seed)
    assert plan_scenes(seconds, seed) == scenes
    assert [Scene.from_dict(json.loads(json.dumps(scene.as_dict()))) for scene in scenes] == scenes
