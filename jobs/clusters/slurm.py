"""A Slurm batch script that starts a Ray cluster on its nodes and runs a job file on it."""

from __future__ import annotations

import re
import shlex

from malmm.jobs.files.loading import LoadedJob
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["batch_script"]


def batch_script(loaded: LoadedJob, sets: tuple[str, ...] = ()) -> str:
    """Return the script, with the job file inside. The script reads variables from ``cluster.secrets_file``.

    A job with partitions is an array of jobs, one for each. Raises ConfigError if the job uses variables but names no
    ``secrets_file``.
    """
    cluster = loaded.job.cluster
    if loaded.variables_needed and not cluster.secrets_file:
        raise ConfigError(
            f"{loaded.path} asks for the variable {loaded.variables_needed[0]}: name with cluster.secrets_file a file "
            "on the cluster sets it"
        )
    end = "MALMM_JOB"
    while re.search(rf"^{end}$", loaded.text, re.MULTILINE):
        end += "_"
    gigabytes = int(cluster.memory[:-2]) * {"M": 1 / 1024, "G": 1, "T": 1024}[cluster.memory[-2]]
    head = [
        "#!/bin/bash",
        f"#SBATCH --job-name=malmm-{loaded.name}",
        f"#SBATCH --nodes={cluster.workers}",
        "#SBATCH --ntasks-per-node=1",
        f"#SBATCH --cpus-per-task={cluster.cpus}",
        f"#SBATCH --mem={max(1, round(gigabytes * 1024))}M",
        *([f"#SBATCH --gpus-per-node={cluster.gpus}"] if cluster.gpus else []),
        # A cluster of its own for each partition.
        *([f"#SBATCH --array=0-{loaded.job.partitions - 1}"] if loaded.job.partitions else []),
        *([f"#SBATCH --time={max(1, -(-cluster.time_limit_s // 60))}"] if cluster.time_limit_s else []),
        # The batch step gets it a minute before the end, and stores what it has.
        "#SBATCH --signal=B:TERM@60",
        "set -euo pipefail",
    ]
    if cluster.secrets_file:
        head += ["set -a", f"source {shlex.quote(cluster.secrets_file)}", "set +a"]
    options = [option for each in sets for option in ("--set", each)]
    command = shlex.join(["python", "-m", "malmm.jobs.cli", "run"])
    gpus = f" --num-gpus={cluster.gpus}"
    partition = ' --partition "$SLURM_ARRAY_TASK_ID"' if loaded.job.partitions else ""
    return "\n".join(
        [
            *head,
            "",
            'folder=$(mktemp -d "${TMPDIR:-/tmp}/malmm-XXXXXX")',
            f"cat > \"$folder/job.yaml\" <<'{end}'",
            loaded.text.rstrip("\n"),
            end,
            "",
            # Not a pipe into `head`: with pipefail, what it leaves unread would end the script.
            'read -r head < <(scontrol show hostnames "$SLURM_JOB_NODELIST")',
            "port=$((20000 + SLURM_JOB_ID % 20000))",
            'srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" \\',
            '    ray start --head --node-ip-address="$head" --port="$port" \\',
            f"    --num-cpus={cluster.cpus}{gpus} --block &",
            "others=$((SLURM_JOB_NUM_NODES - 1))",
            'if [ "$others" -gt 0 ]; then',
            "    sleep 10",
            '    srun --nodes="$others" --ntasks="$others" --overlap --exclude="$head" \\',
            f'        ray start --address="$head:$port" --num-cpus={cluster.cpus}{gpus} --block &',
            "fi",
            'until ray health-check --address "$head:$port" 2>/dev/null; do sleep 1; done',
            "",
            'export RAY_ADDRESS="$head:$port"',
            "code=0",
            # A run that began before all nodes have joined would plan for those that have.
            f'{command} --set "cluster.nodes=$SLURM_JOB_NUM_NODES" "$folder/job.yaml" \\',
            f"    {shlex.join(['--log-format', 'json', *options])}{partition} &",
            "job=$!",
            "trap 'kill -TERM \"$job\"' TERM",
            'wait "$job" || code=$?',
            "# Told to stop, the job is given the time to store what it has.",
            'if kill -0 "$job" 2>/dev/null; then code=0; wait "$job" || code=$?; fi',
            'rm -r "$folder"',
            'exit "$code"',
            "",
        ]
    )
