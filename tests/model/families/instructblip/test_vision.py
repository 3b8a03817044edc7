from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from support.models import edit_json, random_frames
from transformers import AutoImageProcessor, InstructBlipVisionModel

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.checkpoints.normalisation import image_normalisation
from malmm.model.families.instructblip.vision import VisionEncoder


@pytest.fixture(scope="module")
def vision(opened):
    return VisionEncoder.load(opened(), dtype=torch.float32).eval()


def test_pixels_are_those_of_transformers_own_processor(checkpoint_directory, vision):
    frames = random_frames(1, 5)
    processor = AutoImageProcessor.from_pretrained(checkpoint_directory())
    expected = processor([Image.fromarray(frame) for frame in frames], return_tensors="pt")["pixel_values"]
    ours = vision.pixels(torch.from_numpy(frames))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_tokens_are_those_of_transformers_own_model(opened, vision):
    frames = torch.from_numpy(random_frames(2, 3))
    model = InstructBlipVisionModel(vision.model.config).eval()
    opened().fill(model, "vision_model.")
    with torch.inference_mode():
        tokens = vision(frames)
        expected = model(pixel_values=vision.pixels(frames)).last_hidden_state
    assert tokens.shape == (3, vision.tokens_per_frame, vision.channels) == (3, 17, 48)
    assert torch.equal(tokens, expected)


def test_the_encoder_can_be_held_in_half_precision(opened):
    vision = VisionEncoder.load(opened(), dtype=torch.bfloat16).eval()
    assert {parameter.dtype for parameter in vision.parameters()} == {torch.bfloat16}
    assert vision.mean.dtype == torch.float32
    frames = torch.from_numpy(random_frames(2, 1))
    exact = VisionEncoder.load(opened(), dtype=torch.float32).eval()
    with torch.inference_mode():
        half = vision(frames)
        cosine = torch.cosine_similarity(half.float(), exact(frames), dim=-1)
    assert half.dtype == torch.bfloat16
    assert cosine.min() > 0.99


@pytest.mark.parametrize("shape", [(1, 55, 56, 3), (1, 56, 56, 1), (56, 56, 3), (1, 3, 56, 56)])
def test_frames_of_another_size_are_refused(vision, shape):
    with pytest.raises(ValueError, match=r"not \[B, 56, 56, 3\]"):
        vision(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 0.48145466),
        ({"preprocessor_config.json": {"size": 224}}, 0.48145466),
        ({"preprocessor_config.json": {"image_mean": [0.5, 0.5, 0.5], "image_std": [1, 1, 1]}}, 0.5),
        ({"preprocessor_config.json": {"image_std": [1, 1, 1]}}, 0.48145466),
        ({"processor_config.json": {"image_processor": {"image_mean": [0.25, 0.5, 0.5]}}}, 0.25),
        (
            {
                "processor_config.json": {"num_query_tokens": 32},
                "preprocessor_config.json": {"image_mean": [0.75, 0.5, 0.5]},
            },
            0.75,
        ),
    ],
)
def test_mean_and_deviation_come_from_the_checkpoint(tmp_path, files, expected):
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    mean, std = image_normalisation(Checkpoint("here", tmp_path, {}))
    assert mean[0] == expected
    assert len(mean) == len(std) == 3


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"image_processor": 3}',
        '{"image_mean": 0.5}',
        '{"image_mean": [0.5]}',
        '{"image_std": [0, 1, 1]}',
        '{"image_std": ["x", 1, 1]}',
    ],
)
def test_unusable_settings_are_named(tmp_path, text):
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"model 'here'.*preprocessor_config\.json"):
        image_normalisation(Checkpoint("here", tmp_path, {}))


def test_another_normalisation_changes_the_pixels(copied):
    directory = copied()
    edit_json(
        directory / "preprocessor_config.json",
        lambda settings: settings.update(image_mean=[0, 0, 0], image_std=[1, 1, 1]),
    )
    vision = VisionEncoder.load(
        Checkpoint.open(str(directory), model_types=("instructblip",)), dtype=torch.float32
    )
    frames = random_frames(1, 1)
    expected = frames.transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(vision.pixels(torch.from_numpy(frames)).numpy(), expected, atol=1e-6)
