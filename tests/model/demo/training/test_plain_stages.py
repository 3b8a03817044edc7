from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from malmm.model.checkpoints.resolve import DEMO, open_models
from malmm.model.checkpoints.verify import verify_models
from malmm.model.decoding import Decoding
from malmm.model.demo.training import plain_stages
from malmm.model.demo.training.pool import ABSENT, Pool
from malmm.model.demo.training.reading import PARTS
from malmm.model.families.family import Asked, Slots
from malmm.model.families.registry import family_of, token_shape
from malmm.model.memory.settings import MemorySettings

SCENES = 12


def small_pool() -> Pool:
    """Scenes of three frames of noise, each of an object of its own."""
    noise = np.random.default_rng(4)
    attributes = np.array([[(n % 6, n % 5, n % 5), ABSENT] for n in range(SCENES)])
    frames = noise.integers(0, 256, (3 * SCENES, 96, 96, 3), dtype=np.uint8)
    return Pool(frames, np.repeat(np.arange(SCENES), 3), attributes, np.zeros((len(frames), 64), np.int64))


def test_training_ends_in_a_published_format_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_stages, "PARTS", PARTS[:2])
    stages = plain_stages.PlainStages(tmp_path, 0.002, DEMO)
    small_pool().save(stages.work.file("pool"))
    made = open_models(str(stages.run()))
    verify_models(made)
    assert (made.checkpoint.config["model_type"], made.retrieval) == ("smolvlm", None)
    assert sum(path.stat().st_size for path in (tmp_path / "plain").iterdir()) < 15e6
    family = family_of(made.checkpoint)
    frames = small_pool().frames[:5]
    encoder = family.load_encoder(made.checkpoint)
    memory = encoder.encode([frames], [["x"]], MemorySettings(9))[0].memory
    assert memory.tokens.shape[1:] == token_shape(made.checkpoint)
    # What the language model learned from is what the shipped code sees in the same frames.
    learned = load_file(stages.work.file("looking"))["tokens"][:5]
    torch.testing.assert_close(memory.tokens, learned.float(), atol=0.05, rtol=0.02)
    asked = [Asked("What appears first?", slots=Slots(memory.tokens, (0.0, 1.0, 2.0, 3.0, 4.0), 5.0))]
    assert len(family.load_language(made.checkpoint).generate_texts(asked, Decoding(4))) == 1

    before = load_file(tmp_path / "plain" / "model.safetensors")
    stages.work.file("reading-2").unlink()
    plain_stages.PlainStages(tmp_path, 0.002, DEMO).run()
    after = load_file(tmp_path / "plain" / "model.safetensors")
    assert set(before) == set(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
