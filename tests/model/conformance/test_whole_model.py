from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from malmm.model import conformance
from malmm.model.conformance.whole_model import recorded_trainee
from malmm.model.decoding import Decoding

RECORDED = Path(__file__).parents[2] / "data"
NAME = "train_short.safetensors"


def read(name=NAME):
    with safe_open(str(RECORDED / name), framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def without(tensors, *prefixes):
    return {key: value for key, value in tensors.items() if not key.startswith(prefixes)}


def replayed(directory, tensors, metadata):
    path = directory / "case.safetensors"
    save_file(tensors, path, metadata=metadata)
    return conformance.main([str(path)])


def test_loss_gradients_and_texts_are_compared(capsys):
    assert conformance.main([str(RECORDED / NAME)]) == 0
    lines = capsys.readouterr().out.splitlines()
    compared = {line.split("  ", 1)[1].split("  ")[0].strip() for line in lines[:-1]}
    texts = {f"generated.{kind}" for kind in ("answer", "caption", "classes", "greedy")}
    assert compared == {"loss", "118 gradients"} | texts


def test_one_token_too_many_is_found(tmp_path, capsys):
    tensors, metadata = read()
    tensors = without(tensors, "grad.", "loss", "generated.greedy", "generated.classes", "generated.caption")
    tensors["generated.answer"][3, 4] += 1
    assert replayed(tmp_path, tensors, metadata) == 1
    assert "generated.answer" in capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize("key", ["loss", "grad.image_pe.weight", "grad.query_tokens"])
def test_an_error_is_found(tmp_path, capsys, key):
    tensors, metadata = read()
    tensors = without(tensors, "generated.")
    # Where the recordings were made, 1e-9 is found; elsewhere single precision within them explains more.
    exact = torch.backends.cpu.get_cpu_capability() == "AVX512"
    tensors[key].view(-1)[0] += 1e-9 if exact else 1e-5
    assert replayed(tmp_path, tensors, metadata) == 1
    assert "1 of 2 too large" in capsys.readouterr().out


def test_a_gradient_that_the_file_lacks_is_found(tmp_path, capsys):
    tensors, metadata = read()
    tensors = without(tensors, "generated.", "grad.ln_vision.bias")
    assert replayed(tmp_path, tensors, metadata) == 1
    assert "117 gradients" in capsys.readouterr().out


def only_inputs(tensors, metadata):
    for key in [key for key in tensors if key.startswith(("grad.", "generated.", "loss"))]:
        del tensors[key]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (only_inputs, "no loss, gradient or generated text"),
        (
            lambda t, m: t.update({"generated.poem": t["generated.greedy"].clone()}),
            "generated.poem is of no known",
        ),
        (lambda t, m: t.pop("weights.image_pe.weight"), "lacks 'weights.image_pe.weight'"),
        (lambda t, m: t.pop("output_ids"), "lacks 'output_ids'"),
        (lambda t, m: t.pop("weights.language_model.lm_head.weight"), "lm_head"),
        (lambda t, m: m.pop("llm_heads"), "lacks 'llm_heads'"),
        (lambda t, m: m.update(llm_vocab="49"), "size mismatch"),
        (lambda t, m: m.update(ln_vision_eps="small"), "small"),
        (lambda t, m: t["llm_input_ids"].fill_(4000), "does not fit"),
    ],
)
def test_a_file_that_does_not_fit_is_one_sentence(tmp_path, capsys, change, said):
    tensors, metadata = read()
    change(tensors, metadata)
    assert replayed(tmp_path, tensors, metadata) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith("error: ")
    assert "case.safetensors" in line
    assert said in line


@pytest.mark.parametrize("manner", ["greedy", "beams"])
def test_texts_of_a_batch_are_those_of_each_alone(manner):
    """Prompts of other lengths are padded in front; the penalty must not take that for generated tokens."""
    tensors, metadata = read()
    language = recorded_trainee(tensors, metadata).language
    output = torch.randn(4, 4, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    prompts = [[2, 7], [2, 9, 30, 31, 32, 33, 34], [2, 5, 6, 40], [2]]
    decoding = Decoding.of_lengths(12, min_length=9, num_beams=1 if manner == "greedy" else 4)
    together = language.generate_ids(output, prompts, decoding).tolist()
    alone = [
        language.generate_ids(output[row : row + 1], prompts[row : row + 1], decoding)[0].tolist()
        for row in range(4)
    ]
    longest = max(map(len, alone))
    assert together == [row + [0] * (longest - len(row)) for row in alone]
