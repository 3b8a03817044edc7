"""What was verified once is not verified again, and nothing else is taken for verified."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.models import edit_json, edit_weights

from malmm.model.checkpoints import verification_record, verify
from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.checkpoints.resolve import Models, open_models
from malmm.model.checkpoints.verification_record import verify_once

Copied = Callable[..., Path]


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The names of the checkpoints that were verified, with a cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names: list[str] = []
    whole = verify.verify_models

    def counted(models: Models) -> None:
        names.append(models.checkpoint.name)
        whole(models)

    monkeypatch.setattr(verify, "verify_models", counted)
    return names


def test_the_same_checkpoints_are_verified_once(
    copied: Copied, looked_at: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copied()
    for retrieval in (None, None, "none", "none"):
        verify_once(open_models(str(copy), retrieval))
    assert looked_at == [str(copy)] * 2
    # Elsewhere it is the same checkpoint.
    moved = copy.rename(copy.with_name("moved"))
    verify_once(open_models(str(moved)))
    assert len(looked_at) == 2
    monkeypatch.setattr(verification_record, "_CHECKS", verification_record._CHECKS + 1)
    verify_once(open_models(str(moved)))
    assert len(looked_at) == 3


@pytest.mark.parametrize("part", ["", "retrieval"])
def test_a_change_is_noticed(copied: Copied, looked_at: list[str], part: str) -> None:
    copy = copied()
    verify_once(open_models(str(copy)))
    edit_json(copy / part / "tokenizer_config.json", lambda content: content.update(note="another"))
    verify_once(open_models(str(copy)))
    assert len(looked_at) == 2
    edit_weights(copy / part, lambda tensors: tensors.pop(sorted(tensors)[0]))
    # What failed is verified again.
    for _ in range(2):
        with pytest.raises(CheckpointError, match="lacks"):
            verify_once(open_models(str(copy)))
    assert len(looked_at) == 4


def test_where_nothing_can_be_noted_it_is_verified_each_time(
    copied: Copied, looked_at: list[str], tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("in the way")
    copy = copied()
    for _ in range(2):
        verify_once(open_models(str(copy)))
    assert len(looked_at) == 2
