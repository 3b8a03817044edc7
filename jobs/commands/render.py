"""``malmm render``: print a cluster manifest for a job file."""

from __future__ import annotations

import argparse

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.run_job import add_file

__all__ = ["add_parser", "run"]

_TARGETS = ("kuberay", "cronjob", "slurm")


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "render",
        run,
        help="print a job file as a manifest for Kubernetes or Slurm",
        description="Print what runs a job file on a cluster: a KubeRay RayJob, a Kubernetes CronJob that makes one at "
        "each time of the schedule, or a Slurm batch script. The file's `cluster:` says how large. Variables marked in "
        "the file stay as they are and get their values there, from cluster.secrets or cluster.secrets_file.",
        epilog="examples:\n"
        "  malmm render job.yaml --target kuberay | kubectl create -f -\n"
        "  malmm render job.yaml --target cronjob | kubectl apply -f -\n"
        "  malmm render job.yaml --target slurm | sbatch\n\n"
        "exit codes: 0 printed, 2 wrong usage or a job file with faults",
    )
    add_file(parser)
    parser.add_argument("--target", required=True, choices=_TARGETS, help="what to print")


def run(arguments: argparse.Namespace) -> int:
    """Print it."""
    from malmm.jobs.clusters.kuberay import cronjob, rayjob, to_yaml
    from malmm.jobs.clusters.placeholders import load_unexpanded
    from malmm.jobs.clusters.slurm import batch_script

    loaded = load_unexpanded(arguments.job, sets=arguments.set)
    sets = tuple(arguments.set)
    if arguments.target == "slurm":
        print(batch_script(loaded, sets), end="")
    else:
        made = (rayjob if arguments.target == "kuberay" else cronjob)(loaded, sets)
        print(to_yaml(made), end="")
    return 0
