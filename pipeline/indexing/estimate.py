"""Estimate how long a run takes: from the pace of this archive's own runs, else from the model's operations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from malmm.pipeline.archive.run_history import RunRecord

__all__ = ["A100_FLOPS", "Estimate", "by_pace", "estimated"]

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
    # Reports of several steps are summed: those of other recipes go at other speeds.
    alone = (run for run in runs if run.kinds.count("index") == 1)
    known = by_pace(frames, "frames", "encoder_s", workers=encoders, on_gpus=on_gpus, runs=alone)
    if known is not None:
        return known
    if not on_gpus:
        return Estimate(None, None, "no earlier run of this archive on such workers is recorded")
    gpu_hours = frames * frame_flop / A100_FLOPS / 3600
    basis = "the image encoder's operations on A100s, as no earlier run of this archive is recorded"
    return Estimate(gpu_hours / max(1, encoders), gpu_hours, basis)


def by_pace(
    many: int, unit: str, seconds: str, *, workers: int, on_gpus: bool, runs: Iterable[RunRecord]
) -> Estimate | None:
    """Estimate the time of so many at the pace of earlier ``runs``; None if none went on such workers.

    ``unit`` and ``seconds`` name the counts of a run's report: how many it made, and the time of all its workers for
    them.
    """
    used = [
        run.counts
        for run in runs
        if run.counts.get(unit) and run.counts.get(seconds) and (run.counts.get("gpus", 0) > 0) == on_gpus
    ]
    if not used:
        return None
    pace_s = sum(counts[seconds] for counts in used) / sum(counts[unit] for counts in used)
    hours = many * pace_s / max(1, workers) / 3600
    basis = f"what {len(used)} earlier {'run' if len(used) == 1 else 'runs'} of this archive took"
    return Estimate(hours, hours * workers if on_gpus else None, basis)
