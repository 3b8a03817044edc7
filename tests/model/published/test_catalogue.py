from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import transformers

from malmm.model.families.registry import FAMILIES, family_of, row_of
from malmm.model.footprint import main, work_of
from malmm.model.published.catalogue import PublishedModel, catalogue, published

# With tied and with untied embeddings.
BUILT = ("smolvlm2-500m", "llava-onevision-0.5b", "qwen3-vl-2b", "qwen3-vl-8b", "qwen3.5-2b")


@pytest.mark.parametrize("model", catalogue(), ids=lambda model: model.short)
def test_figures_follow_from_the_configuration(model: PublishedModel) -> None:
    family, checkpoint = family_of(model.checkpoint), model.checkpoint
    assert family.parameters(checkpoint) == (model.vision, model.projector, model.language)
    work = work_of(checkpoint)
    assert (work.frame_flop, work.kv_bytes_a_token) == (model.frame_flop, model.kv_bytes_a_token)
    assert model.tokens_a_slot == work.tokens


@pytest.mark.parametrize("short", BUILT)
def test_transformers_builds_it_with_the_names_that_the_family_expects(short: str) -> None:
    model = published(short)
    assert model is not None
    checkpoint = model.checkpoint
    family: Any = family_of(checkpoint)
    config = checkpoint.parsed(getattr(transformers, family.config_class))
    with torch.device("meta"):
        whole = getattr(transformers, family.model_class)._from_config(config)
    shapes = {name: tuple(value.shape) for name, value in whole.state_dict().items()}
    # What the prefixes of a file become in the class, and nothing else but what may be missing from a file.
    prefixes = [_renamed(prefix + "x", family.renamed).removesuffix("x") for prefix in family.prefixes]
    optional = [_renamed(name, family.renamed) for name in family.optional]
    assert [name for name in shapes if not name.startswith((*prefixes, *optional))] == []
    assert all(any(name.startswith(prefix) for name in shapes) for prefix in prefixes)
    # Without vision it is the same model, with the same shapes.
    family.without_vision(config)
    with torch.device("meta"):
        hollow = getattr(transformers, family.model_class)._from_config(config)
    kept = {name: tuple(value.shape) for name, value in hollow.state_dict().items()}
    assert kept.items() <= shapes.items()
    left_out = shapes.keys() - kept.keys()
    assert left_out
    assert all(re.search(family.vision_names, name) for name in left_out)


def _renamed(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in pairs:
        name, count = re.subn(pattern, replacement, name)
        if count:
            break
    return name


# Billions of numbers, as publishers and the sizes of their files say.
BILLIONS = {
    "smolvlm2-256m": 0.257,
    "smolvlm2-500m": 0.507,
    "llava-onevision-0.5b": 0.894,
    "llava-onevision-7b": 8.03,
    "qwen3-vl-2b": 2.13,
    "qwen3-vl-4b": 4.44,
    "qwen3-vl-8b": 8.77,
    "vicuna-7b": 7.91,
    "flan-t5-xl": 4.02,
}


@pytest.mark.parametrize(("short", "billions"), BILLIONS.items())
def test_sizes_are_those_that_are_known_from_elsewhere(short: str, billions: float) -> None:
    model = published(short)
    assert model is not None
    assert model.parameters / 1e9 == pytest.approx(billions, rel=5e-3)


def test_every_family_has_published_checkpoints_with_licence_and_sources() -> None:
    assert {row_of(model.checkpoint).model_type for model in catalogue()} == FAMILIES.keys()
    assert len({model.short for model in catalogue()} | {model.name for model in catalogue()}) == 2 * len(
        catalogue()
    )
    for model in catalogue():
        assert model.licence in ("apache-2.0", "mit", "other")
        assert any("licence" in source for source in model.sources)
        assert len(model.sources) > 1


@pytest.mark.parametrize(
    "name", ["smolvlm2-500m", "huggingfacetb/SmolVLM2-500M-Video-Instruct@main", "nobody/nothing", "demo"]
)
def test_they_are_found_by_short_name_and_hub_id(name: str) -> None:
    found = published(name)
    assert (found is not None) == ("500" in name)
    assert found is None or found.name == "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"


def test_the_footprint_of_a_published_one_needs_no_download(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["smolvlm2-500m"]) == 0
    said = capsys.readouterr().out
    assert "a slot: 64 tokens of 960, 120 KiB in half precision" in said
    assert "a frame: 215 GFLOP" in said
    assert main(["Qwen/Qwen3-VL-2B-Instruct"]) == 0
    assert "64 tokens of 4 x 2048, 1,024 KiB" in capsys.readouterr().out
