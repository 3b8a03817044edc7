from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.models import PlainBank, plain_pass, random_qformer

from malmm.model import conformance

RECORDED = Path(__file__).parents[2] / "data"


def read(path):
    with safe_open(str(path), framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def write_online_case(path, seed, *, B=1, T=6, M=3, L=3, N=4, layers=3, frequency=2, padded=False, **sizes):
    """Write a file in the format, computed by the plain reference."""
    model = random_qformer(seed, layers=layers, cross_attention_frequency=frequency, **sizes)
    config = model.config
    generator = torch.Generator().manual_seed(seed + 1)
    query = torch.randn(1, 3, config.hidden_size, generator=generator, dtype=torch.float64)
    frames = torch.randn(B, T, N, config.encoder_hidden_size, generator=generator, dtype=torch.float64)
    ids = torch.randint(1, config.vocab_size, (B, L), generator=generator)
    mask = torch.ones(B, L, dtype=torch.long)
    if padded:
        for row in range(B):
            mask[row, L - row :] = 0
    weights = model.state_dict()
    both, visual_only, banks = [], [], []
    for row in range(B):
        arguments = (weights, config, query[0], frames[row], ids[row], mask[row])
        outputs, bank = plain_pass(*arguments, length=M)
        both.append(outputs)
        banks.append(bank)
        visual_only.append(plain_pass(*arguments, length=M, query=False)[0])
    tensors = {f"weights.{key}": value for key, value in weights.items()} | {
        "query_tokens": query,
        "frames": frames,
        "input_ids": ids,
        "attention_mask": mask,
        "hidden_states": torch.stack(both),
        "hidden_states_visual_bank_only": torch.stack(visual_only),
        "final_visual_bank": torch.stack([torch.from_numpy(bank.tokens) for bank in banks]),
        "final_visual_size": torch.stack([torch.from_numpy(bank.sizes) for bank in banks]),
    }
    metadata = {
        "B": B,
        "T": T,
        "M": M,
        "L": L,
        "N": N,
        "hidden": config.hidden_size,
        "heads": config.num_attention_heads,
        "layers": layers,
        "inter": config.intermediate_size,
        "enc": config.encoder_hidden_size,
        "nq": 3,
        "vocab": config.vocab_size,
        "cross_attention_frequency": frequency,
        "layer_norm_eps": config.layer_norm_eps,
    }
    save_file(tensors, path, metadata={key: str(value) for key, value in metadata.items()})


def write_compress_case(path, seed, *, B=2, T=5, N=3, C=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randn(B, T, N, C, generator=generator, dtype=torch.float64).to(dtype)
    size = torch.randint(1, 9, (B, T, N), generator=generator).to(dtype)
    out_bank, out_size = [], []
    for row in range(B):
        plain = PlainBank(T - 1)
        for entry in range(T):
            plain.append(bank[row, entry].double().numpy(), size[row, entry].numpy())
        plain.finish()
        out_bank.append(torch.from_numpy(plain.tokens))
        out_size.append(torch.from_numpy(plain.sizes))
    out = {"out_bank": torch.stack(out_bank), "out_size": torch.stack(out_size)}
    tensors = {"bank": bank, "size": size} | out
    save_file({f"case0.{key}": value for key, value in tensors.items()}, path)


def test_the_authors_recorded_outputs_hold(capsys):
    assert conformance.TOLERANCE == 1e-10
    assert conformance.main([str(RECORDED)]) == 0
    lines = capsys.readouterr().out.splitlines()
    files = sorted(RECORDED.glob("*.safetensors"))
    assert len(files) == 10
    assert len(lines) == 6 * 2 + 6 * 4 + 3 * 6 + 1
    assert {line.split()[0].split(":")[0] for line in lines[:-1]} == {file.stem for file in files}
    assert all(line.endswith("ok") for line in lines[:-1])
    assert "0 of 54 too large" in lines[-1]


@pytest.mark.parametrize("key", ["hidden_states", "final_visual_bank", "hidden_states_visual_bank_only"])
def test_an_error_of_1e_9_is_found(tmp_path, capsys, key):
    tensors, metadata = read(RECORDED / "qformer_both_banks.safetensors")
    tensors[key].view(-1)[7] += 1e-9
    save_file(tensors, tmp_path / "qformer_both_banks.safetensors", metadata=metadata)
    assert conformance.main([str(tmp_path)]) == 1
    assert "1 of 4 too large" in capsys.readouterr().out
    assert conformance.main([str(tmp_path), "--tolerance", "1e-8"]) == 0


def test_another_choice_of_pair_is_found(tmp_path, capsys):
    tensors, _ = read(RECORDED / "compress.safetensors")
    case = next(key[:5] for key in tensors if key.endswith("out_size") and tensors[key].shape[1] > 2)
    column = tensors[f"{case}.out_size"][0, :, 0]
    column.copy_(torch.cat([column[:1] + 1, column[1:-1], column[-1:] - 1]))
    save_file(tensors, tmp_path / "compress.safetensors")
    assert conformance.main([str(tmp_path)]) == 1
    wrong = [line.split() for line in capsys.readouterr().out.splitlines() if line.endswith("TOO LARGE")]
    assert [line[:2] for line in wrong] == [[f"compress:{case}", "size"]]


def test_a_swapped_entry_and_a_nan_and_another_shape_are_found(tmp_path):
    for number, change in enumerate(
        (
            lambda t: t.flip(1).contiguous(),
            lambda t: torch.full_like(t, float("nan")),
            lambda t: t[:, :-1].contiguous(),
        )
    ):
        tensors, _ = read(RECORDED / "compress.safetensors")
        case = next(key[:5] for key in tensors if key.endswith("out_size") and tensors[key].shape[1] > 2)
        tensors[f"{case}.out_bank"] = change(tensors[f"{case}.out_bank"])
        directory = tmp_path / str(number)
        directory.mkdir()
        save_file(tensors, directory / "compress.safetensors")
        assert conformance.main([str(directory)]) == 1


def drop(key):
    return lambda tensors, metadata: tensors.pop(key)


def restate(key, value):
    return lambda tensors, metadata: metadata.update({key: value})


def unknown_word(tensors, metadata):
    tensors["input_ids"][0, 0] = 5000


@pytest.mark.parametrize(
    "change",
    [
        drop("hidden_states"),
        drop("query_tokens"),
        drop("weights.encoder.layer.0.attention.attention.key.weight"),
        restate("hidden", "48"),
        restate("hidden", "many"),
        restate("heads", "5"),
        restate("M", "0"),
        unknown_word,
        lambda tensors, metadata: metadata.clear(),
    ],
)
def test_a_file_that_breaks_the_format_is_named(tmp_path, capsys, change):
    tensors, metadata = read(RECORDED / "qformer_single_frame.safetensors")
    change(tensors, metadata)
    save_file(tensors, tmp_path / "odd.safetensors", metadata=metadata)
    assert conformance.main([str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "odd.safetensors" in captured.err


def test_what_cannot_be_checked_exits_with_2(tmp_path, capsys):
    assert conformance.main([str(tmp_path / "nowhere")]) == 2
    assert "nowhere is not a directory" in capsys.readouterr().err
    assert conformance.main([str(tmp_path)]) == 2
    assert "holds no .safetensors file" in capsys.readouterr().err
    (tmp_path / "readme.safetensors").write_text("no tensors here")
    assert conformance.main([str(tmp_path)]) == 2
    assert "readme.safetensors cannot be read as safetensors" in capsys.readouterr().err
    save_file({"weight": torch.zeros(2)}, tmp_path / "readme.safetensors")
    assert conformance.main([str(tmp_path)]) == 2
    assert "neither a compression nor an online pass" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        conformance.main([])
    assert stop.value.code == 2


def test_files_and_directories_can_be_given_together(tmp_path, capsys):
    shutil.copy(RECORDED / "compress.safetensors", tmp_path)
    assert conformance.main([str(tmp_path), str(RECORDED / "qformer_single_frame.safetensors")]) == 0
    assert "0 of 16 too large" in capsys.readouterr().out


def test_other_files_of_a_directory_are_left_alone(tmp_path):
    shutil.copy(RECORDED / "qformer_single_frame.safetensors", tmp_path)
    (tmp_path / "README.md").write_text("where these come from")
    assert conformance.main([str(tmp_path)]) == 0


CASES = {
    "three_rows": {"B": 3, "T": 8, "M": 3, "padded": True, "L": 4},
    "bank_of_one": {"M": 1, "T": 7, "layers": 4},
    "single_frame": {"T": 1, "M": 4, "B": 2},
    "single_frame_bank_of_one": {"T": 1, "M": 1},
    "shorter_than_bank": {"T": 3, "M": 9},
    "exactly_full": {"T": 4, "M": 4},
    "one_more": {"T": 5, "M": 4},
    "one_word": {"L": 1, "T": 9, "M": 2},
    "one_token": {"N": 1, "T": 9, "M": 2},
    "one_head": {"heads": 1, "enc": 5, "hidden": 8, "inter": 12, "vocab": 9},
    "long": {"T": 30, "M": 5, "B": 2, "padded": True},
    **{f"layers_{n}": {"layers": n, "T": 7, "M": 3} for n in (1, 2, 4, 5)},
    **{
        f"frequency_{f}_of_{n}": {"frequency": f, "layers": n, "B": 2, "padded": True}
        for f, n in ((1, 3), (3, 5), (3, 2), (1, 1))
    },
}


@pytest.mark.parametrize("name", CASES)
def test_other_sizes_agree_with_a_plain_reference(tmp_path, name):
    write_online_case(tmp_path / f"{name}.safetensors", seed=len(name), **CASES[name])
    errors = conformance.check_directory(tmp_path)
    assert len(errors) == 4
    assert max(error.error for error in errors) <= 1e-11


def test_a_directory_may_hold_files_of_different_sizes(tmp_path, capsys):
    write_online_case(tmp_path / "a.safetensors", 5, B=2, layers=2)
    write_online_case(tmp_path / "b.safetensors", 6, frequency=1, hidden=8)
    write_compress_case(tmp_path / "c.safetensors", 7, T=2, dtype=torch.float64)
    write_compress_case(tmp_path / "d.safetensors", 8, B=3, T=9, N=1, C=7, dtype=torch.float64)
    assert conformance.main([str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4 + 4 + 2 + 2 + 1
