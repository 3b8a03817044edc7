"""Check a job file here that runs elsewhere, without expanding its variables."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from malmm.jobs.files.loading import LoadedJob, load

__all__ = ["load_unexpanded"]


class _Stand(Mapping[str, str]):
    """An environment in which an unset variable has its own name as value."""

    def __getitem__(self, name: str) -> str:
        return os.environ.get(name, name)

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        """Return the variable's value, else its default in the file, else its name."""
        return os.environ.get(name, default if default is not None else name)

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)


def load_unexpanded(path: str, *, sets: Sequence[str] = ()) -> LoadedJob:
    """Check a job file whose variables may be unset on this machine. Raises the errors of ``load``.

    A variable used as a number must be set or have a default.
    """
    return load(path, sets=sets, environment=_Stand())
