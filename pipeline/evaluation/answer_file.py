"""The answers of an evaluation on disk, a line a clip, so that an interrupted run goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from malmm.pipeline.schema.errors import ConfigError, DataSetError

__all__ = ["AnswerFile", "write_whole"]

_ANSWERS, _RECIPE = "answers.jsonl", "recipe.json"


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears when it is whole."""
    before = path.with_name(f".{path.name}.{os.getpid()}")
    before.write_text(text, encoding="utf-8")
    before.replace(path)


class AnswerFile:
    """Answers by clip, in an output folder, with the recipe that they were made by.

    The folder is made if it is missing. Raises ConfigError if it holds answers by another recipe, and DataSetError if
    it cannot be written or read.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        self.path = folder / _ANSWERS
        self.rows: dict[str, dict[str, Any]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            note = folder / _RECIPE
            if note.exists():
                _compare(folder, json.loads(note.read_text(encoding="utf-8")), recipe)
            elif self.path.exists():
                raise ConfigError(
                    f"--output {folder}: it has {_ANSWERS} and no {_RECIPE}: choose another folder"
                )
            else:
                write_whole(note, json.dumps(recipe, indent=2) + "\n")
            if self.path.exists():
                self._read()
        except (OSError, ValueError) as error:
            raise DataSetError(f"{folder} cannot be used for answers: {error}", path=str(folder)) from error

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            # The last line was cut off when a run was killed.
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        for line in whole.splitlines():
            row = json.loads(line)
            self.rows[row["clip"]] = row

    def add(self, row: dict[str, Any]) -> None:
        """Append the answers, or the failure, of a clip. A later row takes the place of an earlier one."""
        self.rows[row["clip"]] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def answered(self) -> set[str]:
        """Ids of clips with answers. Failed clips are not among them, so they are asked again."""
        return {clip for clip, row in self.rows.items() if "failure" not in row}


def _compare(folder: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    # As it comes back from JSON.
    now = json.loads(json.dumps(wanted))
    for name in [*now, *(stored.keys() - now.keys())]:
        if stored.get(name) != now.get(name):
            changed = _changed(name, stored.get(name), now.get(name))
            raise ConfigError(
                f"--output {folder} holds answers by another recipe ({changed}): choose another folder"
            )


def _changed(name: str, before: Any, after: Any) -> str:
    """What differs, setting by setting: ``frames: 100, now 50``."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        names = [each for each in {**before, **after} if before.get(each) != after.get(each)]
        return "; ".join(_changed(each, before.get(each), after.get(each)) for each in names)
    return f"{name}: {_short(before)}, now {_short(after)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
