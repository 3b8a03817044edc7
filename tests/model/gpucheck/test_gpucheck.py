from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from malmm.model.families.registry import family_of
from malmm.model.gpucheck import checks as module
from malmm.model.gpucheck import timings
from malmm.model.gpucheck.__main__ import MODELS, main
from malmm.model.gpucheck.random_checkpoint import RandomCheckpoint, tiny
from malmm.model.published.catalogue import published

CPU = torch.device("cpu")


def checkpoint(short: str) -> RandomCheckpoint:
    model = published(short)
    assert model is not None
    return tiny(RandomCheckpoint.of(model, CPU))


def test_the_check_passes_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tiny", "--no-timings", "--models", "smolvlm2-500m", "flan-t5-xl"]) == 0
    said = capsys.readouterr().out
    assert said.count("| holds |") == 6
    assert said.count("| not tried | only on a GPU |") == 2
    assert f"| torch | {torch.__version__} |" in said


def test_checks_that_do_not_hold_are_named_and_end_with_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each check has a limit of its own: none of these can be kept."""
    for limit, value in (("PARITY", -1.0), ("LEAST_COSINE", 1.1), ("FOOTPRINT", -1.0)):
        monkeypatch.setattr(module, limit, value)
    assert main(["--tiny", "--no-timings", "--models", "smolvlm2-500m"]) == 1
    said = capsys.readouterr().out
    failed = [line for line in said.splitlines() if "**fails**" in line]
    assert len(failed) == 3
    for check, line in zip(("float64", "half precision", "bytes"), failed, strict=True):
        assert check in line
    assert "3 checks failed" in said


def test_parity_sees_a_device_that_computes_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    family = family_of(checkpoint("smolvlm2-500m"))
    whole = type(family.load_encoder(checkpoint("smolvlm2-500m"))).encode

    def slightly_wrong(self, frames, *arguments, **named):
        made = whole(self, frames, *arguments, **named)
        if len(frames) > 1:
            made[0].memory.tokens.mul_(1 + 1e-8)
        return made

    monkeypatch.setattr("malmm.model.families.plain.encoder.PlainEncoder.encode", slightly_wrong)
    [outcome, *_] = module.checks([checkpoint("smolvlm2-500m")], [], CPU)
    assert outcome.holds is False


def test_everything_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    small = checkpoint("vicuna-7b")
    [encoder] = timings.encoders(small, CPU, (2,))
    assert encoder.frames_a_s > 0
    assert encoder.flops > 0
    assert [
        (row.length, row.bank_ms > 0, (row.qformer_ms or 0) > 0) for row in timings.banks(small, CPU, (2,))
    ] == [(2, True, True)]
    [one, two] = timings.texts(small, CPU, slots=2, tokens=2, prompts=(1, 2))
    assert (one.prompts, two.prompts, one.tokens) == (1, 2, 2)
    assert min(one.tokens_a_s, two.tokens_a_s) > 0


def test_every_family_is_checked() -> None:
    models = [published(short) for short in MODELS]
    assert {model.config["model_type"] for model in models if model} == {
        "smolvlm",
        "llava_onevision",
        "qwen3_vl",
        "qwen3_5",
        "instructblip",
    }


def test_without_a_gpu_published_sizes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--device", "cpu"])
    assert ended.value.code == 2
    assert "--tiny" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--models", "gpt-2"])
    assert "unknown size 'gpt-2'" in capsys.readouterr().err


def test_it_needs_torch_and_transformers_alone() -> None:
    program = (
        "import sys, malmm.model.gpucheck.__main__\n"
        "print({'ray', 'lance', 'lancedb', 'pyarrow', 'av', 'decord'} & sys.modules.keys())"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"
