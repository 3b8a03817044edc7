"""Decoders are planned by what GPUs eat: no more than that, no fewer than there is room for, and too few are named."""

from __future__ import annotations

import itertools
from math import inf

import pytest

from malmm.pipeline.cluster.appetite import Appetite
from malmm.pipeline.cluster.plan import ClusterPlan
from malmm.pipeline.cluster.resources import Node, choose_resources
from malmm.pipeline.schema.cluster_use import ClusterUse

# ViT-g: an A100 encodes 240 frames a second, one a second of video; a core decodes 15 seconds of 1080p.
HEAVY = Appetite(lambda: 521_000_000_000, fps=1.0)
LIGHT = Appetite(lambda: 1_000_000_000, fps=1.0)
NODES = [Node(256, 4, card="A100")]


def test_cores_for_a_card_are_those_of_the_costs_page() -> None:
    """docs/cost.md: 15 cores for 1080p, 2 to 5 for 360p. Key frames cost a tenth, half the frames twice the cores."""
    assert HEAVY.cores_a_gpu("A100") == pytest.approx(16.0, abs=0.1)
    assert HEAVY.cores_a_gpu("A100", video_s_a_core=109.0) == pytest.approx(2.2, abs=0.1)
    assert HEAVY.cores_a_gpu("unheard of") == HEAVY.cores_a_gpu() == HEAVY.cores_a_gpu("H100")
    keyframes = Appetite(HEAVY.frame_flop, 1.0, keyframes=True)
    assert keyframes.cores_a_gpu("A100") == pytest.approx(HEAVY.cores_a_gpu("A100") / 10)
    assert Appetite(HEAVY.frame_flop, 0.5).cores_a_gpu("A100") == pytest.approx(2 * HEAVY.cores_a_gpu("A100"))
    assert Appetite(lambda: 0, 1.0).cores_a_gpu("A100") == inf


@pytest.mark.parametrize(
    ("appetite", "nodes", "decoders"),
    [
        (HEAVY, NODES, 4 * 16),
        # As many as there is room for: a light model eats more.
        (LIGHT, NODES, choose_resources(NODES).decode_workers),
        (HEAVY, [Node(8, 4, card="A100")], choose_resources([Node(8, 4)]).decode_workers),
        # CPU nodes beside them do not decode for nobody.
        (HEAVY, [Node(8, 1, card="A100"), Node(256), Node(256)], 17),
        (HEAVY, [Node(256)], choose_resources([Node(256)]).decode_workers),
        (Appetite(lambda: 10**15, 1.0), NODES, 4),
    ],
)
def test_decoders_are_no_more_than_gpus_eat(appetite: Appetite, nodes: list[Node], decoders: int) -> None:
    plan = ClusterPlan(appetite=appetite)
    assert plan.resources(nodes).decode_workers == pytest.approx(decoders, abs=1)
    assert plan.resources(nodes).encode_workers == choose_resources(nodes).encode_workers


def test_more_gpus_never_have_fewer_decoders() -> None:
    for cpus, gpus, appetite in itertools.product([1, 8, 64, 300], range(1, 9), [HEAVY, LIGHT]):
        plan = ClusterPlan(appetite=appetite)
        one, two = (plan.resources([Node(cpus, gpus, card="L4")] * count) for count in (1, 2))
        assert one.decode_workers <= two.decode_workers


def test_a_share_and_what_a_user_wants_go_before_it() -> None:
    half = ClusterPlan(use=ClusterUse(share=0.5), appetite=HEAVY).resources(NODES)
    assert half.decode_workers == pytest.approx(2 * 16, abs=1)
    assert ClusterPlan((("decode_workers", 200.0),), appetite=HEAVY).resources(NODES).decode_workers == 200


def test_operations_are_counted_for_gpus_alone() -> None:
    def loads_torch() -> int:
        raise AssertionError

    plan = ClusterPlan(appetite=Appetite(loads_torch, 1.0))
    assert plan.resources([Node(8)]) == choose_resources([Node(8)])
    with pytest.raises(AssertionError):
        plan.resources(NODES)


@pytest.mark.parametrize(
    ("nodes", "note"),
    [
        (
            [Node(4, 8, card="H100")],
            "8 GPUs will wait for decoding: they eat what some 56 cores decode of small videos",
        ),
        ([Node(2, 1, card="H100")], "1 GPU will wait for decoding"),
        (NODES, ""),
        # Ray does not know the card, so neither do we.
        ([Node(4, 8)], ""),
        ([Node(4)], ""),
    ],
)
def test_cpus_that_cannot_feed_the_gpus_are_named(nodes: list[Node], note: str) -> None:
    said = HEAVY.note(ClusterPlan(appetite=HEAVY).resources(nodes), nodes)
    assert said.startswith(note)
    assert bool(said) == bool(note)
