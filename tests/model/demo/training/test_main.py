from __future__ import annotations

import torch
from safetensors.torch import load_file

from malmm.model.checkpoints.resolve import open_models
from malmm.model.decoding import Decoding
from malmm.model.demo.training import __main__ as training
from malmm.model.demo.training.__main__ import Stages
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.model.towers.blip2 import RetrievalModel


def test_training_ends_in_a_checkpoint_and_goes_on_where_it_was(tmp_path, capsys, monkeypatch):
    """All stages for a few steps each; then the last ones again, as after a stop."""
    monkeypatch.setattr(training, "BACKGROUND_SLOTS", 16)
    Stages(tmp_path, 0.001).run()
    directory = tmp_path / "checkpoint"
    models = open_models(str(directory))
    encoder = Encoder.load(models.instructblip)
    assert encoder.positions is not None
    side = encoder.vision.image_size
    frames = torch.randint(0, 255, (5, side, side, 3), dtype=torch.uint8).numpy()
    encoded = encoder.encode([frames], [["What appears first?"]], MemorySettings(3))[0]
    language = LanguageModel.load(models.instructblip)
    assert len(language.generate(encoded.query_output, ["What appears first?"], Decoding(4))) == 1
    retrieval = RetrievalModel.load(models.retrieval, instructblip=models.instructblip)
    assert retrieval.slot_vectors(encoded.memory.tokens).shape[0] == 3

    before = load_file(directory / "model.safetensors")
    for name in ("watching-every", "matching-head"):
        (tmp_path / "work" / f"{name}.safetensors").unlink()
    capsys.readouterr()
    Stages(tmp_path, 0.001).run()
    after = load_file(directory / "model.safetensors")
    assert set(before) == set(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert "drew" not in capsys.readouterr().out
