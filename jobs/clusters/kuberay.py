"""Kubernetes manifests for KubeRay: a RayJob, or a CronJob that creates one.

The job file goes into a ConfigMap as it is written, so variables are expanded in the pods; values of secrets come from
Kubernetes Secrets, by reference.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

import yaml

from malmm.jobs.files.job import Cluster
from malmm.jobs.files.loading import LoadedJob
from malmm.pipeline.archive.location import is_local, resolve
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.partition import all_partitions

__all__ = ["cronjob", "rayjob", "to_yaml"]

RAY_VERSION = "2.60.0"
_MOUNT = "/etc/malmm"
_LABELS = {"app.kubernetes.io/name": "malmm-ray"}


def rayjob(loaded: LoadedJob, sets: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Return a ConfigMap with the job file and the RayJob that runs it on a new cluster. Raises ConfigError.

    A job with partitions has a RayJob, and so a cluster, for each.
    """
    _check(loaded)
    return [_config_map(loaded, {"job.yaml": loaded.text}), *_rayjobs(loaded, sets)]


def cronjob(loaded: LoadedJob, sets: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Return a ConfigMap, a service account that may create RayJobs, and a CronJob that creates one on schedule.

    Raises ConfigError if the job has no schedule, or one with seconds, which Kubernetes does not support.
    """
    _check(loaded)
    schedule = loaded.job.schedule
    if schedule is None:
        raise ConfigError(
            f"{loaded.path} has no `schedule:`, which a CronJob needs: add one, or use --target kuberay"
        )
    if len(schedule.cron.split()) != 5:
        raise ConfigError(f"cron {schedule.cron!r}: Kubernetes has no seconds; write five fields")
    cluster, account = loaded.job.cluster, loaded.job.cluster.service_account
    made = _rayjobs(loaded, sets)
    for each in made:
        # One made by an earlier time may be there still; a name of its own keeps the two apart.
        each["metadata"]["generateName"] = f"{each['metadata'].pop('name')}-"
    created = made[0] if len(made) == 1 else {"apiVersion": "v1", "kind": "List", "items": made}
    names = {"name": account, "namespace": cluster.namespace, "labels": _LABELS}
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": names,
        "rules": [{"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list"]}],
    }
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": names,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": cluster.namespace}],
    }
    # A CronJob knows when its own pod is done, and not when the RayJob is: the pod looks first whether one goes on.
    label = f"malmm-ray/job={loaded.name}"
    script = (
        f"states=$(kubectl get rayjobs --selector {label} "
        "--output jsonpath='{range .items[*]}{.status.jobDeploymentStatus}{\"\\n\"}{end}') || exit 1\n"
        'running=$(printf "%s\\n" "$states" | grep -Evc "^(Complete|Failed)?$")\n'
        '[ "$running" -gt 0 ] && echo "a run goes on: left for the next time" && exit 0\n'
        f"exec kubectl create --filename {_MOUNT}/rayjob.json\n"
    )
    pod = {
        "serviceAccountName": account,
        "restartPolicy": "Never",
        "containers": [
            {
                "name": "create",
                "image": cluster.kubectl_image,
                "command": ["/bin/sh", "-c", script],
                "volumeMounts": [{"name": "job", "mountPath": _MOUNT, "readOnly": True}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
            }
        ],
        "volumes": [{"name": "job", "configMap": {"name": _name(loaded)}}],
    }
    spec = {
        "schedule": schedule.cron,
        "timeZone": schedule.timezone,
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 3600 if schedule.catch_up else 60,
        "successfulJobsHistoryLimit": 1,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"spec": {"backoffLimit": schedule.retries, "template": {"spec": pod}}},
    }
    files = {"job.yaml": loaded.text, "rayjob.json": json.dumps(created, indent=2)}
    return [
        _config_map(loaded, files),
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": names},
        role,
        binding,
        {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": _metadata(loaded), "spec": spec},
    ]


def to_yaml(documents: list[dict[str, Any]]) -> str:
    """The manifests as one YAML stream."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=10**6)


class _Dumper(yaml.SafeDumper):
    """Writes long texts as YAML blocks and repeats values instead of using YAML aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _rayjobs(loaded: LoadedJob, sets: tuple[str, ...]) -> list[dict[str, Any]]:
    if loaded.job.partitions is None:
        return [_rayjob(loaded, sets)]
    made = []
    for each in all_partitions(loaded.job.partitions):
        one = _rayjob(loaded, sets, "--partition", str(each.index))
        mark = f"-p{each.index}"
        # A name of 32 characters is the longest that fits (``Job.name``).
        one["metadata"]["name"] = f"malmm-{loaded.name[: 32 - len(mark)].rstrip('-')}{mark}"
        made.append(one)
    return made


def _rayjob(loaded: LoadedJob, sets: tuple[str, ...], *more: str) -> dict[str, Any]:
    cluster = loaded.job.cluster
    schedule = loaded.job.schedule
    options = [option for each in sets for option in ("--set", each)]
    entry = ["python", "-m", "malmm.jobs.cli", "run", f"{_MOUNT}/job.yaml", "--log-format", "json", *options]
    entry += more
    spec: dict[str, Any] = {
        "entrypoint": shlex.join(entry),
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 3600,
        "backoffLimit": schedule.retries if schedule else 0,
        "rayClusterSpec": {
            "rayVersion": RAY_VERSION,
            "headGroupSpec": {
                # The head only coordinates: its CPUs are not for tasks.
                "rayStartParams": {"num-cpus": "0", "dashboard-host": "0.0.0.0"},  # noqa: S104 - in the pod
                "template": _pod(loaded, "ray-head", {"cpu": "2", "memory": "8Gi"}),
            },
            "workerGroupSpecs": [
                {
                    "groupName": "workers",
                    "replicas": cluster.workers,
                    "minReplicas": cluster.workers,
                    "maxReplicas": cluster.workers,
                    "rayStartParams": {},
                    "template": _pod(loaded, "ray-worker", _resources(cluster)),
                }
            ],
        },
    }
    if cluster.time_limit_s is not None:
        spec["activeDeadlineSeconds"] = cluster.time_limit_s
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": _metadata(loaded), "spec": spec}


def _pod(loaded: LoadedJob, name: str, resources: dict[str, Any]) -> dict[str, Any]:
    secrets = [
        {"name": each.env, "valueFrom": {"secretKeyRef": {"name": each.secret, "key": each.key}}}
        for each in loaded.job.cluster.secrets
    ]
    container = {
        "name": name,
        "image": loaded.job.cluster.image,
        "env": secrets,
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [{"name": "job", "mountPath": _MOUNT, "readOnly": True}],
    }
    cluster = loaded.job.cluster
    spec = {
        "containers": [_with(container, cluster.container)],
        "volumes": [{"name": "job", "configMap": {"name": _name(loaded)}}],
    }
    return {"spec": _with(spec, cluster.pod)}


def _with(made: dict[str, Any], further: dict[str, Any]) -> dict[str, Any]:
    """Fields that were made and further ones; lists that both have are joined."""
    return made | {
        name: [*made.get(name, []), *value] if isinstance(value, list) else value
        for name, value in further.items()
    }


def _resources(cluster: Cluster) -> dict[str, Any]:
    resources = {"cpu": str(cluster.cpus), "memory": cluster.memory}
    return resources | {"nvidia.com/gpu": str(cluster.gpus)} if cluster.gpus else resources


def _name(loaded: LoadedJob) -> str:
    return f"malmm-{loaded.name}"


def _metadata(loaded: LoadedJob) -> dict[str, Any]:
    return {
        "name": _name(loaded),
        "namespace": loaded.job.cluster.namespace,
        "labels": _LABELS | {"malmm-ray/job": loaded.name},
    }


def _config_map(loaded: LoadedJob, files: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(loaded), "data": files}


def _check(loaded: LoadedJob) -> None:
    """Raise ConfigError for a variable without a value, or an archive on the pod's own disk."""
    known = {each.env for each in loaded.job.cluster.secrets}
    missing = [name for name in loaded.variables_needed if name not in known]
    if missing:
        raise ConfigError(
            f"{loaded.path} asks for the variable {missing[0]}, which no pod would have: add it to cluster.secrets, "
            f"or give it a default: ${{env:{missing[0]}:-...}}"
        )
    # With variables, only the pod knows what the address is.
    if not loaded.variables_needed and is_local(resolve(loaded.archive)):
        raise ConfigError(
            f"archive {loaded.archive!r} is a path, and what is on a pod's disk goes with the pod: give an object "
            "store's URI, such as s3://bucket/archive"
        )
