"""The index of retrieval vectors: parts that cover some of the table's files each, so that search holds as it grows.

An index that is only appended to keeps the partitions of its first rows. Here new rows become a part of their own, with
partitions that fit them. Parts of similar size are rebuilt as one part, as in a log-structured merge tree (O'Neil et
al., 1996, "The Log-Structured Merge-Tree"). So there are few parts, and each is more than ``GROWTH`` times as large as
all smaller ones together. How often a row is indexed again grows with the logarithm of the table's size.

Lance calls the parts segments of an index, and searches them one by one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lance
import pyarrow as pa
from lance.dataset import Index
from lance.indices import IndicesBuilder

__all__ = [
    "GROWTH",
    "KIND",
    "MANY_SLOTS",
    "PROBES",
    "PROBES_FOR_A_SHARE",
    "VECTORS_INDEX",
    "BuildPieces",
    "Part",
    "Plan",
    "build_piece",
    "change_parts",
    "partitions_for",
    "partitions_of",
    "parts_of",
    "plan",
    "probes_for_a_share_of",
    "probes_of",
]

# Lance's statistics come without megabytes of centroids then, and without a warning that they soon will.
os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")

VECTORS_INDEX, COLUMN = "vectors_idx", "vectors"
KIND = "IVF_SQ"
"""A byte a number: docs/retrieval.md compares the kinds."""
GROWTH = 4
"""A part that has fewer than this many times the new rows is rebuilt together with them."""
PROBES = 160
"""How many partitions of each part a search looks at, at least."""
PROBES_FOR_A_SHARE = 112
"""The same where several archives are searched as one: the nearest slots of all are among the very nearest of each."""
MANY_SLOTS = 1_000_000
"""A part with at least this many rows is built in pieces, where there are workers for it."""

# Fewer rows than this, or than this share of the table, are compared one by one in a few milliseconds.
_FEW_ROWS, _FEW_SHARE = 256, 0.01
_MOST_PARTITIONS = 4096
# Of a part with more than twice ``PROBES`` partitions this share is looked at. A fifth found 0.83 of the hundred
# nearest slots, a half 0.97.
_LOOKED_AT_SHARE = 0.5
# The same of each of several archives. Of ten 0.45 found 0.96 of the hundred nearest of all, and 0.4 fewer than 0.95.
_LOOKED_AT_FOR_A_SHARE = 0.45
_VECTORS_A_PARTITION = 4096
# K-means over 32 vectors a partition, in 10 rounds: more cost time and changed no recall.
_SAMPLE, _ROUNDS = 32, 10
_LOOKED_AT = 32


@dataclass(frozen=True)
class Part:
    """A part of the index: its UUID in Lance, the fragments that it covers, and how many rows these have now."""

    uuid: str
    fragments: frozenset[int]
    rows: int


@dataclass(frozen=True)
class Plan:
    """A part to be built over ``fragments``, which have ``rows`` rows, in the place of the parts ``replaced``."""

    fragments: tuple[int, ...]
    rows: int
    replaced: tuple[str, ...]


BuildPieces = Callable[[str, int, Sequence[Sequence[int]], pa.Array], Iterable[Index]]
"""Builds a piece of a part over each group of fragments, in this process or another. Arguments: the archive's address,
the version of its table, the groups, and the centroids of the whole part."""


def plan(
    parts: Sequence[Part],
    rows: Mapping[int, int],
    *,
    exact_rows: int,
    is_right_kind: bool = True,
    at_once: bool = False,
) -> Plan | None:
    """What to build next so that search holds; None where nothing is to be done.

    ``rows`` are the rows of each fragment of the table. A table of fewer than ``exact_rows`` gets no index. ``at_once``
    does not wait until there are enough new rows to be worth it. An index that is not of the right kind is replaced.
    """
    total = sum(rows.values())
    if not parts and total < exact_rows:
        return None
    if not is_right_kind:
        return Plan(tuple(sorted(rows)), total, tuple(part.uuid for part in parts))
    fragments = set(rows).difference(*(part.fragments for part in parts))
    new = sum(rows[fragment] for fragment in fragments)
    if new == 0 or not (at_once or not parts or new >= max(_FEW_ROWS, _FEW_SHARE * total)):
        return None
    replaced = []
    for part in sorted(parts, key=lambda part: part.rows):
        if part.rows >= GROWTH * new:
            break
        replaced.append(part.uuid)
        fragments |= part.fragments & rows.keys()
        new += part.rows
    return Plan(tuple(sorted(fragments)), new, tuple(replaced))


def partitions_for(vectors: int) -> int:
    """Into how many partitions a part of so many vectors is divided.

    Looking at a vector costs 25 ns, and at a partition as much as at a thousand vectors. So of up to 655,000 vectors
    all partitions are looked at. Beyond that the share falls, to a half at two and a half million (``probes_of``).
    """
    wanted = min(vectors / _VECTORS_A_PARTITION, max(PROBES, math.sqrt(vectors) / 5))
    return max(1, min(_MOST_PARTITIONS, round(wanted)))


def probes_of(dataset: lance.LanceDataset) -> int | None:
    """How many partitions of each part of a table's index a search looks at; None where there is no index."""
    return _probes(dataset, PROBES, _LOOKED_AT_SHARE)


def probes_for_a_share_of(dataset: lance.LanceDataset) -> int | None:
    """``probes_of`` where a table is asked for a share of the nearest slots, which are in several archives."""
    return _probes(dataset, PROBES_FOR_A_SHARE, _LOOKED_AT_FOR_A_SHARE)


def _probes(dataset: lance.LanceDataset, least: int, share: float) -> int | None:
    if not any(found.name == VECTORS_INDEX for found in dataset.describe_indices()):
        return None
    return max(least, math.ceil(share * max(partitions_of(dataset))))


def parts_of(dataset: lance.LanceDataset, rows: Mapping[int, int]) -> tuple[list[Part], str | None]:
    """The parts that the index of a table has, and its kind; none and None where there is no index."""
    for found in dataset.describe_indices():
        if found.name == VECTORS_INDEX:
            covered = [(segment.uuid, frozenset(segment.fragment_ids)) for segment in found.segments]
            return [
                Part(uuid, fragments, sum(rows.get(fragment, 0) for fragment in fragments))
                for uuid, fragments in covered
            ], str(found.index_type)
    return [], None


def change_parts(
    archive_uri: str, dataset: lance.LanceDataset, planned: Plan, build_pieces: BuildPieces | None = None
) -> None:
    """Build the part that is planned, and commit it in the place of those that it replaces.

    ``build_pieces`` builds a part of very many rows on workers. Raises what Lance does: call it in ``lance_errors``.
    """
    fragments = list(planned.fragments)
    partitions = partitions_for(planned.rows * _vectors_a_row(dataset, fragments))
    sample = max(2, min(_SAMPLE, planned.rows // partitions))
    centroids = (
        IndicesBuilder(dataset, COLUMN)
        .train_ivf(
            partitions, distance_type="cosine", sample_rate=sample, max_iters=_ROUNDS, fragment_ids=fragments
        )
        .centroids
    )
    groups = _groups(fragments, planned.rows)
    if build_pieces is not None and len(groups) > 1:
        pieces = build_pieces(archive_uri, dataset.version, groups, centroids)
        made = dataset.merge_existing_index_segments(list(pieces))
    else:
        made = build_piece(dataset, fragments, centroids)
    removed = [index for index in _described(dataset) if index.uuid in planned.replaced]
    operation = lance.LanceOperation.CreateIndex([made], removed)
    lance.LanceDataset.commit(dataset, operation, read_version=dataset.version, max_retries=0)


def build_piece(dataset: lance.LanceDataset, fragments: Sequence[int], centroids: pa.Array) -> Index:
    """Index the vectors of some fragments by given centroids; the table does not name the result yet."""
    return dataset.create_index_uncommitted(
        COLUMN,
        KIND,
        name=VECTORS_INDEX,
        metric="cosine",
        num_partitions=len(centroids),
        ivf_centroids=centroids,
        fragment_ids=list(fragments),
        replace=True,
    )


def _groups(fragments: Sequence[int], rows: int) -> list[list[int]]:
    """The fragments of a part in groups of about a quarter of ``MANY_SLOTS``; one group where there are fewer rows."""
    count = 1 if rows < MANY_SLOTS else min(len(fragments), math.ceil(4 * rows / MANY_SLOTS))
    return [list(fragments[place::count]) for place in range(count)]


def _vectors_a_row(dataset: lance.LanceDataset, fragments: list[int]) -> int:
    scanner = dataset.scanner(
        columns=[COLUMN],
        filter=f"{COLUMN} IS NOT NULL",
        limit=_LOOKED_AT,
        fragments=[dataset.get_fragment(fragment) for fragment in fragments],
    )
    lists = scanner.to_table()[COLUMN].combine_chunks()
    return max(1, round(len(lists.flatten()) / max(1, len(lists))))


def _described(dataset: lance.LanceDataset) -> list[Index]:
    """The parts of the index as Lance's own description of them, to be removed by a commit."""
    return [
        Index(
            uuid=segment.uuid,
            name=found.name,
            fields=list(found.fields),
            dataset_version=segment.dataset_version_at_last_update,
            fragment_ids=segment.fragment_ids,
            index_version=segment.index_version,
        )
        for found in dataset.describe_indices()
        if found.name == VECTORS_INDEX
        for segment in found.segments
    ]


def partitions_of(dataset: lance.LanceDataset) -> list[int]:
    """How many partitions each part has."""
    stats: dict[str, Any] = dataset.stats.index_stats(VECTORS_INDEX)
    return [int(part.get("num_partitions", 0)) for part in stats["indices"]]
