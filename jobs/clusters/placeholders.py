"""Job files that run elsewhere: checked here, with their variables left to be read there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from malmm.jobs.files.loading import LoadedJob, load

__all__ = ["load_unexpanded"]


class _Stand(Mapping[str, str]):
    """The environment, where every variable is set: to its own name, if it is not set here."""

    def __getitem__(self, name: str) -> str:
        return os.environ.get(name, name)

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        """The variable, its default in the file, or its name."""
        return os.environ.get(name, default if default is not None else name)

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)


def load_unexpanded(path: str, *, sets: Sequence[str] = ()) -> LoadedJob:
    """Check a job file whose variables may not be set here. Raises as ``load`` does.

    A variable that stands for a number has to be set, or to have a default, for the check.
    """
    return load(path, sets=sets, environment=_Stand())
