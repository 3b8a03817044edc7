"""``malmm submit``: submit a job file to a Ray cluster."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.options import add_log_format
from malmm.jobs.commands.run_job import add_file
from malmm.jobs.terminal.text import printable
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.partition import Partition, all_partitions

if TYPE_CHECKING:
    from malmm.jobs.files.job import Job

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "submit",
        run,
        help="run a job file on a Ray cluster",
        description="Send a job file and this package to a Ray cluster's job server, run it there, and follow its "
        "log to the end. The cluster's nodes need this package's dependencies, as an image made with "
        "the Dockerfile has, and paths in the file are theirs. Variables marked in the file are "
        "read there; --env hands one over. A job with partitions becomes a Ray job for each of them, which run at the "
        "same time.",
        epilog="examples:\n"
        "  malmm submit job.yaml --address http://127.0.0.1:8265\n"
        "  malmm submit job.yaml --dry-run\n"
        "  malmm submit job.yaml --env AWS_PROFILE --set archive=s3://bucket/archive --no-wait\n\n"
        "exit codes: those of `malmm run`, or 1 when the cluster cannot be reached",
    )
    add_file(parser)
    parser.add_argument(
        "--address", metavar="URL", help="of Ray's job server (default: the file's cluster.address)"
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="an environment variable for the job, which anyone who sees the cluster's jobs can read; may be repeated",
    )
    parser.add_argument(
        "--wheel", metavar="FILE", help="a wheel of malmm-ray (default: made of what is installed)"
    )
    parser.add_argument(
        "--partition",
        type=int,
        metavar="K",
        help="of a job with `partitions: N`, submit partition K alone (default: all, each with an Nth of the share)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say there what would be done, with the nodes' rights; change nothing",
    )
    parser.add_argument("--no-wait", action="store_true", help="do not follow the log")
    parser.add_argument(
        "--json", action="store_true", help="have the job print its outcome as one JSON object"
    )
    add_log_format(parser)


def run(arguments: argparse.Namespace) -> int:
    """Submit the job and exit with its exit code."""
    from malmm.jobs.clusters.placeholders import load_unexpanded
    from malmm.jobs.clusters.submitting import Submission, submit

    loaded = load_unexpanded(arguments.job, sets=arguments.set)
    address = arguments.address or loaded.job.cluster.address
    if not address:
        raise ConfigError("no cluster: give --address http://HOST:8265, or cluster.address in the job file")
    wheel = Path(arguments.wheel) if arguments.wheel else None
    if wheel is not None and not wheel.is_file():
        raise ConfigError(f"--wheel {wheel}: there is no such file")
    options = [option for each in arguments.set for option in ("--set", each)]
    options += ["--dry-run"] if arguments.dry_run else []
    options += ["--json"] if arguments.json else []
    options += ["--log-format", arguments.log_format]

    def say(text: str) -> None:
        for line in text.splitlines():
            print(printable(line.expandtabs()), flush=True)

    _, code = submit(
        Path(arguments.job),
        address,
        jobs=[
            Submission([*options, *each], label) for label, each in _each_job(loaded.job, arguments.partition)
        ],
        variables=dict(_variable(each) for each in arguments.env),
        wheel=wheel,
        wait=not arguments.no_wait,
        say=say,
    )
    return code


def _each_job(job: Job, only: int | None) -> list[tuple[str, list[str]]]:
    """The label and the options of each Ray job: one, or one for each partition, with its part of the job's share."""
    if job.partitions is None:
        if only is not None:
            raise ConfigError(
                f"--partition {only}: the job has no partitions; write `partitions: N` in its file"
            )
        return [("", [])]
    chosen = all_partitions(job.partitions) if only is None else [Partition(job.partitions, only)]
    share = ["--set", f"cluster.share={job.cluster.share / job.partitions!r}"]
    return [(each.name, ["--partition", str(each.index), *share]) for each in chosen]


def _variable(option: str) -> tuple[str, str]:
    name, separator, value = option.partition("=")
    if separator and name:
        return name, value
    if name not in os.environ:
        raise ConfigError(f"--env {option}: it is not set here; write --env {name}=VALUE")
    return name, os.environ[name]
