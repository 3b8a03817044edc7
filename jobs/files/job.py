"""The schema of a job file: steps, schedule and cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from malmm.jobs.files.fields import KINDS, step_model
from malmm.pipeline.schema.partition import Partition

__all__ = ["Cluster", "Job", "Schedule", "Secret", "Step", "json_schema"]

_SETTINGS = ConfigDict(extra="forbid", strict=True, frozen=True)


def _with_one_of(*names: str) -> ConfigDict:
    """Return a model configuration that requires exactly one of these keys, also in the JSON schema."""
    return ConfigDict(**_SETTINGS, json_schema_extra={"oneOf": [{"required": [name]} for name in names]})


if TYPE_CHECKING:
    IndexStep = AnnotateStep = TranscribeStep = OptimizeStep = ExportStep = BaseModel
else:
    IndexStep, AnnotateStep, TranscribeStep, OptimizeStep, ExportStep = (step_model(kind) for kind in KINDS)


def _one_of_the_kinds(values: BaseModel, others: tuple[str, ...] = ()) -> None:
    names = (*KINDS, *others)
    given = [name for name in names if getattr(values, name) is not None]
    if len(given) != 1:
        said = f"{' and '.join(given)} together" if given else "nothing to do"
        raise ValueError(f"{said}: write exactly one of {', '.join(names)}")


def _empty_map(value: Any) -> Any:
    # `optimize:` with nothing after it reads as null.
    return {} if value is None else value


def _kind(model: type[BaseModel], said: str) -> Any:
    return Annotated[
        model | None,
        BeforeValidator(_empty_map, json_schema_input_type=model | None),
        Field(None, description=said),
    ]


_Index = _kind(IndexStep, "index videos into the archive")
_Annotate = _kind(AnnotateStep, "put prompts to stored memory")
_Transcribe = _kind(TranscribeStep, "store what is said in indexed videos")
_Optimize = _kind(OptimizeStep, "merge small files and bring indexes up to date")
_Export = _kind(ExportStep, "write annotations to files")


class Step(BaseModel):
    """One step of a job: exactly one kind with its options."""

    model_config = _with_one_of(*KINDS)

    index: _Index = None  # type: ignore[valid-type]
    annotate: _Annotate = None  # type: ignore[valid-type]
    transcribe: _Transcribe = None  # type: ignore[valid-type]
    optimize: _Optimize = None  # type: ignore[valid-type]
    export: _Export = None  # type: ignore[valid-type]

    @model_validator(mode="after")
    def _has_one_kind(self) -> Step:
        _one_of_the_kinds(self)
        return self

    @property
    def kind(self) -> str:
        """The name of the step's kind."""
        return next(name for name in KINDS if getattr(self, name) is not None)


def _without(*names: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Refuse fields of a pod or container that other keys of the job file fill."""

    def checked(fields: dict[str, Any]) -> dict[str, Any]:
        if taken := [name for name in names if name in fields]:
            raise ValueError(f"{taken[0]} follows from the other keys of `cluster:`")
        return fields

    return checked


class Schedule(BaseModel):
    """When `malmm schedule` runs the job."""

    model_config = _SETTINGS

    cron: str = Field(
        description="five fields: minute, hour, day of month, month, day of week; or six, with seconds before them"
    )
    timezone: str = Field("UTC", description="the zone that the fields are read in, such as Europe/Berlin")
    jitter_s: float = Field(0.0, ge=0, le=86400, description="wait for up to so many seconds, at random")
    catch_up: bool = Field(True, description="run once at the start if a time was missed while nothing ran")
    retries: int = Field(2, ge=0, le=100, description="how often a run that failed is tried again")
    backoff_s: float = Field(
        60.0, gt=0, le=86400, description="seconds before the first retry, doubled for each after it"
    )


class Secret(BaseModel):
    """An environment variable filled from a secret of the cluster. The job file never holds its value."""

    model_config = _SETTINGS

    env: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="the variable")
    secret: str = Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", description="the Kubernetes Secret")
    key: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="the key in it")


class Cluster(BaseModel):
    """The cluster for `malmm submit` and `malmm render`, and what a run uses of one.

    Memory uses Kubernetes notation."""

    model_config = _SETTINGS

    address: str | None = Field(None, description="of Ray's job server, for `malmm submit`: http://HOST:8265")
    image: str = Field(
        "malmm-ray:0.2.0", min_length=1, description="the container image, with malmm-ray in it"
    )
    namespace: str = Field("default", pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", description="of Kubernetes")
    workers: int = Field(1, ge=1, le=10_000, description="worker nodes")
    cpus: int = Field(8, ge=1, description="CPU cores a worker")
    gpus: int = Field(0, ge=0, description="GPUs a worker")
    memory: str = Field("32Gi", pattern=r"^[1-9][0-9]*[MGT]i$", description="memory a worker, such as 32Gi")
    share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the cluster's workers that the steps use; others may use the rest",
    )
    nodes: int = Field(0, ge=0, description="wait until the cluster has so many nodes with CPUs for tasks")
    labels: dict[str, str] = Field(
        default_factory=dict, description="use only nodes of the cluster with these Ray labels"
    )
    pod: Annotated[dict[str, Any], AfterValidator(_without("containers"))] = Field(
        default_factory=dict,
        description="further fields of each pod of Ray, by Kubernetes' own names: serviceAccountName, nodeSelector, "
        "tolerations, volumes",
    )
    container: Annotated[dict[str, Any], AfterValidator(_without("name", "image", "resources"))] = Field(
        default_factory=dict,
        description="further fields of the container in each pod of Ray, by Kubernetes' own names: env, volumeMounts",
    )
    time_limit_s: int | None = Field(None, ge=1, description="stop the job after so many seconds")
    service_account: str = Field(
        "malmm-job-creator",
        pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        description="may create RayJobs; of the CronJob",
    )
    kubectl_image: str = Field(
        "registry.k8s.io/kubectl:v1.34.0", min_length=1, description="has kubectl; of the CronJob"
    )
    secrets: list[Secret] = Field(default_factory=list, description="variables from Kubernetes Secrets")
    secrets_file: str | None = Field(
        None, description="a file on the cluster that a Slurm job sources for its variables"
    )


class Job(BaseModel):
    """A job: an archive, its steps, its schedule and its cluster."""

    model_config = _with_one_of(*KINDS, "steps")

    name: str = Field(
        "",
        # With what is put around it, a RayJob's name must not be longer than KubeRay's 47 characters.
        max_length=32,
        pattern=r"^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$",
        description="how the job is called in histories and manifests (default: the file's name)",
    )
    archive: str = Field(
        min_length=1, description="where the archive is or will be: a directory or an s3:// URI"
    )
    partitions: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="divide the videos among so many archives below `archive`, each filled by a run of its own and all "
        "searched as one",
    )
    index: _Index = None  # type: ignore[valid-type]
    annotate: _Annotate = None  # type: ignore[valid-type]
    transcribe: _Transcribe = None  # type: ignore[valid-type]
    optimize: _Optimize = None  # type: ignore[valid-type]
    export: _Export = None  # type: ignore[valid-type]
    steps: list[Step] | None = Field(None, min_length=1, description="several, done in this order")
    schedule: Schedule | None = Field(None, description="when it runs by itself, under `malmm schedule`")
    cluster: Cluster = Field(
        default_factory=lambda: Cluster.model_validate({}),
        description="where `malmm submit` and `malmm render` have it run",
    )

    @model_validator(mode="after")
    def _has_one_kind(self) -> Job:
        _one_of_the_kinds(self, ("steps",))
        if self.partitions is not None and any(kind == "export" for _, kind, _ in self.each_step()):
            raise ValueError(
                f"partitions and a step `export` together: each partition would write the same files; `malmm export "
                f"--archive {self.archive}` exports all of them as one"
            )
        return self

    def archive_of(self, partition: int) -> str:
        """The archive that the steps work on: the job's, or that of a partition, where it has partitions."""
        return (
            self.archive
            if self.partitions is None
            else Partition(self.partitions, partition).below(self.archive)
        )

    def each_step(self) -> list[tuple[tuple[str | int, ...], str, BaseModel]]:
        """Return each step's place in the file, kind and fields, in order."""
        if self.steps is not None:
            return [
                (("steps", number, step.kind), step.kind, getattr(step, step.kind))
                for number, step in enumerate(self.steps)
            ]
        kind = next(name for name in KINDS if getattr(self, name) is not None)
        return [((kind,), kind, getattr(self, kind))]


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a job file, for editors."""
    schema = Job.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "malmm-ray job file"} | schema
