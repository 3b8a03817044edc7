from __future__ import annotations

import itertools
import os
from dataclasses import fields, replace
from typing import Any

import pytest

from malmm.pipeline import cluster
from malmm.pipeline.cluster import Resources, choose_resources
from malmm.pipeline.config import RESOURCES
from malmm.pipeline.errors import ConfigError

# Planning and writing, one task each, take this much of a CPU beside the stages that are asked for.
LIGHT_CPUS = 2 * 0.05
SIZES = list(itertools.product([1, 2, 64], [0, 1, 4, 8]))


@pytest.mark.parametrize(("cpus", "gpus"), SIZES)
def test_all_stages_run_at_once(cpus: int, gpus: int) -> None:
    chosen = choose_resources(cpus, gpus)
    actors = chosen.encode_workers * chosen.encode_cpus + chosen.generate_workers * chosen.generate_cpus
    assert actors + chosen.decode_cpus + LIGHT_CPUS <= cpus
    assert chosen.decode_workers >= 1
    assert chosen.encode_workers * chosen.encode_gpus + chosen.generate_workers * chosen.generate_gpus <= gpus


@pytest.mark.parametrize(("cpus", "gpus"), SIZES)
def test_every_gpu_is_used_and_encoding_gets_most(cpus: int, gpus: int) -> None:
    chosen = choose_resources(cpus, gpus)
    used = chosen.encode_workers * chosen.encode_gpus + chosen.generate_workers * chosen.generate_gpus
    assert used == pytest.approx(gpus)
    assert chosen.encode_workers >= chosen.generate_workers


@pytest.mark.parametrize(("cpus", "gpus"), SIZES)
def test_most_cpus_decode(cpus: int, gpus: int) -> None:
    chosen = choose_resources(cpus, gpus)
    assert cpus - gpus - 2 <= chosen.decode_workers <= cpus


def test_a_cluster_without_a_whole_gpu_computes_on_cpus() -> None:
    assert choose_resources(4, 0.5).encode_gpus == 0


@pytest.mark.parametrize("name", ["decode_workers", "encode_workers", "generate_workers"])
def test_a_stage_without_a_worker_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="at least one worker"):
        replace(choose_resources(4, 1), **{name: 0})


@pytest.mark.parametrize(
    "name", ["decode_cpus", "encode_cpus", "encode_gpus", "generate_cpus", "generate_gpus"]
)
def test_a_share_below_zero_is_refused(name: str) -> None:
    changed: dict[str, Any] = {name: -0.1}
    with pytest.raises(ConfigError, match=f"{name} cannot be below 0"):
        replace(Resources(1, 1.0, 1, 1.0, 1.0, 1, 1.0, 1.0), **changed)


def test_what_the_core_writes_while_it_starts_is_held_back(capfd: pytest.CaptureFixture[str]) -> None:
    with cluster._hushed(hush=True):
        os.write(2, b"noise\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_an_error_lets_it_out(capfd: pytest.CaptureFixture[str]) -> None:
    def start() -> None:
        with cluster._hushed(hush=True):
            os.write(2, b"the reason\n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        start()
    assert "the reason" in capfd.readouterr().err


def test_what_a_user_wants_of_the_cluster_goes_before_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    chosen = cluster._of_cluster([("decode_workers", 5.0), ("encode_gpus", 0.25)])
    assert chosen == replace(choose_resources(8, 2), decode_workers=5, encode_gpus=0.25)


def test_every_resource_can_be_wanted() -> None:
    assert {field.name for field in fields(Resources)} == set(RESOURCES)
