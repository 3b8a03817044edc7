from __future__ import annotations

import pytest
import torch

from malmm.operators.device import choose_device


def test_the_device_named_is_taken() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("meta") == torch.device("meta")


@pytest.mark.parametrize(("visible", "device"), [(True, "cuda:0"), (False, "cpu")])
def test_without_a_name_it_is_the_workers_gpu_or_the_cpu(
    monkeypatch: pytest.MonkeyPatch, visible: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible)
    assert choose_device() == torch.device(device)
