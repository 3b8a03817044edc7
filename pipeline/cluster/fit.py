"""Refuse a plan that cannot run on the machines that are there, before anything starts."""

from __future__ import annotations

from collections.abc import Sequence

from malmm.pipeline.cluster.placement import Want, amount, counted
from malmm.pipeline.cluster.resources import Node
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["refuse_unfit"]

_ROUNDING = 1e-9


def refuse_unfit(wants: Sequence[Want], nodes: Sequence[Node], *, may_grow: bool) -> None:
    """Raise ConfigError if the nodes have no room for one worker of each stage at once.

    If nodes ``may_grow`` in number, a worker that is too large for each of them waits for a larger one.
    """
    # Their memory differs by a few bytes, and does not matter here.
    alike = [Node(node.cpus, node.gpus) for node in nodes]
    if _all_fit(list(wants), alike):
        return
    if may_grow and not all(_all_fit([want], alike) for want in wants):
        return
    asked = ", ".join(f"{name} {amount(cpus, gpus or None)}" for name, cpus, gpus in wants)
    has_gpus = any(node.gpus for node in nodes)
    there = ", ".join(amount(node.cpus, node.gpus if has_gpus else None) for node in nodes[:8])
    more = f" and {len(nodes) - 8} more" if len(nodes) > 8 else ""
    raise ConfigError(
        f"the plan does not fit: a worker of each stage needs room at once ({asked}), and there "
        f"{'is' if len(nodes) == 1 else 'are'} {counted(len(nodes), 'node')} ({there}{more}); ask for less with "
        "--resource, or add a node"
    )


def _all_fit(wants: list[Want], nodes: list[Node]) -> bool:
    """Whether there is a place for each, whichever way they are placed."""
    if not wants:
        return True
    (_, cpus, gpus), *rest = wants
    # Nodes that are alike give the same answer.
    for node in set(nodes):
        if node.cpus + _ROUNDING >= cpus and node.gpus + _ROUNDING >= gpus:
            left = list(nodes)
            left[left.index(node)] = Node(node.cpus - cpus, node.gpus - gpus)
            if _all_fit(rest, left):
                return True
    return False
