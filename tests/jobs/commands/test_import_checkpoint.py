from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.lavis_files import TRAINED, lavis_model, save_lavis
from support.processes import run_here
from support.tiny_families import save_tiny

from malmm.model.checkpoints.debug import save_debug_checkpoint


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    save_debug_checkpoint(directory)
    return directory


@pytest.fixture
def file(base: Path, tmp_path: Path) -> Path:
    tensors = load_file(base / "model.safetensors")
    trained = {key: value + 1 for key, value in tensors.items() if key.startswith(TRAINED)}
    trained["frame_positions.weight"] = torch.rand(120, 48)
    return save_lavis(tmp_path / "checkpoint_best.pth", lavis_model(trained))


def test_a_checkpoint_is_written_and_described(base: Path, file: Path, tmp_path: Path) -> None:
    output = tmp_path / "imported"
    done = run_here("import-checkpoint", file, "--base", base, "--output", output)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == f"Written    {output}"
    assert "by frame number, 120 frames" in lines[2]
    assert lines[3] == "Prompts    begin with <s>"
    assert "frame_positions.weight" in load_file(output / "model.safetensors")
    again = run_here("import-checkpoint", file, "--base", base, "--output", output)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == f"error: {output} is there already: name a directory that is not\n"


def test_json_says_the_same(base: Path, file: Path, tmp_path: Path) -> None:
    done = run_here("import-checkpoint", file, "--base", base, "--output", tmp_path / "imported", "--json")
    said = json.loads(done.stdout)
    assert (said["directory"], said["position_rows"], said["epoch"]) == (str(tmp_path / "imported"), 120, 7)
    assert said["prompt_begin"] == ["<s>"]


def test_a_base_of_another_family_is_one_sentence(file: Path, tmp_path: Path) -> None:
    save_tiny(tmp_path / "smol", "smolvlm")
    done = run_here("import-checkpoint", file, "--base", tmp_path / "smol", "--output", tmp_path / "imported")
    assert done.returncode == 1
    assert "SmolVLM2" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "imported").exists()


def test_a_file_that_cannot_be_used_is_said_before_the_base_is_looked_for(file: Path, tmp_path: Path) -> None:
    base = ("--base", tmp_path / "no base")
    done = run_here("import-checkpoint", tmp_path / "gone.pth", *base, "--output", tmp_path / "imported")
    assert (done.returncode, done.stderr) == (1, f"error: {tmp_path}/gone.pth: there is no such file\n")
    done = run_here("import-checkpoint", file, *base, "--output", tmp_path)
    assert "is there already" in done.stderr
    done = run_here("import-checkpoint", file, *base, "--output", tmp_path / "imported")
    assert "no base" in done.stderr
