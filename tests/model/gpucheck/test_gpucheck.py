from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from malmm.model.checkpoints.checkpoint import CheckpointError
from malmm.model.families.registry import family_of
from malmm.model.gpucheck import __main__ as command
from malmm.model.gpucheck import checks as module
from malmm.model.gpucheck import timings
from malmm.model.gpucheck.__main__ import MODELS, main
from malmm.model.gpucheck.cuda import driver_version
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


@pytest.mark.parametrize("short", ["llava-onevision-0.5b", "qwen3-vl-2b", "qwen3.5-2b"])
def test_every_other_family_can_be_checked(short: str) -> None:
    """Its random weights, tokens and prompts, by the check that needs them all."""
    outcome = next(module.checks([checkpoint(short)], [], CPU))
    assert outcome.holds, outcome.found


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


def test_everything_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each is called three times, however fast it is.
    monkeypatch.setattr(timings, "_seconds", partial(timings._seconds, at_least_s=0.0))
    small = checkpoint("vicuna-7b")
    [encoder] = timings.encoders(small, CPU, (2,))
    assert encoder.frames_a_s > 0
    assert encoder.flops > 0
    [bank] = timings.banks(small, CPU, (2,))
    assert bank.length == 2
    assert bank.bank.ms > 0
    assert bank.qformer is not None
    assert bank.qformer.ms > 0
    [one, two] = timings.texts(small, CPU, slots=2, tokens=2, prompts=(1, 2))
    assert (one.prompts, two.prompts, one.tokens) == (1, 2, 2)
    assert min(one.tokens_a_s, two.tokens_a_s) > 0


class Card:
    """Stands in for what only a card can do, with the same work on the CPU."""

    peaks_of: tuple[type, ...] = ()

    @staticmethod
    def recorded(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
        return work

    @classmethod
    def peak_bytes(
        cls, load: Callable[[], object], work: Callable[[object], object], device: torch.device
    ) -> int:
        part = load()
        work(part)
        cls.peaks_of += (type(part),)
        return 3 << 20


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Card]]:
    """A card, on which all work is done once."""
    monkeypatch.setattr(timings, "_seconds", lambda work, device, **_: (work(), 0.001)[1])
    monkeypatch.setattr(command, "recorded", Card.recorded)
    monkeypatch.setattr(command, "peak_bytes", Card.peak_bytes)
    monkeypatch.setattr("malmm.model.families.instructblip.encoder.CompiledVision", lambda vision: vision)
    yield Card
    Card.peaks_of = ()


def test_a_cards_table_has_compiled_code_cuda_graphs_and_memory(
    card: type[Card], capsys: pytest.CaptureFixture[str]
) -> None:
    models = [checkpoint("smolvlm2-500m"), checkpoint("vicuna-7b")]
    command._timings(models, CPU, is_tiny=True, on_card=True)
    said = capsys.readouterr().out
    plain, blip = (model.name for model in models)
    cells = [[cell.strip() for cell in line.split("|")] for line in said.splitlines()]
    rows = [(row[1], row[2]) for row in cells if len(row) > 2 and row[2] in ("yes", "no")]
    assert rows == [(plain, "no"), (blip, "no"), (blip, "yes")]
    # One frame's step takes a call; the Q-Former's is one of sixteen frames.
    assert f"| {plain} | 20 | 1.000 | 1.000 |  |  |" in said
    assert f"| {blip} | 40 | 1.000 | 1.000 | 0.062 | 0.062 |" in said
    assert [type_.__name__ for type_ in card.peaks_of] == [
        "PlainEncoder",
        "PlainLanguage",
        "Encoder",
        "LanguageModel",
    ]
    for model in (plain, blip):
        for stage in ("encode", "generate"):
            assert f"| {model} | {stage} | 3 | " in said


def test_work_that_cannot_be_recorded_says_why(card: type[Card]) -> None:
    def refused(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    [row] = timings.banks(checkpoint("vicuna-7b"), CPU, (2,), refused)
    assert row.qformer is not None
    for step in (row.bank, row.qformer):
        assert (step.graph_ms, step.reason) == (None, "operation not permitted when stream is capturing")
        assert command._step(step).endswith(" | operation not permitted when stream is capturing")


def test_compiled_code_is_for_families_that_have_it() -> None:
    with pytest.raises(CheckpointError, match="--compile is for InstructBLIP"):
        next(timings.encoders(checkpoint("smolvlm2-500m"), CPU, (2,), compiled=True))


def test_what_is_not_tried_or_not_measured_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = checkpoint("smolvlm2-500m")
    free = [0]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], free[0]))
    assert not command._fits(small, torch.device("cuda"))
    assert f"{small.name} needs " in (said := capsys.readouterr().out)
    assert "GiB and is left out" in said
    free[0] = 1 << 40
    assert command._fits(small, torch.device("cuda"))

    def runs_out() -> Iterator[int]:
        yield 1
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB")

    assert list(command._timed(runs_out)) == [1]
    assert capsys.readouterr().out == "| not measured: CUDA out of memory. Tried to allocate 2.00 GiB |\n"


@pytest.mark.parametrize(
    ("prints", "version"),
    [
        ("| NVIDIA-SMI 550.54.14  Driver Version: 550.54.14  CUDA Version: 12.4 |", "550.54.14"),
        ("", "unknown"),
    ],
)
def test_the_drivers_version_is_what_its_own_program_says(
    prints: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{prints}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert driver_version() == version


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
