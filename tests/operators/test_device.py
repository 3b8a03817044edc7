from __future__ import annotations

import pytest
import ray
import torch

from malmm.operators.device import choose_device
from malmm.pipeline.schema.errors import WorkerError


def test_the_device_named_is_taken() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("meta") == torch.device("meta")


@pytest.mark.parametrize(("visible", "device"), [(True, "cuda:0"), (False, "cpu")])
def test_without_a_name_it_is_the_workers_gpu_or_the_cpu(
    monkeypatch: pytest.MonkeyPatch, visible: bool, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible)
    assert choose_device() == torch.device(device)


def test_a_gpu_that_ray_reserved_and_torch_cannot_use_is_no_reason_to_compute_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    reserved: list[list[int | str]] = [[0], ["3"]]
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: reserved[0])
    for gpu in (0, 3):
        with pytest.raises(
            WorkerError, match=rf"^Ray reserved GPU {gpu} of .*, but torch {torch.__version__[:4]}"
        ):
            choose_device()
        reserved.pop(0)
        reserved.append([])
    assert choose_device() == torch.device("cpu")
    assert choose_device("cpu") == torch.device("cpu")
