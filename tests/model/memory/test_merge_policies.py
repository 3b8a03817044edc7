from __future__ import annotations

import pytest
import torch

from malmm.model.memory.merge_policies import POLICIES, merge_policy

SIMILARITY = torch.tensor([[[0.1, 0.9, 0.2], [0.8, 0.1, 0.8]], [[0.0, 0.0, 0.0], [-0.5, -0.9, -0.4]]])
SIZES = torch.tensor([[[1.0, 2, 3, 1], [5, 1, 1, 1]], [[1, 1, 1, 1], [4, 3, 2, 9]]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token", [[1, 0], [0, 2]]),  # ties go to the earliest
        ("frame", [[1, 1], [2, 2]]),  # means 0.45 0.5 0.5 -> the first 0.5; -0.25 -0.45 -0.2
        ("fifo", [[0, 0], [0, 0]]),
        ("average", [[0, 1], [0, 1]]),
    ],
)
def test_each_policy_chooses_by_its_rule(name, expected):
    chosen = merge_policy(name).choose(SIMILARITY, SIZES)
    assert chosen.dtype == torch.int64
    assert chosen.tolist() == expected


@pytest.mark.parametrize("name", [name for name, policy in POLICIES.items() if not policy.uses_similarity])
def test_similarity_is_not_looked_at_where_it_is_not_kept(name):
    policy = merge_policy(name)
    nonsense = torch.full_like(SIMILARITY, float("nan"))
    if policy.bounded:
        assert torch.equal(policy.choose(nonsense, SIZES), policy.choose(SIMILARITY, SIZES))


def test_an_unbounded_policy_is_never_asked():
    with pytest.raises(RuntimeError, match="unbounded"):
        merge_policy("none").choose(SIMILARITY, SIZES)


def test_an_unknown_name_lists_the_ones_there_are():
    with pytest.raises(
        ValueError, match="no merge policy 'lru': one of token, frame, fifo, average, episode, none"
    ):
        merge_policy("lru")


def test_policies_are_known_by_their_own_names():
    assert all(name == policy.name for name, policy in POLICIES.items())
