"""Snapshots of a training in any place that fsspec opens, so that a killed one goes on.

``latest.json`` names the files of the newest snapshot and is written last, so a snapshot is either there or not,
whatever is killed and when. Weights are safetensors. ``progress.json`` says where the training is between snapshots.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from safetensors.torch import load, save
from torch import Tensor

from malmm.model.training.loop import Point, State
from malmm.pipeline.schema.errors import ConfigError, DataSetError

__all__ = ["Snapshots"]

_RECIPE, _LATEST, _PROGRESS, _TRAINED = "recipe.json", "latest.json", "progress.json", "trained.safetensors"
_EVERY_S = 2.0


class Snapshots:
    """The snapshots of one training in ``place``: a folder or URI. The loop's ``Keeper``."""

    def __init__(self, place: str) -> None:
        """Raises ConfigError for a place that fsspec does not open."""
        self.place = place
        self._told = -math.inf
        try:
            self._files, self._root = fsspec.core.url_to_fs(place)
        except (ValueError, ImportError, OSError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"--checkpoints {place}: it cannot be opened: {reason}") from error

    def begin(self, recipe: Mapping[str, Any]) -> None:
        """Begin a training of this recipe here, or go on with it.

        Raises ConfigError if another one is here, and DataSetError if the place cannot be written.
        """
        now = json.loads(json.dumps(recipe))
        stored = self._json(_RECIPE)
        if stored is None:
            try:
                self._files.makedirs(self._root, exist_ok=True)
                self._put(_RECIPE, json.dumps(now, indent=2).encode())
            except OSError as error:
                raise DataSetError(f"{self.place} cannot be written: {error}", path=self.place) from error
            return
        for name in [*now, *(stored.keys() - now.keys())]:
            if stored.get(name) != now.get(name):
                raise ConfigError(
                    f"{self.place} holds another training ({name}: {_short(stored.get(name))}, now "
                    f"{_short(now.get(name))}): give the options of then to go on with it, or name another place with "
                    "--checkpoints"
                )

    def load(self) -> tuple[State, dict[str, Tensor]] | None:
        """The newest snapshot; None before there is one."""
        latest = self._json(_LATEST)
        return None if latest is None else (_state(latest["state"]), load(self._get(latest["file"])))

    def load_best(self) -> dict[str, Tensor]:
        """The parameters at the best measurement. Raises DataSetError before there is one."""
        latest = self._json(_LATEST)
        if latest is None or latest["best"] is None:
            raise DataSetError(f"{self.place} holds no measurement", path=self.place)
        return load(self._get(latest["best"]))

    def keep(self, state: State, tensors: dict[str, Tensor], best: dict[str, Tensor] | None) -> None:
        """Keep a snapshot, and drop the one before it."""
        before = self._json(_LATEST) or {"best": None}
        file, best_file = f"step-{state.step:08d}.safetensors", before["best"]
        self._put(file, save(tensors))
        if best is not None:
            best_file = f"best-{state.step:08d}.safetensors"
            self._put(best_file, save(best))
        note = {"file": file, "best": best_file, "state": asdict(state)}
        self._put(_LATEST, json.dumps(note).encode())
        for name in self._names():
            if name.endswith(".safetensors") and name not in (file, best_file, _TRAINED):
                self._files.rm_file(self._path(name))

    def tell(self, state: State) -> None:
        """Say where the training is, every two seconds at most."""
        now = time.monotonic()
        if now - self._told >= _EVERY_S and state.losses:
            self._told = now
            self._put(_PROGRESS, json.dumps({"step": state.step, "loss": state.losses[-1]}).encode())

    def told(self) -> tuple[int, float] | None:
        """The steps done and the last loss, as told; None before the first."""
        told = self._json(_PROGRESS)
        return None if told is None else (told["step"], told["loss"])

    def state(self) -> State | None:
        """The state of the newest snapshot, without its weights."""
        latest = self._json(_LATEST)
        return None if latest is None else _state(latest["state"])

    def finish(self, tensors: dict[str, Tensor]) -> None:
        """Keep what was trained, under a checkpoint's names: the training is done."""
        self._put(_TRAINED, save(tensors))

    def trained(self) -> dict[str, Tensor] | None:
        """What was trained; None until the training is done."""
        return load(self._get(_TRAINED)) if _TRAINED in self._names() else None

    def remove(self) -> None:
        """Remove all of it."""
        self._files.rm(self._root, recursive=True)

    def _names(self) -> list[str]:
        self._files.invalidate_cache()
        found = self._files.ls(self._root, detail=False) if self._files.exists(self._root) else []
        return [str(path).rstrip("/").rpartition("/")[2] for path in found]

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _get(self, name: str) -> bytes:
        data: bytes = self._files.cat_file(self._path(name))
        return data

    def _put(self, name: str, data: bytes) -> None:
        """Write a file that appears when it is whole. An object store's objects do."""
        path = self._path(name)
        if isinstance(self._files, LocalFileSystem):
            before = Path(f"{path}.part")
            before.write_bytes(data)
            before.replace(path)
        else:
            self._files.pipe_file(path, data)

    def _json(self, name: str) -> Any:
        self._files.invalidate_cache()
        try:
            return json.loads(self._get(name))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise DataSetError(
                f"{self.place}/{name} is damaged ({error}): name another place with --checkpoints",
                path=self.place,
            ) from error


def _state(stored: dict[str, Any]) -> State:
    points = [Point(**point) for point in stored["points"]]
    best = None if stored["best"] is None else Point(**stored["best"])
    return State(**(stored | {"points": points, "best": best}))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
