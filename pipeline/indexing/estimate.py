"""Estimate how long a run takes: from the pace of this archive's own runs, else from the model's operations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from malmm.pipeline.archive.run_history import RunRecord

__all__ = ["A100_FLOPS", "Estimate", "basis_of", "estimated"]

#: NVIDIA's data sheet: dense bfloat16 of an A100. Encoders usually reach 40 % of it (docs/cost.md).
A100_FLOPS = 0.4 * 312e12


@dataclass(frozen=True)
class Estimate:
    """How long it takes. ``hours`` is None if nothing is known of the workers, ``gpu_hours`` if they have no GPU.

    ``basis`` names the source of the estimate in a few words.
    """

    hours: float | None
    gpu_hours: float | None
    basis: str


def estimated(
    frames: int, frame_flop: int, *, encoders: int, on_gpus: bool, runs: Iterable[RunRecord]
) -> Estimate:
    """Estimate the time of so many ``frames`` on so many ``encoders``, each with a GPU if they are ``on_gpus``.

    If ``runs`` on workers of that kind are known, their pace is taken: seconds of all encoders for each frame, those in
    which they had their models.
    Otherwise the image encoder's operations at the speed of an A100, which says nothing about workers without a GPU.
    """
    count = 0
    worker_s = frames_before = 0.0
    for run in runs:
        counts = run.counts
        # Reports of several steps are summed: those of other recipes go at other speeds.
        if run.kinds.count("index") != 1 or not counts.get("frames") or not counts.get("encoder_s"):
            continue
        if (counts.get("gpus", 0) > 0) == on_gpus:
            worker_s += counts["encoder_s"]
            frames_before += counts["frames"]
            count += 1
    if count:
        hours = frames * worker_s / frames_before / max(1, encoders) / 3600
        return Estimate(hours, hours * encoders if on_gpus else None, basis_of(count))
    if not on_gpus:
        return Estimate(None, None, "no earlier run of this archive on such workers is recorded")
    gpu_hours = frames * frame_flop / A100_FLOPS / 3600
    basis = "the image encoder's operations on A100s, as no earlier run of this archive is recorded"
    return Estimate(gpu_hours / max(1, encoders), gpu_hours, basis)


def basis_of(runs: int) -> str:
    """What an estimate by so many earlier runs is from, in a few words."""
    return f"what {runs} earlier {'run' if runs == 1 else 'runs'} of this archive took"
