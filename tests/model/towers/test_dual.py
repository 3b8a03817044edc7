"""Dual encoders: vectors are transformers' own after its processor, each side alone, for frames, pictures and words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from support.tiny_towers import SIDE, TOWERS, WORDS, save_tiny_tower
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.memory.slots import Memory
from malmm.model.towers.dual import DualPictures
from malmm.model.towers.registry import open_tower, text_vectors_of, tower_of, vector_size

TEXTS = ["a red circle", "The blue SQUARE, moving!", "it is 3 o'clock  黒い猫", "x" * 200, WORDS]


@pytest.fixture(scope="module", params=TOWERS)
def tower(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    save_tiny_tower(directory, request.param)
    return directory


def official(directory: Path) -> Any:
    return AutoModel.from_pretrained(directory).eval()


def pictures(directory: Path) -> DualPictures:
    checkpoint = open_tower(str(directory))
    made = tower_of(checkpoint).load_slots(checkpoint, model=checkpoint)
    assert isinstance(made, DualPictures)
    return made


def images(*shapes: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """Pictures uint8 of these heights and widths: blocks of colour with noise."""
    generator = np.random.default_rng(seed)
    made = []
    for height, width in shapes:
        blocks = Image.fromarray(generator.integers(0, 256, (5, 7, 3)).astype(np.uint8))
        picture = np.asarray(blocks.resize((width, height), Image.Resampling.NEAREST)).astype(int)
        made.append((picture + generator.integers(-20, 21, picture.shape)).clip(0, 255).astype(np.uint8))
    return made


@torch.no_grad()
def test_words_are_those_of_the_whole_model(tower: Path) -> None:
    model, tok = official(tower), AutoTokenizer.from_pretrained(tower)
    # Both generations of SigLIP were trained on lower-cased texts, padded to the end.
    siglip = model.config.model_type == "siglip"
    given = [text.lower() for text in TEXTS] if siglip else TEXTS
    inputs = tok(
        given, padding="max_length" if siglip else True, truncation=True, max_length=16, return_tensors="pt"
    )
    expected = F.normalize(model.get_text_features(**inputs).pooler_output, dim=-1).numpy()
    checkpoint = open_tower(str(tower))
    texts = text_vectors_of(checkpoint)
    found = texts.vectors(TEXTS)
    assert found.shape == (len(TEXTS), vector_size(checkpoint))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert np.abs(expected[0] - expected[1]).max() > 0.01
    for text, vector in zip(TEXTS, found, strict=True):
        np.testing.assert_allclose(texts.vectors([text])[0], vector, rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(SIDE, SIDE), (48, 65)])
def test_pictures_are_those_of_the_whole_model_after_its_processor(
    tower: Path, shape: tuple[int, int]
) -> None:
    model, processor = official(tower), AutoImageProcessor.from_pretrained(tower)
    given = images(shape, shape, seed=shape[0])
    inputs = processor([Image.fromarray(picture) for picture in given], return_tensors="pt")
    expected = F.normalize(model.get_image_features(**inputs).pooler_output, dim=-1)
    ours = pictures(tower)
    found = np.concatenate([ours.of_picture(picture) for picture in given])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.of_frames(np.stack(given)), expected, rtol=0, atol=1e-6)
    assert float((expected[0] - expected[1]).abs().max()) > 0.01


def test_each_side_opens_without_the_others_weights(tower: Path, tmp_path: Path) -> None:
    """The other side's tensors are not a number, and nothing of them comes through."""
    whole = text_vectors_of(open_tower(str(tower))).vectors(TEXTS)
    seen = pictures(tower).of_frames(np.stack(images((SIDE, SIDE))))
    for spoilt, kept in (("vision_model.", "texts"), ("text_model.", "pictures")):
        directory = Path(shutil.copytree(tower, tmp_path / kept))
        weights = load_file(directory / "model.safetensors")
        for key, value in weights.items():
            if key.startswith(spoilt):
                value.fill_(float("nan"))
        save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
        if kept == "texts":
            texts: Any = text_vectors_of(open_tower(str(directory)))
            np.testing.assert_array_equal(texts.vectors(TEXTS), whole)
            model = texts._model
        else:
            side: Any = pictures(directory)
            assert torch.equal(side.of_frames(np.stack(images((SIDE, SIDE)))), seen)
            model = side._model
        assert not any(name.startswith(spoilt) for name, _ in model.named_parameters())


def test_a_slots_vector_is_the_mean_of_the_frames_in_its_span(tower: Path) -> None:
    ours = pictures(tower)
    frames = np.stack(images(*[(SIDE, SIDE)] * 5))
    seen = ours.of_frames(frames)
    # Of three positions the second slot begins at frame 3, 1 and 2.
    memory = Memory(
        torch.zeros(2, 3, 3), torch.tensor([[3, 1, 2], [2, 4, 3]]), torch.tensor([[0, 0, 0], [3, 1, 2]]), 5
    )
    assert [place.first for place in memory.spans(range(5), 0, 5)] == [0, 2]
    expected = torch.stack([seen[:2].mean(0), seen[2:].mean(0)])
    found = ours.of_slots(memory, frames, (SIDE, SIDE))
    torch.testing.assert_close(found, F.normalize(expected, dim=-1)[:, None], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="4 frames for a memory of 5"):
        ours.of_slots(memory, frames[:4], (SIDE, SIDE))


def test_frames_that_were_squashed_are_seen_in_their_own_shape(tmp_path: Path) -> None:
    """A wide picture's middle is cropped, and not the middle of the square that it was squashed to."""
    save_tiny_tower(tmp_path, "clip")
    ours = pictures(tmp_path)
    wide = np.zeros((SIDE, 3 * SIDE, 3), np.uint8)
    wide[:, SIDE : 2 * SIDE] = (200, 30, 90)
    squashed = np.asarray(Image.fromarray(wide).resize((6 * SIDE, 6 * SIDE), Image.Resampling.NEAREST))
    [seen] = ours.of_frames(squashed[None], (3 * SIDE, SIDE)).numpy()
    [middle] = ours.of_picture(wide[:, SIDE : 2 * SIDE])
    [square] = ours.of_picture(squashed)
    assert seen @ middle > 0.95 > square @ middle


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("siglip")
    save_tiny_tower(directory, "siglip")
    return directory


def verify(directory: Path) -> None:
    checkpoint = open_tower(str(directory))
    tower_of(checkpoint).verify(checkpoint, checkpoint)


@pytest.mark.parametrize(
    ("file", "changes", "reason"),
    [
        ("config.json", {"model_type": "siglip2"}, r"NaFlex kind.*google/siglip2-base-patch16-224"),
        ("config.json", {"model_type": "align"}, r"type 'align', which no tower covers.*SigLIP 2 \(siglip\)"),
        ("config.json", {"vision_config__image_size": 48}, r"a size of .*takes 48 pixels square"),
        (
            "config.json",
            {"vision_config__image_size": [32, 16]},
            r"\[32, 16\] pixels, and this needs a square",
        ),
        ("config.json", {"text_config__vocab_size": 20}, "text_model.embeddings.token_embedding.weight is"),
        ("preprocessor_config.json", {"do_resize": False}, "do_resize false"),
        ("preprocessor_config.json", {"resample": 99}, "resample of 99"),
        ("preprocessor_config.json", {"image_std": [0, 1, 1]}, "unusable image_mean or image_std"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(
    siglip: Path, tmp_path: Path, file: str, changes: dict[str, Any], reason: str
) -> None:
    directory = Path(shutil.copytree(siglip, tmp_path / "changed"))
    verify(directory)
    settings = json.loads((directory / file).read_text())
    for key, value in changes.items():
        part, _, name = key.rpartition("__")
        (settings[part] if part else settings)[name] = value
    (directory / file).write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=reason):
        verify(directory)


@pytest.mark.parametrize("changed", ["taken out", "added", "cut"])
def test_tensors_that_do_not_fit_are_named(siglip: Path, tmp_path: Path, changed: str) -> None:
    directory = Path(shutil.copytree(siglip, tmp_path / "changed"))
    weights = load_file(directory / "model.safetensors")
    name = "text_model.encoder.layers.1.mlp.fc1.weight"
    if changed == "added":
        weights["text_model.more"] = weights[name].clone()
    elif changed == "cut":
        weights[name] = weights[name][:1].clone()
    else:
        del weights[name]
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    reason = "text_model.more" if changed == "added" else name
    with pytest.raises(CheckpointError, match=reason):
        verify(directory)
    with pytest.raises(CheckpointError, match=reason):
        text_vectors_of(open_tower(str(directory)))
