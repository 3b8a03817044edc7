"""Read annotation files. An error names the file and the form that is expected."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from malmm.pipeline.schema.errors import DataSetError

__all__ = ["AnnotationFile", "Entry"]

T = TypeVar("T", str, int, float, list, dict)

_KINDS: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


@dataclass(frozen=True)
class Entry:
    """One entry of an annotation file. ``name`` says which for errors; ``key`` is its key in an object."""

    file: AnnotationFile
    name: str
    values: dict[str, Any]
    key: str = ""

    def get(self, key: str, kind: type[T]) -> T:
        """The value of a key. Raises DataSetError if it is missing or of another kind."""
        if key not in self.values:
            raise self.file.wrong(f"{self.name} has no {key!r}")
        value = self.values[key]
        accepted = (int, float) if kind is float else (kind,)
        if not isinstance(value, accepted) or isinstance(value, bool):
            raise self.file.wrong(f"{key!r} of {self.name} is {str(value)[:60]!r}, not {_KINDS[kind]}")
        return value  # type: ignore[return-value]

    def wrong(self, what: str) -> DataSetError:
        """The error for an entry whose values contradict each other."""
        return self.file.wrong(f"{self.name}: {what}")


@dataclass(frozen=True)
class AnnotationFile:
    """A file of annotations. ``form`` describes the expected form, for errors."""

    path: Path
    form: str

    @classmethod
    def find(cls, place: Path, name: str, form: str) -> AnnotationFile:
        """The file ``name`` in a directory, or ``place`` if it is a file. Raises DataSetError if it is missing."""
        path = place if place.is_file() else place / name
        if not path.is_file():
            raise DataSetError(
                f"{place} has no {name}: --annotations is the directory with {form}", path=str(path)
            )
        return cls(path, form)

    def read(self) -> Any:
        """The file's JSON. Raises DataSetError if it cannot be read."""
        try:
            return json.loads(self.path.read_text(encoding="utf-8-sig"))
        except OSError as error:
            raise DataSetError(
                f"{self.path} cannot be read: {error.strerror}", path=str(self.path)
            ) from error
        except ValueError as error:
            raise self.wrong(f"it is not JSON ({error})") from error

    def named(self) -> list[Entry]:
        """The entries of an object, by their keys. Raises DataSetError for another form."""
        found = self.read()
        if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
            raise self.wrong("it is not an object of objects")
        return [Entry(self, repr(key), value, key) for key, value in found.items()]

    def listed(self) -> list[Entry]:
        """The entries of a list. Raises DataSetError for another form."""
        found = self.read()
        if not isinstance(found, list) or not all(isinstance(value, dict) for value in found):
            raise self.wrong("it is not a list of objects")
        return [Entry(self, f"entry {place + 1}", value) for place, value in enumerate(found)]

    def wrong(self, what: str) -> DataSetError:
        """The error for a file that differs from its form."""
        return DataSetError(f"{self.path} is not {self.form}: {what}", path=str(self.path))
