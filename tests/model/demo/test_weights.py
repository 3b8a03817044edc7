"""The checkpoint that ships: it must load like any other, be small, and be right about what it knows."""

from __future__ import annotations

import json
import shutil

import pytest
from support.drawn_frames import frames_of

from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.checkpoints.resolve import DEMO_NOTICE, demo_checkpoint, open_models
from malmm.model.checkpoints.verify import verify_models
from malmm.model.decoding import Decoding
from malmm.model.demo.questions import questions
from malmm.model.demo.world import plan_scenes
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.language import LanguageModel
from malmm.model.families.instructblip.qformer import MemorySettings


@pytest.fixture(scope="module")
def models():
    return open_models("demo")


def test_it_is_small_and_says_what_it_is(models):
    size = sum(path.stat().st_size for path in demo_checkpoint().rglob("*") if path.is_file())
    assert size <= 30e6
    assert models.notice == DEMO_NOTICE
    verify_models(models)


def test_it_is_right_about_most_of_what_is_drawn(models):
    encoder, language = Encoder.load(models.instructblip), LanguageModel.load(models.instructblip)
    right = total = 0
    for number in range(6):
        scenes = plan_scenes(30, (77_000, number))
        frames = frames_of(scenes, 30, encoder.vision.image_size, number)
        asked = questions(scenes)
        prompts = [question.prompt for question in asked]
        encoded = encoder.encode([frames], [prompts], MemorySettings(10))[0]
        said = language.generate(encoded.query_output, prompts, Decoding(100))
        right += sum(text == question.answer for text, question in zip(said, asked, strict=True))
        total += len(asked)
    assert right / total > 0.85


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "model.safetensors is missing"),
        ("tokenizer.json", "has no tokenizer|cannot be read"),
        ("qformer_tokenizer", "qformer_tokenizer"),
    ],
)
def test_a_missing_file_is_named(tmp_path, gone, named):
    directory = tmp_path / "copy"
    shutil.copytree(demo_checkpoint(), directory)
    path = directory / gone
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
        (directory / "tokenizer_config.json").unlink(missing_ok=gone == "tokenizer.json")

    def load():
        models = open_models(str(directory))
        Encoder.load(models.instructblip)
        LanguageModel.load(models.instructblip)

    with pytest.raises(CheckpointError, match=named):
        load()


def test_sizes_that_do_not_match_are_named(tmp_path):
    directory = tmp_path / "copy"
    shutil.copytree(demo_checkpoint(), directory)
    config = json.loads((directory / "config.json").read_text())
    config["qformer_config"]["intermediate_size"] += 8
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"tensors of another size: qformer\."):
        Encoder.load(open_models(str(directory)).instructblip)


def test_another_models_tokenizer_is_refused(tmp_path):
    directory = tmp_path / "copy"
    shutil.copytree(demo_checkpoint(), directory)
    path = directory / "qformer_tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["zebra"] = 5000
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="the tokenizer is another model's"):
        Encoder.load(open_models(str(directory)).instructblip)
