"""Fine-tuning on Ray Train: two workers have the losses of one, also if one of them is killed."""

from __future__ import annotations

import random
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.torch import load_file
from support.drawn_lessons import draw_lessons

from malmm.model.checkpoints.debug import save_debug_checkpoint
from malmm.pipeline.finetuning.config import FinetuneConfig
from malmm.pipeline.finetuning.run import finetune
from malmm.pipeline.schema.progress import Progress


# Ray warns of its own settings where its data context is made in a thread.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.faults
def test_a_worker_that_is_killed_costs_no_loss(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """In float64, in which the order of sums is all that differs. Killed at a random step after the first snapshot.

    One round, whatever the sample: a cluster and its workers are started twice.
    """
    seed = int(request.config.getoption("--fault-seed"))
    chance = random.Random(seed)
    save_debug_checkpoint(tmp_path / "base")
    (tmp_path / "videos").mkdir()
    alone = FinetuneConfig(
        str(draw_lessons(tmp_path / "videos")),
        str(tmp_path / "base"),
        str(tmp_path / "alone"),
        workers=0,
        epochs=3,
        batch=3,
        every=3,
        frames=3,
        bank_length=2,
        rate=1e-2,
        precision="float64",
        seed=seed,
    )
    one = finetune(alone)
    killed: list[int] = []
    at = chance.randint(3, 5)

    def kill_one(progress: Progress) -> None:
        if progress.stage == "training" and progress.videos_done >= at and not killed:
            workers = [
                each
                for each in psutil.process_iter(["cmdline"])
                if "RayTrainWorker" in str(each.info["cmdline"])
            ]
            ours = [each for each in workers if psutil.Process() in each.parents()]
            if ours:
                chance.choice(ours).send_signal(signal.SIGKILL)
                killed.append(at)

    two = finetune(replace(alone, workers=2, output=str(tmp_path / "two")), on_progress=kill_one)
    assert len(two.losses) == len(one.losses) == 6
    np.testing.assert_allclose(two.losses, one.losses, rtol=1e-12)
    assert [point.accuracy for point in two.points] == [point.accuracy for point in one.points]
    ours, theirs = (load_file(Path(each.output) / "model.safetensors") for each in (two, one))
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name].float(), theirs[name].float(), rtol=1e-5, atol=1e-6)
