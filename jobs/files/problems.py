"""The errors of a job file, each with its line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["JobFileError", "Problem"]


@dataclass(frozen=True, order=True)
class Problem:
    """One error. ``place`` is the file with line and column, or the option that set the value."""

    line: int
    column: int
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class JobFileError(ConfigError):
    """Raised for an invalid job file. ``problems`` lists all errors in file order."""

    def __init__(self, path: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("; ".join(str(problem) for problem in self.problems))
        self.path = path
