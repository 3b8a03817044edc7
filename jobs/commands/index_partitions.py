"""``malmm index --partitions``: the options, one partition's settings, and all partitions one after the other."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from malmm.jobs.commands.options import Taker
from malmm.jobs.execution import performed
from malmm.jobs.partition_turns import Turn, in_turn
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.partition import Partition

__all__ = ["add_partitions", "index_all", "partition_of"]


def add_partitions(parser: Taker) -> None:
    """Add the options of a job that several runs share."""
    parser.add_argument(
        "--partitions",
        type=int,
        metavar="N",
        help="divide the videos among N archives below --archive, which are searched as one: for runs on several "
        "clusters or of more GPUs than one driver can feed. The first run fixes N, the model and the recipe",
    )
    parser.add_argument(
        "--partition",
        type=int,
        metavar="K",
        help="index only partition K, from 0 to N - 1 (default: all, one after the other)",
    )


def partition_of(arguments: argparse.Namespace) -> tuple[str, Partition | None]:
    """The archive that a run writes and its partition, if it has one: the first, where none is named.

    Raises ConfigError for a partition without the number of all, and for numbers that are out of range.
    """
    if arguments.partitions is None:
        if arguments.partition is not None:
            raise ConfigError(f"--partition {arguments.partition}: say of how many, such as --partitions 8")
        return arguments.archive, None
    partition = Partition(arguments.partitions, arguments.partition or 0)
    return partition.below(arguments.archive), partition


def index_all(kind: Any, arguments: argparse.Namespace) -> int:
    """Index all partitions in turn and print each one's summary, or one JSON object at the end."""
    reports: dict[int, dict[str, Any]] = {}

    def perform(index: int) -> Turn:
        own = argparse.Namespace(**vars(arguments) | {"partition": index})
        report = performed(kind, kind.configure(own), own, job="index")
        if not arguments.json:
            print(("\n" if reports else "") + kind.summary(report), flush=True)
        reports[index] = report.to_dict()
        return Turn(report.exit_code, prunes_later=report.videos_kept > 0)

    code = in_turn(arguments.partitions, perform)
    if arguments.json:
        content = {"archive": arguments.archive, "partitions": list(reports.values()), "exit_code": code}
        print(json.dumps(content, indent=2))
    sys.stdout.flush()
    return code
