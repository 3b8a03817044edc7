"""A checkpoint of a family with something wrong is refused before workers start, in one sentence with the way out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.models import edit_json
from support.tiny_families import FAMILIES, save_tiny

from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.checkpoints.verify import verify_models


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, directory in made.items():
        save_tiny(directory, family)
    return made


def without_template(directory: Path) -> None:
    for name in ("chat_template.jinja", "chat_template.json"):
        (directory / name).unlink(missing_ok=True)


def without_tensor(directory: Path) -> None:
    path = directory / "model.safetensors"
    weights = load_file(path)
    weights.pop(max(name for name in weights if "layers.1." in name or "blocks.1." in name))
    save_file(weights, path, metadata={"format": "pt"})


def written(name: str, content: object) -> Callable[[Path], None]:
    text = content if isinstance(content, str) else json.dumps(content)

    def edit(directory: Path) -> None:
        (directory / name).write_text(text)

    return edit


def vision(**changes: object) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        edit_json(directory / "config.json", lambda config: config["vision_config"].update(changes))

    return edit


STD = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.0, 0.5]}
#: What is wrong: the family, the edit, and what the sentence names: file, value, way out.
WRONG: dict[str, tuple[str, Callable[[Path], None], tuple[str, ...]]] = {
    "deviation of 0": (
        "smolvlm",
        written("preprocessor_config.json", STD),
        ("preprocessor_config.json", "[0.5, 0.0, 0.5]", "publisher"),
    ),
    "deviation of 0, of videos": (
        "qwen3_vl",
        written("video_preprocessor_config.json", STD),
        ("video_preprocessor_config.json", "[0.5, 0.0, 0.5]", "publisher"),
    ),
    "processor's settings that are no JSON": (
        "llava_onevision",
        written("preprocessor_config.json", "{"),
        ("preprocessor_config.json", "cannot be read"),
    ),
    "another family's processor": (
        "smolvlm",
        written("preprocessor_config.json", {"image_processor_type": "Qwen2VLImageProcessorFast"}),
        ("SmolVLM2", "preprocessor_config.json", "'Qwen2VLImageProcessorFast'", "Qwen3-VL", "publisher"),
    ),
    "another family's processor of videos": (
        "qwen3_vl",
        written("video_preprocessor_config.json", {"processor_class": "LlavaOnevisionProcessor"}),
        ("Qwen3-VL", "video_preprocessor_config.json", "'LlavaOnevisionProcessor'", "publisher"),
    ),
    "no chat template": (
        "qwen3_5",
        without_template,
        ("no chat template", "chat_template.jinja", "publisher"),
    ),
    "no chat template, of LLaVA": ("llava_onevision", without_template, ("chat_template.json", "publisher")),
    "a template without a video": (
        "qwen3_vl",
        written("chat_template.jinja", "{{ messages[0]['role'] }}"),
        ("<|video_pad|>", "chat_template.jinja", "publisher"),
    ),
    "a template that does not parse": (
        "qwen3_5",
        written("chat_template.jinja", "{% for %}"),
        ("chat template", "chat_template.jinja", "publisher"),
    ),
    "frames that are too large": (
        "smolvlm",
        vision(image_size=65536),
        ("config.json", "65536", "2048", "publisher"),
    ),
    "no size of frames": ("llava_onevision", vision(image_size="large"), ("config.json", "large")),
    "a class that no family covers": (
        "smolvlm",
        lambda directory: edit_json(
            directory / "config.json", lambda config: config.update(model_type="gemma3")
        ),
        ("'gemma3'", "SmolVLM2 (smolvlm)", "Qwen3-VL (qwen3_vl)"),
    ),
    "a configuration that no model can be built of": (
        "qwen3_vl",
        vision(hidden_size=33),
        ("config.json",),
    ),
    "a tensor that is missing": (
        "qwen3_5",
        without_tensor,
        ("lacks the tensors", "config.json", "take both from one revision"),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_it_is_one_sentence_that_names_file_value_and_way_out(
    case: str, saved: dict[str, Path], tmp_path: Path
) -> None:
    family, edit, names = WRONG[case]
    directory = Path(shutil.copytree(saved[family], tmp_path / "model"))
    verify_models(open_models(str(directory), NO_RETRIEVAL))
    edit(directory)
    with pytest.raises(CheckpointError) as caught:
        verify_models(open_models(str(directory), NO_RETRIEVAL))
    said = str(caught.value)
    assert str(directory) in said
    assert [name for name in names if name not in said] == []
    assert "\n" not in said
