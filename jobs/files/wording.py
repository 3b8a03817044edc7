"""Word schema errors: the value found and the values allowed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from malmm.jobs.files.fields import KINDS, PromptFields, step_model
from malmm.jobs.files.job import Cluster, Job, Schedule, Secret, Step

__all__ = ["worded"]

Path = tuple[str | int, ...]

_WANTED = {
    "string_type": "text (in quotes, if it looks like something else)",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "list_type": "a list",
    "dict_type": "a map",
    "model_type": "a map",
    "model_attributes_type": "a map",
    "is_instance_of": "a map",
}
_MODELS: dict[str, type[BaseModel]] = {
    "steps": Step,
    "schedule": Schedule,
    "cluster": Cluster,
    "secrets": Secret,
    "prompts": PromptFields,
}


def worded(error: Any) -> tuple[Path, str]:
    """Return the path and a sentence for one of pydantic's errors."""
    path: Path = tuple(error["loc"])
    kind, context = error["type"], error.get("ctx", {})
    name = ".".join(map(str, path)) or "the job file"
    if kind == "extra_forbidden":
        return path, _unknown(path)
    if kind == "missing":
        return path[:-1], f"{'.'.join(map(str, path[:-1])) or 'the job'} needs {path[-1]!r}"
    if kind == "value_error":
        return path, f"{name}: {context['error']}" if path else str(context["error"])
    if kind == "literal_error":
        return path, f"{name} is {_shown(error['input'])}: it must be one of {context['expected']}"
    if kind in _WANTED:
        return path, f"{name} is {_shown(error['input'])}: it must be {_WANTED[kind]}"
    return path, f"{name} is {_shown(error['input'])}: {error['msg'].lower()}"


def _unknown(path: Path) -> str:
    *above, key = path
    names = list(_model_at(above).model_fields)
    near = difflib.get_close_matches(str(key), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return (
        f"unknown key {key!r}: {hint}{'.'.join(map(str, above)) or 'a job file'} may have {', '.join(names)}"
    )


def _model_at(above: Sequence[str | int]) -> type[BaseModel]:
    for depth, part in enumerate(reversed(above)):
        if part in KINDS and depth == 0:
            return step_model(str(part))
        if isinstance(part, str) and part in _MODELS:
            return _MODELS[part]
    return Job


def _shown(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list):
        return "a map" if isinstance(value, dict) else "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
