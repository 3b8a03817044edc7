from __future__ import annotations

import itertools
from dataclasses import fields, replace
from typing import Any

import pytest

from malmm.pipeline.cluster.placement import wants_of
from malmm.pipeline.cluster.plan import ClusterPlan
from malmm.pipeline.cluster.resources import Node, Resources, choose_resources, with_wishes
from malmm.pipeline.schema.config import RESOURCES
from malmm.pipeline.schema.errors import ConfigError

# Planning and writing, one task each, take this much of a CPU beside the stages that are asked for.
LIGHT_CPUS = 2 * 0.05
SIZES = list(itertools.product([1, 2, 64], [0, 1, 4, 8]))
NODES = [1, 4, 64]


@pytest.mark.parametrize(("cpus", "gpus"), SIZES)
def test_all_stages_run_at_once(cpus: int, gpus: int) -> None:
    chosen = choose_resources([Node(cpus, gpus)])
    actors = chosen.encode_workers * chosen.encode_cpus + chosen.generate_workers * chosen.generate_cpus
    assert actors + chosen.decode_cpus + LIGHT_CPUS <= cpus
    assert chosen.decode_workers >= 1
    assert chosen.encode_workers * chosen.encode_gpus + chosen.generate_workers * chosen.generate_gpus <= gpus


@pytest.mark.parametrize(("cpus", "gpus"), SIZES)
def test_every_gpu_is_used_and_has_an_encoder(cpus: int, gpus: int) -> None:
    chosen = choose_resources([Node(cpus, gpus)])
    used = chosen.encode_workers * chosen.encode_gpus + chosen.generate_workers * chosen.generate_gpus
    assert used == pytest.approx(gpus)
    assert chosen.encode_workers == max(1, gpus)
    # One actor holds both, and takes all of a GPU.
    assert chosen.one_actor
    assert not gpus or chosen.actor_gpus == 1


@pytest.mark.parametrize(("cpus", "gpus"), SIZES)
def test_most_cpus_decode(cpus: int, gpus: int) -> None:
    chosen = choose_resources([Node(cpus, gpus)])
    assert cpus - gpus - 2 <= chosen.decode_workers <= cpus


@pytest.mark.parametrize(("cpus", "gpus"), SIZES)
@pytest.mark.parametrize("count", NODES)
def test_many_nodes_have_the_workers_of_one_each(count: int, cpus: int, gpus: int) -> None:
    one, many = choose_resources([Node(cpus, gpus)]), choose_resources([Node(cpus, gpus)] * count)
    assert many == replace(
        one,
        decode_workers=count * one.decode_workers,
        encode_workers=count * one.encode_workers,
        generate_workers=count * one.generate_workers,
    )


def test_nodes_without_gpus_decode_for_those_that_have_them() -> None:
    gpu, cpu = Node(4, 1), Node(32)
    chosen = choose_resources([gpu, cpu, gpu])
    assert (chosen.encode_workers, chosen.generate_workers) == (2, 2)
    assert chosen.decode_workers == 2 * 2 + 31
    assert chosen.decode_cpus == 1


def test_a_decoder_fits_on_a_node() -> None:
    """What actors leave on each node does not add up to a CPU anywhere."""
    chosen = choose_resources([Node(1, 1)] * 4)
    on_each = chosen.encode_cpus + chosen.generate_cpus
    assert chosen.decode_cpus + LIGHT_CPUS <= 1 - on_each


def test_a_head_without_cpus_has_no_worker() -> None:
    assert choose_resources([Node(0), Node(2)]) == choose_resources([Node(2)])


def test_of_four_nodes_one_that_is_left_can_do_all() -> None:
    chosen = choose_resources([Node(1)] * 4)
    actors = chosen.encode_workers * chosen.encode_cpus + chosen.generate_workers * chosen.generate_cpus
    assert actors + chosen.decode_cpus + LIGHT_CPUS <= 1


def test_a_cluster_without_a_whole_gpu_computes_on_cpus() -> None:
    assert choose_resources([Node(4, 0.5)]).encode_gpus == 0


@pytest.mark.parametrize("name", ["decode_workers", "encode_workers", "generate_workers"])
def test_a_stage_without_a_worker_is_refused(name: str) -> None:
    changed: dict[str, Any] = {name: 0}
    with pytest.raises(ConfigError, match="at least one worker"):
        replace(choose_resources([Node(4, 1)]), **changed)


@pytest.mark.parametrize(
    "name", ["decode_cpus", "encode_cpus", "encode_gpus", "generate_cpus", "generate_gpus"]
)
def test_a_share_below_zero_is_refused(name: str) -> None:
    changed: dict[str, Any] = {name: -0.1}
    with pytest.raises(ConfigError, match=f"{name} cannot be below 0"):
        replace(Resources(1, 1.0, 1, 1.0, 1.0, 1, 1.0, 1.0), **changed)


def test_all_that_does_not_follow_from_the_model_can_be_wanted() -> None:
    of_the_model = {"actor_memory_bytes", "one_model"}
    assert {field.name for field in fields(Resources)} - of_the_model == set(RESOURCES)


GPUS = choose_resources([Node(16, 4)])
Wishes = list[tuple[str, float]]


@pytest.mark.parametrize(
    ("wishes", "encoders", "generators", "one_actor"),
    [
        ([], 4, 4, True),
        ([("encode_workers", 2)], 2, 2, True),
        ([("generate_workers", 3)], 3, 3, True),
        ([("encode_workers", 2), ("generate_workers", 2), ("encode_gpus", 0.25)], 2, 2, True),
        ([("encode_gpus", 1), ("generate_gpus", 1), ("encode_workers", 3), ("generate_workers", 1)], 3, 1, False),
        ([("encode_gpus", 1), ("generate_gpus", 0), ("generate_workers", 1)], 4, 1, False),
        ([("encode_gpus", 0), ("generate_gpus", 0)], 4, 4, True),
        ([("encode_gpus", 0), ("generate_gpus", 0), ("encode_workers", 2)], 2, 4, False),
    ],
)  # fmt: skip
def test_both_models_go_together_where_they_share_a_gpu_or_have_none(
    wishes: Wishes, encoders: int, generators: int, one_actor: bool
) -> None:
    chosen = with_wishes(GPUS, wishes)
    assert (chosen.encode_workers, chosen.generate_workers) == (encoders, generators)
    assert chosen.one_actor == one_actor


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ([("encode_workers", 2), ("generate_workers", 3)], "2 and generate_workers 3: .* as many of both"),
        ([("encode_gpus", 0.6), ("generate_gpus", 0.6)], "encode_gpus 0.6 and generate_gpus 0.6: .* find no GPU"),
        ([("encode_gpus", 0.5), ("generate_gpus", 1)], "encode_gpus 0.5 and generate_gpus 1: .* has whole ones"),
        ([("encode_gpus", 1.5), ("generate_gpus", 1)], "encode_gpus 1.5 and generate_gpus 1: .* has whole ones"),
    ],
)  # fmt: skip
def test_shares_by_which_one_could_take_the_place_of_the_other_are_refused(wishes: Wishes, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        with_wishes(GPUS, wishes)


SEVEN_BILLION = 14_000_000_000


@pytest.mark.parametrize(
    ("nodes", "actors", "memory_bytes"),
    [
        ([Node(32, 8, 200e9)], 8, SEVEN_BILLION),
        # Not all GPUs of a node with little memory: eight that load at once would be killed.
        ([Node(32, 8, 60e9), Node(32, 8, 200e9)], 12, SEVEN_BILLION),
        # On CPUs weights are kept in single precision.
        ([Node(8, 0, 30e9), Node(8, 0, 27e9)], 1, 2 * SEVEN_BILLION),
        ([Node(8)], 1, 2 * SEVEN_BILLION),
    ],
)
def test_a_node_gets_no_more_actors_than_can_load_the_model_at_once(
    nodes: list[Node], actors: int, memory_bytes: int
) -> None:
    chosen = choose_resources(nodes, SEVEN_BILLION)
    assert (chosen.encode_workers, chosen.generate_workers) == (actors, actors)
    assert chosen.actor_memory_bytes == memory_bytes


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([Node(8, 0, 16e9), Node(8, 0, 20e9)], r"28\.0 GB of memory on CPUs, and Ray may use 20\.0 GB"),
        ([Node(8, 1, 10e9), Node(8, 0, 99e9)], r"14\.0 GB of memory to load it for a GPU, .* 10\.0 GB"),
    ],
)
def test_a_model_that_no_node_can_load_is_refused_with_the_numbers(nodes: list[Node], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        choose_resources(nodes, SEVEN_BILLION)


def test_a_card_that_cannot_hold_the_weights_is_refused_with_the_numbers() -> None:
    thirteen_billion = 28_000_000_000
    nodes = [Node(32, 8, card="A100-80G"), Node(16, 1, card="T4"), Node(16)]
    with pytest.raises(ConfigError, match=r"take 28\.0 GB of a GPU's memory, and T4 has 16 GB: .*--label"):
        choose_resources(nodes, thirteen_billion)
    assert choose_resources(nodes[::2], thirteen_billion).encode_workers == 8
    # A card without a name may be of any size, and one of several sizes may be the largest.
    assert choose_resources([Node(16, 1), Node(16, 1, card="V100")], thirteen_billion).encode_workers == 2
    # Whoever says how many GPUs each model has knows what fits them.
    apart = ClusterPlan((("encode_gpus", 1.0), ("generate_gpus", 1.0)), weights_bytes=thirteen_billion)
    assert apart.resources([Node(16, 2, card="T4")]).encode_workers == 2


@pytest.mark.parametrize(
    ("node", "wishes", "gpus", "workers"),
    [
        (Node(16, 4), (), 1.0, 4),
        (Node(16, 4), (("encode_gpus", 0.5), ("encode_workers", 8.0)), 0.5, 8),
        (Node(16, 4), (("generate_gpus", 0.3), ("generate_workers", 2.0)), 1.0, 4),
        (Node(16, 4), (("encode_gpus", 0.0),), 0.0, 4),
        (Node(4), (), 0.0, 1),
        (Node(4), (("encode_workers", 3.0),), 0.0, 3),
    ],
)
def test_a_run_with_one_model_reserves_nothing_for_another(
    node: Node, wishes: tuple[tuple[str, float], ...], gpus: float, workers: int
) -> None:
    chosen = ClusterPlan(wishes, one_model=True).resources([node])
    assert chosen.one_actor
    assert (chosen.actor_gpus, chosen.encode_workers) == (gpus, workers)
    assert [name for name, _, _ in wants_of(chosen)] == ["decode", "encode"]
