"""Load a job file: report all errors at once and build the commands' configurations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from malmm.jobs.extras import needing
from malmm.jobs.files.fields import KINDS, SPELLED, Options, arguments_of, prompt_of
from malmm.jobs.files.job import Job
from malmm.jobs.files.problems import JobFileError, Problem
from malmm.jobs.files.tree import Tree, parse
from malmm.jobs.files.wording import worded
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.partition import Partition

__all__ = ["LoadedJob", "LoadedStep", "load", "name_of"]

_OPTION = re.compile(r"--[a-z][a-z-]*")
_MOST_FAULTS = 20


@dataclass(frozen=True)
class LoadedStep:
    """A step ready to run: ``kind`` names the command, ``config`` is its configuration."""

    kind: str
    config: Any


@dataclass(frozen=True)
class LoadedJob:
    """A valid job file. ``variables_needed`` must be set where it runs."""

    path: str
    text: str
    job: Job
    name: str
    steps: tuple[LoadedStep, ...]
    variables_needed: tuple[str, ...]
    partition: int = 0

    @property
    def archive(self) -> str:
        """The archive of all steps: that of one partition, if the job has partitions."""
        return self.job.archive_of(self.partition)


def load(
    path: str,
    *,
    sets: Sequence[str] = (),
    dry_run: bool = False,
    partition: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> LoadedJob:
    """Load a job file. ``sets`` are ``KEY=VALUE`` overrides.

    The steps are those of one ``partition``, if the job has partitions: of the first where none is named. Raises
    JobFileError with all errors in the file, and ConfigError if it cannot be read or has no such partition.
    """
    try:
        text = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read the job file {path}: {reason}; `malmm init` writes one") from error
    tree = parse(text, path, environment)
    for each in sets:
        _set(tree, each, environment)
    problems = list(tree.problems)
    job = _validated(tree, problems)
    steps: list[LoadedStep] = []
    own = None if job is None else _partition(job, partition)
    if job is not None:
        if job.schedule is not None:
            _check_schedule(job, tree, problems)
        for place, kind, fields in job.each_step():
            steps += _configured(job, own, place, kind, fields, dry_run, tree, problems)
    if problems or job is None:
        raise JobFileError(path, problems)
    return LoadedJob(
        path,
        text.decode("utf-8-sig"),
        job,
        job.name or name_of(path),
        tuple(steps),
        tuple(sorted(name for name, optional in tree.variables.items() if not optional)),
        own.index if own is not None else 0,
    )


def _partition(job: Job, index: int | None) -> Partition | None:
    if job.partitions is not None:
        return Partition(job.partitions, index or 0)
    if index is not None:
        raise ConfigError(
            f"--partition {index}: the job has no partitions; write `partitions: N` in its file"
        )
    return None


def name_of(path: str) -> str:
    """Return the default name of a job: its file's stem."""
    return re.sub(r"[^a-z0-9]+", "-", Path(path).stem.lower())[:32].strip("-") or "job"


def _validated(tree: Tree, problems: list[Problem]) -> Job | None:
    if not isinstance(tree.content, dict):
        what = "is empty" if tree.content is None else "holds no map"
        problems.append(tree.problem((), f"the job file {what}: `malmm init` writes one to begin with"))
        return None
    try:
        return Job.model_validate(tree.content)
    except ValidationError as error:
        faults = error.errors(include_url=False)
    for each in faults:
        place, message = worded(each)
        problem = tree.problem(place, message)
        # A value that could not be read has been told of already.
        if not any((known.line, known.column) == (problem.line, problem.column) for known in tree.problems):
            problems.append(problem)
    try:
        # What is left without them may hold contradictions, which are to be told in the same breath.
        return Job.model_validate(_without(tree.content, [each["loc"] for each in faults]))
    except ValidationError:
        return None


def _without(content: Any, places: Sequence[tuple[str | int, ...]]) -> Any:
    """Return a copy without the values at these paths."""
    left = deepcopy(content)
    for *above, key in (place for place in places if place):
        where: Any = left
        for part in above:
            where = _inside(where, part)
        if isinstance(where, dict):
            where.pop(key, None)
    return left


def _inside(where: Any, part: str | int) -> Any:
    if isinstance(where, dict):
        return where.get(part)
    return where[part] if isinstance(where, list) and isinstance(part, int) and part < len(where) else None


def _check_schedule(job: Job, tree: Tree, problems: list[Problem]) -> None:
    if job.schedule is None:
        return
    with needing("schedule", "`schedule:` in a job file"):
        from malmm.jobs.schedules.cron import Cron
    for name, value in (("cron", job.schedule.cron), ("timezone", job.schedule.timezone)):
        try:
            if name == "cron":
                Cron.parse(value, "UTC")
            else:
                Cron.parse("* * * * *", value)
        except ConfigError as error:
            problems.append(tree.problem(("schedule", name), str(error)))


def _configured(
    job: Job,
    partition: Partition | None,
    place: tuple[str | int, ...],
    kind: str,
    fields: BaseModel,
    dry_run: bool,
    tree: Tree,
    problems: list[Problem],
) -> list[LoadedStep]:
    """Build the step's configuration. After each error, drop the options concerned and look for the next error."""
    options = Options(KINDS[kind])
    wrong_prompts = []
    prompts = getattr(fields, "prompts", {})
    for name, prompt in prompts.items() if isinstance(prompts, dict) else ():
        try:
            prompt_of(name, prompt)
        except ConfigError as error:
            wrong_prompts.append(name)
            problems.append(tree.problem((*place, "prompts", name), _spelled(str(error), options)))
    if wrong_prompts:
        right = {name: prompt for name, prompt in prompts.items() if name not in wrong_prompts}
        fields = fields.model_copy(update={"prompts": right})
    arguments = arguments_of(kind, fields, job.archive, job.cluster, partition=partition, dry_run=dry_run)
    for _ in range(_MOST_FAULTS):
        try:
            return [LoadedStep(kind, KINDS[kind].configure(arguments))]
        except ConfigError as error:
            named = [option[2:].replace("-", "_") for option in _OPTION.findall(str(error))]
            if wrong_prompts and str(error).startswith("no prompt"):
                break
            known = [name for name in named if name in options.declared and hasattr(arguments, name)]
            spelled = [SPELLED.get(name, name) for name in known]
            at = next(((*place, name) for name in spelled if (*place, name) in tree.places), place)
            problems.append(tree.problem(at, _spelled(str(error), options)))
            changed = [
                name
                for name in known
                if not options.is_required(name) and getattr(arguments, name) != options.default(name)
            ]
            if not changed:
                break
            for name in changed:
                setattr(arguments, name, options.default(name))
    return []


def _spelled(message: str, options: Options) -> str:
    """Replace option names in a command's message by the job file's field names."""

    def name(match: re.Match[str]) -> str:
        field = match.group()[2:].replace("-", "_")
        return SPELLED.get(field, field) if field in options.declared else match.group()

    return _OPTION.sub(name, message)


def _set(tree: Tree, option: str, environment: Mapping[str, str] | None) -> None:
    key, separator, text = option.partition("=")
    parts: tuple[str | int, ...] = tuple(
        int(part) if part.isdecimal() else part for part in key.strip().split(".")
    )
    if not separator or "" in parts:
        raise ConfigError(f"--set {option!r}: write KEY=VALUE, such as --set index.fps=2")
    value = _value(text, f"--set {key}", environment)
    tree.content = {} if tree.content is None else tree.content
    where: Any = tree.content
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(where, dict) and isinstance(part, int):
            part = str(part)
        if isinstance(where, list) and isinstance(part, int) and part < len(where):
            if not last and where[part] is None:
                where[part] = {}
        elif not isinstance(where, dict):
            raise ConfigError(
                f"--set {key}: there is no {'.'.join(map(str, parts[: depth + 1]))} in {tree.path}"
            )
        elif not last and where.get(part) is None:
            where[part] = {}
        if last:
            where[part] = value
        else:
            where = where[part]
    tree.options[parts] = f"--set {key}"
    tree.problems = [problem for problem in tree.problems if problem.place != _place_of(tree, parts)]


def _place_of(tree: Tree, path: tuple[str | int, ...]) -> str:
    line, column = tree.places.get(path, (0, 0))
    return f"{tree.path}:{line}:{column}"


def _value(text: str, place: str, environment: Mapping[str, str] | None) -> Any:
    try:
        tree = parse(text.encode(), place, environment)
    except JobFileError:
        return text
    # "Who is it: a man?" is a question and no map.
    if isinstance(tree.content, dict) and not text.lstrip().startswith("{"):
        return text
    if tree.problems:
        raise ConfigError(f"{place}: {tree.problems[0].message}")
    return tree.content
