from __future__ import annotations

import numpy as np
import pytest

from malmm.model.demo.training.pool import ABSENT, IGNORED, Pool, make_pool
from malmm.model.demo.world import COLOURS


@pytest.fixture(scope="module")
def pool() -> Pool:
    return make_pool(12, side=96, grid=8, seed=5)


def test_frames_belong_to_scenes_of_3_to_20_seconds(pool):
    assert len(pool.frames) == len(pool.scene_of) == len(pool.patches)
    lengths = np.diff(pool.begins)
    assert len(lengths) == len(pool.attributes) == 12
    assert lengths.sum() == len(pool.frames)
    assert (lengths >= 3).all()
    assert (lengths <= 20).all()


def test_patches_of_an_object_show_its_colour(pool):
    """The centre patch of each labelled object is nearer to its colour than to most others."""
    palette = np.array(list(COLOURS.values()), dtype=float)
    right = total = 0
    for frame, scene, patches in zip(pool.frames, pool.scene_of, pool.patches, strict=True):
        mean = frame.reshape(8, 12, 8, 12, 3).astype(float).mean(axis=(1, 3)).reshape(64, 3)
        for place in (0, 1):
            shown = np.flatnonzero(patches == place)
            known = pool.attributes[scene, place]
            assert (len(shown) > 0) == (known[0] != ABSENT[0])
            if len(shown):
                # The patch with most of the object in it stands out most.
                best = shown[np.ptp(mean[shown], axis=1).argmax()]
                order = np.linalg.norm(palette - mean[best], axis=1).argsort()
                right += known[0] in order[:2]
                total += 1
    assert right / total > 0.8
    assert set(np.unique(pool.patches)) <= {IGNORED, -1, 0, 1}


def test_a_pool_is_the_same_from_the_same_seed_and_from_its_file(pool, tmp_path):
    again = make_pool(12, side=96, grid=8, seed=5)
    pool.save(tmp_path / "pool.safetensors")
    kept = Pool.load(tmp_path / "pool.safetensors")
    for other in (again, kept):
        for name, value in vars(pool).items():
            assert np.array_equal(vars(other)[name], value), name
