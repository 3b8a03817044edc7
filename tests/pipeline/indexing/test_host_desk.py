"""The desk gives each host a few batches at a time, and the one with the fewest gets the next."""

from __future__ import annotations

from dataclasses import replace

import pytest

from malmm.pipeline.cluster.resources import Node, Resources, choose_resources
from malmm.pipeline.indexing import host_desk
from malmm.pipeline.indexing.host_desk import BATCHES_A_HOST, HostDesk
from malmm.pipeline.indexing.model_hosts import HostGroup, groups_of


def desk(*hosts: str, group: str = "models") -> HostDesk:
    made = HostDesk()
    for host in hosts:
        made.add(host, group, host.upper())
    return made


def test_batches_are_spread_and_beyond_a_few_each_they_wait() -> None:
    both = desk("a", "b")
    taken = [both.take("models", f"holder-{number}") for number in range(2 * BATCHES_A_HOST + 1)]
    assert [each for each in taken[:-1] if each] == [("a", "A"), ("b", "B")] * BATCHES_A_HOST
    assert taken[-1] is None
    both.give_back("b", "holder-1")
    assert both.take("models", "another") == ("b", "B")


def test_a_host_that_comes_later_gets_what_waits() -> None:
    one = desk("a")
    for number in range(BATCHES_A_HOST):
        one.take("models", f"holder-{number}")
    assert one.take("models", "waiting") is None
    one.add("b", "models", "B")
    assert one.take("models", "waiting") == ("b", "B")


def test_a_host_that_is_gone_gets_no_more() -> None:
    both = desk("a", "b")
    both.take("models", "holder")
    both.remove("a")
    both.remove("a")
    both.give_back("a", "holder")
    assert both.take("models", "holder") == ("b", "B")


def test_groups_are_apart() -> None:
    one = desk("a", group="encode")
    assert one.take("generate", "holder") is None


def test_who_asks_twice_holds_one_place() -> None:
    """As when an answer is lost on its way."""
    one = desk("a")
    for _ in range(5 * BATCHES_A_HOST):
        assert one.take("models", "holder") == ("a", "A")
    assert one.take("models", "other") == ("a", "A")


def test_a_place_that_is_never_given_back_is_not_lost_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    one = desk("a")
    for number in range(BATCHES_A_HOST):
        one.take("models", f"dead-{number}")
    assert one.take("models", "holder") is None
    monkeypatch.setattr(host_desk, "_FORGOTTEN_AFTER_S", 0.0)
    assert one.take("models", "holder") == ("a", "A")


def test_who_wants_a_host_alone_gets_it_once_its_batches_are_done() -> None:
    one = desk("a")
    one.take("models", "first")
    assert one.take("models", "second", alone=True) is None
    # No more batches meanwhile, else the turn would never come.
    assert one.take("models", "third") is None
    one.give_back("a", "first")
    assert one.take("models", "third", alone=True) is None
    assert one.take("models", "second", alone=True) == ("a", "A")
    assert one.take("models", "third") is None
    one.give_back("a", "second")
    assert one.take("models", "third") == ("a", "A")


def test_others_go_to_hosts_that_nobody_wants_alone() -> None:
    both = desk("a", "b")
    assert both.take("models", "first", alone=True) == ("a", "A")
    assert [both.take("models", f"holder-{number}") for number in range(BATCHES_A_HOST)] == [("b", "B")] * 3
    assert both.take("models", "more") is None
    both.remove("a")
    both.add("a", "models", "A")
    assert both.take("models", "more") == ("a", "A")


@pytest.mark.parametrize(
    ("limit", "busy"), [("_GONE_AFTER_S", True), ("_FORGOTTEN_AFTER_S", False)], ids=["waiting", "having"]
)
def test_who_dies_while_it_wants_a_host_alone_does_not_keep_it(
    limit: str, busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = desk("a")
    if busy:
        one.take("models", "first")
    one.take("models", "dead", alone=True)
    assert one.take("models", "other") is None
    monkeypatch.setattr(host_desk, "_GONE_AFTER_S", 0.0)
    monkeypatch.setattr(host_desk, limit, 0.0)
    assert one.take("models", "other") == ("a", "A")


def test_tasks_that_died_with_their_node_give_their_places_back() -> None:
    both = desk("a", "b")
    for number in range(2 * BATCHES_A_HOST):
        both.take("models", f"{'lost' if number % 3 else 'there'}/{number}")
    assert both.take("models", "there/new", alone=True) is None
    assert both.take("models", "lost/new", alone=True) is None
    both.keep_nodes(frozenset({"there"}))
    # One of the two that are there has no host to itself yet, but the one that is gone reserves none any more.
    assert both.take("models", "there/another") is not None
    for number in range(0, 2 * BATCHES_A_HOST, 3):
        for key in "ab":
            both.give_back(key, f"there/{number}")
    assert both.take("models", "there/new", alone=True) is not None


GPUS = choose_resources([Node(8, 2)])


@pytest.mark.parametrize(
    ("resources", "groups"),
    [
        (GPUS, [("models", 2, 1.0)]),
        (choose_resources([Node(2), Node(2)]), [("models", 2, 0.0)]),
        (
            replace(GPUS, encode_gpus=1, generate_gpus=1, encode_workers=1, generate_workers=1),
            [("encode", 1, 1.0), ("generate", 1, 1.0)],
        ),
    ],
)  # fmt: skip
def test_models_share_a_host_unless_each_has_whole_gpus(
    resources: Resources, groups: list[tuple[str, int, float]]
) -> None:
    found: tuple[HostGroup, ...] = groups_of(resources)
    assert [(group.name, group.most, group.gpus) for group in found] == groups
    names = [name for group in found for name in ("encode", "generate")[group.steps]]
    assert names == ["encode", "generate"]
