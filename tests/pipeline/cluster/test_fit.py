"""A plan is refused if the nodes have no room for one worker of each stage at once."""

from __future__ import annotations

import itertools

import pytest

from malmm.pipeline.cluster.fit import refuse_unfit
from malmm.pipeline.cluster.placement import Want, wants_of
from malmm.pipeline.cluster.resources import Node, Resources, choose_resources, share_of
from malmm.pipeline.schema.errors import ConfigError

DECODE = ("decode", 1.0, 0.0)
ENCODE, GENERATE = ("encode", 0.5, 1.0), ("generate", 0.5, 1.0)
LARGE = ("encode", 64.0, 1.0)


@pytest.mark.parametrize(
    ("wants", "nodes"),
    [
        ([DECODE, ENCODE, GENERATE], [Node(2, 2)]),
        ([DECODE, ENCODE, GENERATE], [Node(1, 1), Node(1, 1), Node(0.5), Node(1)]),
        # First where there is more room would leave none for the large one.
        ([("decode", 1.0, 0.0), ("encode", 4.0, 0.0)], [Node(4), Node(2)]),
        ([("encode", 0.1, 0.6), ("generate", 0.1, 0.4)], [Node(1, 1)]),
        ([("decode", 0.1, 0.0)] * 3, [Node(0.1 + 0.1 + 0.1)]),
    ],
)
def test_what_fits_is_not_refused(wants: list[Want], nodes: list[Node]) -> None:
    refuse_unfit(wants, nodes, may_grow=False)
    refuse_unfit(wants, nodes[::-1], may_grow=False)


@pytest.mark.parametrize("may_grow", [False, True])
@pytest.mark.parametrize(
    ("wants", "nodes", "said"),
    [
        (
            [DECODE, ENCODE, GENERATE],
            [Node(8, 1)],
            r"decode 1 CPU, encode 0.5 CPUs and 1 GPU, generate 0.5 CPUs and 1 GPU\), and there is 1 node "
            r"\(8 CPUs and 1 GPU\); ask for less with --resource, or add a node$",
        ),
        ([DECODE, DECODE], [Node(0.5), Node(1)], r"there are 2 nodes \(0.5 CPUs, 1 CPU\)"),
        ([DECODE] * 20, [Node(1)] * 19, r"\(1 CPU, .* and 11 more\)"),
    ],
)
def test_what_does_not_fit_at_once_is_refused_with_the_numbers(
    wants: list[Want], nodes: list[Node], said: str, may_grow: bool
) -> None:
    with pytest.raises(ConfigError, match=f"^the plan does not fit: .*{said}"):
        refuse_unfit(wants, nodes, may_grow=may_grow)


def test_what_is_too_large_for_every_node_waits_where_a_larger_one_may_come() -> None:
    refuse_unfit([DECODE, LARGE], [Node(8, 1)], may_grow=True)
    with pytest.raises(ConfigError, match="encode 64 CPUs and 1 GPU"):
        refuse_unfit([DECODE, LARGE], [Node(8, 1)], may_grow=False)


@pytest.mark.parametrize(
    "nodes", [[Node(1)], [Node(2)], [Node(1, 1)], [Node(64, 8)] * 3, [Node(0), Node(4, 1)]]
)
def test_what_is_chosen_for_nodes_fits_them(nodes: list[Node]) -> None:
    refuse_unfit(wants_of(choose_resources(nodes)), nodes, may_grow=False)


def test_equal_shares_leave_no_worker_out() -> None:
    for parts, each in itertools.product(range(1, 200), (1, 2, 3)):
        whole = Resources(each * parts, 1.0, each * parts, 0.25, 0.6, each * parts, 0.25, 0.4)
        part = share_of(whole, 1.0 / parts)
        assert (part.decode_workers, part.encode_workers, part.generate_workers) == (each, each, each), parts


@pytest.mark.parametrize(("share", "gpus"), [(1.0, 8), (0.5, 4), (0.3, 2), (0.01, 1)])
def test_a_share_of_a_cluster_has_that_share_of_the_workers(share: float, gpus: int) -> None:
    whole = choose_resources([Node(64, 4)] * 2)
    part = share_of(whole, share)
    assert (part.encode_workers, part.generate_workers) == (gpus, gpus)
    assert part.decode_workers == max(1, int(share * whole.decode_workers))
    assert (part.encode_gpus, part.decode_cpus) == (whole.encode_gpus, whole.decode_cpus)
