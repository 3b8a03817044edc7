"""A language model on its own: transformers loads it, and it computes as within the whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from support.tiny_families import save_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from malmm.model.checkpoints.checkpoint import Checkpoint, CheckpointError
from malmm.model.families.registry import family_of
from malmm.model.generation.language_checkpoint import main, write_language
from malmm.model.generation.vllm_server import served_name


@pytest.fixture(params=["instructblip", "smolvlm", "smolvlm tied", "llava_onevision"])
def whole(request: pytest.FixtureRequest, tmp_path: Path, opened: Callable[..., Checkpoint]) -> Checkpoint:
    family, _, tied = request.param.partition(" ")
    if family == "instructblip":
        return opened()
    save_tiny(tmp_path / "whole", family, tied=bool(tied))
    return Checkpoint.open(str(tmp_path / "whole"), model_types=None)


def test_transformers_loads_it_alone_with_equal_logits(whole: Checkpoint, tmp_path: Path) -> None:
    write_language(whole, tmp_path / "alone")
    alone: Any
    alone, report = AutoModelForCausalLM.from_pretrained(tmp_path / "alone", output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    language: Any = family_of(whole).load_language(whole)
    # vLLM reads the names as they are in the file.
    with safe_open(str(tmp_path / "alone" / "model.safetensors"), "pt") as file:
        assert {name.partition(".")[0] for name in file.keys()} <= {"model", "lm_head"}  # noqa: SIM118
    ids = torch.tensor([language.tokenizer("What appears first?")["input_ids"]])
    with torch.inference_mode():
        assert torch.equal(alone(input_ids=ids).logits, language.model(input_ids=ids).logits)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "alone")
    assert tokenizer.get_vocab() == language.tokenizer.get_vocab()
    assert alone.config.eos_token_id == list(language.text_tokens.end)


def test_the_command_says_how_to_serve_it(
    opened: Callable[..., Checkpoint], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = opened()
    assert main([str(whole.directory), str(tmp_path / "alone")]) == 0
    said = capsys.readouterr().out
    assert f"--served-model-name {served_name(whole)}" in said
    assert main([str(whole.directory), str(tmp_path / "alone")]) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["alone"]


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_5"])
def test_families_whose_models_take_more_than_embeddings_are_refused(family: str, tmp_path: Path) -> None:
    save_tiny(tmp_path / "whole", family)
    with pytest.raises(CheckpointError, match=r"InstructBLIP with a Llama \(Vicuna\), SmolVLM2 and LLaVA"):
        write_language(Checkpoint.open(str(tmp_path / "whole"), model_types=None), tmp_path / "alone")
    assert not (tmp_path / "alone").exists()


def test_an_encoder_decoder_is_refused(opened: Callable[..., Checkpoint], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"of type 't5', which vLLM cannot be given"):
        write_language(opened("encoder-decoder"), tmp_path / "alone")
