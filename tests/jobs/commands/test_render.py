"""Manifests, held against the published schemas of Kubernetes and KubeRay, and scripts against bash."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from malmm.jobs.cli import main

KUBERNETES = "1.34"
RAYJOB = json.loads((Path(__file__).parents[2] / "data" / "kuberay-rayjob.schema.json").read_text())
SECRET = "s3cr3t-value"  # noqa: S105 - what must not be printed
JOB = """\
name: nightly
archive: s3://${env:BUCKET}/archive
steps:
  - index: {sources: ["s3://${env:BUCKET}/videos"], prompts: {q: "Who is 'it'?"}}
  - optimize:
schedule: {cron: "0 2 * * *", timezone: Europe/Berlin, retries: 3}
cluster:
  image: registry.example.com/malmm-ray:1
  namespace: video
  workers: 4
  gpus: 1
  time_limit_s: 7200
  secrets_file: /etc/malmm/secrets
  secrets:
    - {env: BUCKET, secret: store, key: bucket}
    - {env: AWS_SECRET_ACCESS_KEY, secret: store, key: secret-key}
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUCKET", SECRET)
    path = tmp_path / "nightly.yaml"
    path.write_text(JOB)
    return path


def rendered(capsys: pytest.CaptureFixture[str], job: Path, target: str, *options: str) -> str:
    assert main(["render", str(job), "--target", target, *options]) == 0
    text = capsys.readouterr().out
    assert SECRET not in text
    return text


def check_rayjob(document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(RAYJOB).validate(document)
    groups = document["spec"]["rayClusterSpec"]
    for group in (groups["headGroupSpec"], *groups["workerGroupSpecs"]):
        template = {"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]}
        kubernetes_validate.validate(template, KUBERNETES, strict=True)


def test_a_rayjob_meets_the_published_schema(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, made = yaml.safe_load_all(rendered(capsys, job, "kuberay", "--set", "steps.0.index.fps=2"))
    kubernetes_validate.validate(config, KUBERNETES, strict=True)
    assert config["data"]["job.yaml"] == JOB
    check_rayjob(made)
    spec = made["spec"]
    assert spec["entrypoint"].endswith("run /etc/malmm/job.yaml --log-format json --set steps.0.index.fps=2")
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (3, 7200)
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert group["replicas"] == 4
    assert container["image"] == "registry.example.com/malmm-ray:1"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["env"][1] == {
        "name": "AWS_SECRET_ACCESS_KEY",
        "valueFrom": {"secretKeyRef": {"name": "store", "key": "secret-key"}},
    }


def test_pods_have_the_file_s_further_fields(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    further = """\
  pod:
    serviceAccountName: reads-films
    nodeSelector: {team: video}
    tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]
    volumes: [{name: models, persistentVolumeClaim: {claimName: models}}]
  container:
    env: [{name: HF_HOME, value: /models}]
    volumeMounts: [{name: models, mountPath: /models}]
"""
    job.write_text(JOB + further)
    _, made = yaml.safe_load_all(rendered(capsys, job, "kuberay"))
    check_rayjob(made)
    groups = made["spec"]["rayClusterSpec"]
    for group in (groups["headGroupSpec"], *groups["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert (pod["serviceAccountName"], pod["nodeSelector"]) == ("reads-films", {"team": "video"})
        assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
        assert [each["name"] for each in pod["volumes"]] == ["job", "models"]
        (container,) = pod["containers"]
        assert [each["name"] for each in container["env"]] == ["BUCKET", "AWS_SECRET_ACCESS_KEY", "HF_HOME"]
        assert [each["mountPath"] for each in container["volumeMounts"]] == ["/etc/malmm", "/models"]


@pytest.mark.parametrize(
    ("fields", "taken"),
    [
        ("pod: {containers: []}", "containers"),
        ("container: {image: other}", "image"),
        ("container: {name: other}", "name"),
        ("container: {resources: {}}", "resources"),
    ],
)
def test_fields_of_pods_that_other_keys_fill_are_refused(
    job: Path, capsys: pytest.CaptureFixture[str], fields: str, taken: str
) -> None:
    job.write_text(f"{JOB}  {fields}\n")
    assert main(["render", str(job), "--target", "kuberay"]) == 2
    assert f"{taken} follows from the other keys of `cluster:`" in capsys.readouterr().err


def test_the_schema_would_notice(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, made = yaml.safe_load_all(rendered(capsys, job, "kuberay"))
    for break_it in (
        lambda spec: spec.pop("entrypoint"),
        lambda spec: spec.update(shutDownAfterJobFinishes=True),
        lambda spec: spec["rayClusterSpec"]["workerGroupSpecs"][0].update(replicas="4"),
        lambda spec: spec["rayClusterSpec"]["headGroupSpec"].pop("rayStartParams"),
        lambda spec: spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
    ):
        broken = json.loads(json.dumps(made))
        break_it(broken["spec"])
        with pytest.raises(jsonschema.ValidationError):
            check_rayjob(broken)
    broken = json.loads(json.dumps(made))
    broken["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["images"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        check_rayjob(broken)


def test_a_cronjob_makes_the_same_rayjob_in_the_schedule_s_zone(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = list(yaml.safe_load_all(rendered(capsys, job, "cronjob")))
    assert [each["kind"] for each in documents] == [
        "ConfigMap", "ServiceAccount", "Role", "RoleBinding", "CronJob"
    ]  # fmt: skip
    for each in documents:
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
        assert each["metadata"]["namespace"] == "video"
    spec = documents[-1]["spec"]
    assert (spec["schedule"], spec["timeZone"], spec["concurrencyPolicy"]) == (
        "0 2 * * *",
        "Europe/Berlin",
        "Forbid",
    )
    made = json.loads(documents[0]["data"]["rayjob.json"])
    check_rayjob(made)
    assert made["metadata"]["generateName"] == "malmm-nightly-"
    _, alone = yaml.safe_load_all(rendered(capsys, job, "kuberay"))
    assert made["spec"] == alone["spec"]
    (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    checked = subprocess.run(["sh", "-n", "-c", container["command"][2]], capture_output=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize(
    ("states", "created"),
    [
        ("", True),
        ("Complete\n", True),
        ("Complete\nFailed\n", True),
        ("Running\n", False),
        ("Failed\nWaiting\n", False),
    ],
)
def test_the_cronjob_s_pod_waits_for_a_run_that_goes_on(
    job: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, states: str, created: bool
) -> None:
    (tmp_path / "states").write_text(states)
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        f'#!/bin/sh\n[ "$1" = get ] && exec cat {tmp_path}/states\necho "$@" > {tmp_path}/created\n'
    )
    kubectl.chmod(0o755)
    documents = list(yaml.safe_load_all(rendered(capsys, job, "cronjob")))
    (container,) = documents[-1]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(container["command"], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "created").exists() == created


def test_a_slurm_script_is_bash_and_has_the_job_in_it(
    job: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    job.write_text(JOB + "# MALMM_JOB\n#\nMALMM_JOB: x\n".replace("MALMM_JOB: x\n", ""))
    script = rendered(capsys, job, "slurm")
    checked = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "#SBATCH --nodes=4\n" in script
    assert "#SBATCH --gpus-per-node=1\n" in script
    assert "#SBATCH --time=120\n" in script
    assert "source /etc/malmm/secrets" in script
    begin = script.index("folder=$(mktemp")
    head = script[begin : script.index("read -r head")]
    written = subprocess.run(
        ["bash", "-c", f'{head}\ncat "$folder/job.yaml"'], capture_output=True, text=True, check=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert written.stdout.rstrip() == job.read_text().rstrip()


def test_a_slurm_script_runs_ray_and_the_job_and_exits_as_it_does(
    job: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """With stand-ins for Slurm's own programs, which only pass on what they are given."""
    (tmp_path / "secrets").write_text("BUCKET=b\n")
    job.write_text(JOB.replace("/etc/malmm/secrets", str(tmp_path / "secrets")))
    script = rendered(capsys, job, "slurm")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name, body in {
        "scontrol": "echo one; echo two",
        "srun": f'echo "srun $*" >> {tmp_path}/log',
        "ray": "exit 0",
        "sleep": "exit 0",
        "python": f'echo "python $* $BUCKET $RAY_ADDRESS" >> {tmp_path}/log; exit 3',
    }.items():
        (bin_folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (bin_folder / name).chmod(0o755)
    given = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "[one-two]", "SLURM_JOB_NUM_NODES": "2"}
    environment = os.environ | given | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        ["bash"], input=script, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 3, done.stderr
    log = (tmp_path / "log").read_text()
    assert "--head --node-ip-address=one --port=20007" in log
    assert "--exclude=one ray start --address=one:20007" in log
    assert "run --set cluster.nodes=2 " in log
    assert "job.yaml --log-format json b one:20007" in log


def test_what_could_not_run_there_is_refused(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = job.read_text()
    for wrong, target, said in (
        (text.replace("    - {env: BUCKET, secret: store, key: bucket}\n", ""), "kuberay", "variable BUCKET"),
        (text.replace("  secrets_file: /etc/malmm/secrets\n", ""), "slurm", "variable BUCKET"),
        (text.replace('"0 2 * * *"', '"0 0 2 * * *"'), "cronjob", "no seconds"),
        (text.replace("schedule:", "# schedule:"), "cronjob", "has no `schedule:`"),
        (text.replace("${env:BUCKET}", "/disk").replace("s3://", ""), "kuberay", "goes with the pod"),
        (text.replace("workers: 4", "workers: 0"), "kuberay", "cluster.workers is 0"),
    ):
        job.write_text(wrong)
        assert main(["render", str(job), "--target", target]) == 2
        assert said in capsys.readouterr().err


def test_a_job_with_partitions_has_a_cluster_for_each(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("--set", "partitions=12", "--set", f"name={'n' * 32}")
    config, *made = yaml.safe_load_all(rendered(capsys, job, "kuberay", *names))
    assert config["metadata"]["name"] == f"malmm-{'n' * 32}"
    for index, each in enumerate(made):
        check_rayjob(each)
        assert each["spec"]["entrypoint"].endswith(f"--partition {index}")
        # KubeRay's longest is 47, and a CronJob puts a dash and five letters behind it.
        assert len(each["metadata"]["name"]) <= 41
    assert len({each["metadata"]["name"] for each in made}) == 12
    documents = list(yaml.safe_load_all(rendered(capsys, job, "cronjob", "--set", "partitions=2")))
    created = json.loads(documents[0]["data"]["rayjob.json"])
    assert (created["kind"], len(created["items"])) == ("List", 2)
    for each in created["items"]:
        check_rayjob(each)
        assert "name" not in each["metadata"]
    script = tmp_path / "job.sh"
    script.write_text(rendered(capsys, job, "slurm", "--set", "partitions=2"))
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert "#SBATCH --array=0-1\n" in script.read_text()
    assert ' --partition "$SLURM_ARRAY_TASK_ID" &\n' in script.read_text()
    assert "ARRAY" not in rendered(capsys, job, "slurm")
