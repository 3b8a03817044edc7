"""The fields of a job file's step, derived from the options of the command with the same name.

Types come from the configuration class; defaults, choices and help come from the command's options.
"""

from __future__ import annotations

import argparse
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from malmm.jobs.answer_schemas import typed_prompt
from malmm.jobs.commands import annotate, export, index, optimize, transcribe
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.partition import Partition
from malmm.pipeline.schema.prompts import Prompt

__all__ = [
    "KINDS",
    "NOT_IN_STEPS",
    "SPELLED",
    "Options",
    "PromptFields",
    "arguments_of",
    "prompt_of",
    "step_model",
]

KINDS: dict[str, ModuleType] = {
    "index": index,
    "annotate": annotate,
    "transcribe": transcribe,
    "optimize": optimize,
    "export": export,
}

#: The archive and its partitions are the job's, a dry run the command line's, labels and schemas are each prompt's own,
#: and the rest is the cluster's.
NOT_IN_STEPS = (
    *("archive", "partitions", "partition", "dry_run", "labels", "schema", "spans"),
    *("share", "nodes", "label"),
)
#: Options that may be repeated are lists or maps in a file, and are called so.
SPELLED = {"prompt": "prompts", "resource": "resources", "video": "videos"}
_SETTINGS = ConfigDict(extra="forbid", strict=True, frozen=True)


class PromptFields(BaseModel):
    """A prompt in a job file: its text, and optional labels for classification, or a schema for typed answers."""

    model_config = _SETTINGS

    text: str = Field(description="the instruction")
    labels: list[str] | None = Field(None, min_length=2, description="classify: the answer is one of these")
    answer_schema: dict[str, Any] | str | None = Field(
        None,
        alias="schema",
        description="the answer is JSON that follows this JSON schema, or the file that has it",
    )
    spans: bool = Field(
        False, description="the answer is a list of records of the schema, each with begin and end"
    )


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_prompt(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


_Prompt = Annotated[PromptFields, BeforeValidator(_as_prompt, json_schema_input_type=str | PromptFields)]
_Texts = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]
_Resources = dict[str, float]


class Options:
    """Records option declarations by destination name, with the interface of an ``argparse`` parser."""

    def __init__(self, kind: ModuleType) -> None:
        self.declared: dict[str, dict[str, Any]] = {}
        kind.add_fields(self)

    def add_argument(self, *names: str, **options: Any) -> None:
        """Record an option; the signature is that of ``argparse``."""
        long = next((name for name in names if not name.startswith("-") or name.startswith("--")), names[0])
        self.declared[long.lstrip("-").replace("-", "_")] = options

    def default(self, name: str) -> Any:
        """Return the option's default."""
        options = self.declared[name]
        return options.get("default", False if options.get("action") == "store_true" else None)

    def is_required(self, name: str) -> bool:
        """Return whether the option is required."""
        return bool(self.declared[name].get("required")) or "nargs" in self.declared[name]


def _field(kind: str, name: str, options: dict[str, Any], default: Any) -> tuple[Any, Any]:
    described = " ".join((options["help"] % ({"default": default} | options)).split())
    if options.get("action") == "append":
        types: Any = _Texts
        if name == "resource":
            types = _Resources
        elif name == "prompt" and kind != "export":
            types = dict[str, _Prompt]
        return types, Field(default_factory=dict if types is not _Texts else list, description=described)
    if options.get("action") == "store_true":
        types = bool
    elif "choices" in options:
        types = Literal[tuple(options["choices"])]
    else:
        types = options.get("type", str)
    if "nargs" in options:
        return _Texts, Field(min_length=1, description=described)
    if options.get("required"):
        return types, Field(description=described)
    if default is None:
        types = types | None if types is not Literal else types
    return types, Field(default, description=described)


def step_model(kind: str) -> type[BaseModel]:
    """Return the pydantic model of a step of this kind."""
    options = Options(KINDS[kind])
    fields = {
        SPELLED.get(name, name): _field(kind, name, declared, options.default(name))
        for name, declared in options.declared.items()
        if name not in NOT_IN_STEPS
    }
    made: type[BaseModel] = create_model(  # type: ignore[call-overload]
        f"{kind.capitalize()}Step",
        __config__=_SETTINGS,
        __doc__=f"Options of `malmm {kind}`, by their names.",
        **fields,
    )
    return made


def arguments_of(
    kind: str,
    step: BaseModel,
    archive: str,
    cluster: BaseModel,
    *,
    partition: Partition | None = None,
    dry_run: bool,
) -> argparse.Namespace:
    """Convert a step into the command's parsed options. Raises ConfigError for an invalid prompt.

    ``archive`` is the job's, with all its partitions. ``cluster`` is the job's, which holds what all steps may use of a
    cluster.
    """
    fields: dict[str, Any] = dict.fromkeys(NOT_IN_STEPS)
    for name in Options(KINDS[kind]).declared:
        if name not in NOT_IN_STEPS:
            fields[name] = getattr(step, SPELLED.get(name, name))
    if partition is not None and kind == "index":
        fields |= {"partitions": partition.number, "partition": partition.index}
    elif partition is not None:
        archive = partition.below(archive)
    fields |= {"archive": archive, "dry_run": dry_run}
    if kind in ("index", "annotate"):
        fields["prompt"] = [prompt_of(name, prompt) for name, prompt in fields["prompt"].items()]
    if "resource" in fields:
        use = cluster.model_dump(include={"share", "nodes", "labels"})
        fields |= {name: use[name] for name in ("share", "nodes")}
        fields["label"] = [f"{name}={value}" for name, value in use["labels"].items()]
        fields["resource"] = list(fields["resource"].items())
    return argparse.Namespace(**fields)


def prompt_of(name: str, fields: PromptFields) -> Prompt:
    """Build the Prompt of a job file's prompt entry. Raises ConfigError."""
    if fields.answer_schema is not None:
        if fields.labels is not None:
            raise ConfigError(f"prompt {name!r} has labels and a schema: an answer has one of both")
        return typed_prompt(name, fields.text, fields.answer_schema, spans=fields.spans)
    if fields.spans:
        raise ConfigError(f"prompt {name!r} has spans and no schema: write the schema of one timed record")
    if fields.labels is None:
        return Prompt(name, fields.text)
    return Prompt(name, fields.text, "classification", tuple(fields.labels))
