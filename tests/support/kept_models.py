"""Parts of models loaded once in a process, for all runs and questions in it: weights do not change, and parts have no
state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.families.instructblip.family import InstructBlipFamily
from malmm.model.families.plain.family import PlainFamily
from malmm.model.towers.blip2_tokens import TokenTower

__all__ = ["keep_models", "models_kept"]

_PARTS = (
    (InstructBlipFamily, "load_encoder"),
    (InstructBlipFamily, "load_language"),
    (PlainFamily, "load_encoder"),
    (PlainFamily, "load_language"),
    (TokenTower, "load_slots"),
)
_kept: dict[Any, Any] = {}


def keep_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have operators use parts that an earlier one loaded from the same files."""
    for owner, name in _PARTS:
        load = getattr(owner, name)
        if not hasattr(load, "keeps"):
            monkeypatch.setattr(owner, name, _keeping(load))


@contextmanager
def models_kept() -> Iterator[None]:
    """``keep_models`` for the time of a block."""
    with pytest.MonkeyPatch.context() as patch:
        keep_models(patch)
        yield


def _keeping(load: Callable[..., Any]) -> Callable[..., Any]:
    def kept(self: Any, checkpoint: Checkpoint, **options: Any) -> Any:
        known = {option: _known(value) for option, value in options.items()}
        key = (load.__qualname__, checkpoint.fingerprint(), *known.items())
        if key not in _kept:
            _kept[key] = load(self, checkpoint, **options)
        return _kept[key]

    kept.keeps = True  # type: ignore[attr-defined]
    return kept


def _known(value: Any) -> Any:
    return value.fingerprint() if isinstance(value, Checkpoint) else value
