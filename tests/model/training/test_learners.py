"""What learns: its loss is the shipped model's own, and what is saved is what was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.tiny_families import SIDES, save_tiny

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.checkpoints.derived import write_derived
from malmm.model.families.family import Asked, Slots
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.families.plain.family import PlainFamily
from malmm.model.families.registry import family_of
from malmm.model.memory.settings import MemorySettings
from malmm.model.training.learner import Shown
from malmm.model.training.plain_learner import PlainLearner
from malmm.model.training.qformer_learner import QFormerLearner

SETTINGS = MemorySettings(length=2)
# What the templates of the families write before an answer.
BEFORE = {"smolvlm": " ", "llava_onevision": "", "qwen3_vl": "", "qwen3_5": ""}


def shown(side: int, frames: int, answer: str, seed: int = 0) -> Shown:
    pictures = np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
    return Shown(pictures, tuple(map(float, range(frames))), float(frames), "What?", answer)


def test_the_loss_is_the_shipped_models_own(opened: Callable[..., Checkpoint]) -> None:
    """Of answers to clips of different lengths: the model's log-probabilities of these answers, from query outputs."""
    checkpoint = opened()
    learner = QFormerLearner(checkpoint, SETTINGS)
    encoder, language = Encoder.load(checkpoint), LanguageModel.load(checkpoint)
    side = learner.vision.image_size
    answers = ("red", "a blue star")
    for frames in (1, 4):
        batch = [shown(side, frames, answer, frames) for answer in answers] + [shown(side, 3, "left")]
        with torch.no_grad():
            losses = [float(learner.summed_loss([each])) for each in batch]
            assert float(learner.summed_loss(batch)) == pytest.approx(sum(losses), rel=1e-5)
        [encoded] = encoder.encode([batch[0].frames], [["What?"]], SETTINGS)
        assert encoded.query_output is not None
        [scores] = language.classify(encoded.query_output, ["What?"], answers)
        said = np.log(scores.probabilities[0]) - np.log(scores.probabilities[1])
        assert losses[1] - losses[0] == pytest.approx(said, rel=1e-4)
        # Greedy answers are the shipped code's.
        assert learner.answers(batch[:1]) == language.generate(encoded.query_output, ["What?"])


def test_lower_precision_is_near(opened: Callable[..., Checkpoint]) -> None:
    learner = QFormerLearner(opened(), SETTINGS)
    batch = [shown(learner.vision.image_size, 4, "red")]
    exact = learner.summed_loss(batch)
    with torch.autocast("cpu", torch.bfloat16):
        lower = learner.summed_loss(batch)
    lower.backward()
    assert lower.dtype == torch.float32
    assert lower.item() == pytest.approx(exact.item(), rel=0.05)
    assert lower.item() != exact.item()


@pytest.mark.parametrize("name", ["smolvlm", "llava_onevision", "qwen3_vl", "qwen3_5"])
def test_a_plain_familys_loss_is_its_own(name: str, tmp_path: Path) -> None:
    save_tiny(tmp_path / "tiny", name)
    checkpoint = Checkpoint.open(str(tmp_path / "tiny"), model_types=(name,))
    family = family_of(checkpoint)
    assert isinstance(family, PlainFamily)
    learner = PlainLearner(checkpoint, family, SETTINGS, language="full")
    one, other = (shown(SIDES[name], 4, answer) for answer in ("red", "a blue star"))
    with torch.no_grad():
        losses = [float(learner.summed_loss([each])) for each in (one, other)]
    [encoded] = family.load_encoder(checkpoint).encode([one.frames], [["What?"]], SETTINGS)
    slots = Slots.of(encoded.memory, one.times_s, one.end_s, family.frames_per_step)
    labels = [BEFORE[name] + each.answer for each in (one, other)]
    [scores] = family.load_language(checkpoint).score_labels([Asked("What?", slots=slots)], labels)
    said = np.log(scores.probabilities[0]) - np.log(scores.probabilities[1])
    assert losses[1] - losses[0] == pytest.approx(said, rel=1e-3)


def learned(learner: QFormerLearner | PlainLearner, batch: list[Shown]) -> float:
    """Learn a batch by heart for some steps; the loss before and after differ."""
    optimiser = torch.optim.AdamW([p for p in learner.module.parameters() if p.requires_grad], lr=0.02)
    before = float(learner.summed_loss(batch).detach())
    for _ in range(5):
        optimiser.zero_grad()
        learner.summed_loss(batch).backward()
        optimiser.step()
    with torch.no_grad():
        after = float(learner.summed_loss(batch))
    assert after < before
    return after


@pytest.mark.parametrize("name", ["instructblip", "qwen3_5"])
def test_adapters_become_part_of_the_checkpoint(
    name: str, opened: Callable[..., Checkpoint], tmp_path: Path
) -> None:
    """A checkpoint with adapters added has the loss of the model that was trained."""
    if name == "instructblip":
        checkpoint = opened()
        side = int(checkpoint.config["vision_config"]["image_size"])
    else:
        save_tiny(tmp_path / "tiny", name)
        checkpoint, side = Checkpoint.open(str(tmp_path / "tiny"), model_types=(name,)), SIDES[name]
    learner = _learner(checkpoint, "lora")
    batch = [shown(side, 3, "red")]
    after = learned(learner, batch)
    tensors = learner.trained_tensors()
    assert any("q_proj" in key for key in tensors)
    assert not any("lora" in key or "vision_model.encoder" in key or "lm_head" in key for key in tensors)
    write_derived(checkpoint, tmp_path / "out", tensors, card="# out\n")
    written = Checkpoint.open(str(tmp_path / "out"), model_types=None)
    with torch.no_grad():
        assert float(_learner(written, "full").summed_loss(batch)) == pytest.approx(after, rel=1e-3)


def _learner(checkpoint: Checkpoint, language: str) -> QFormerLearner | PlainLearner:
    family = family_of(checkpoint)
    if isinstance(family, PlainFamily):
        return PlainLearner(checkpoint, family, SETTINGS, language=language, rank=4)
    return QFormerLearner(checkpoint, SETTINGS, language=language, rank=4)
