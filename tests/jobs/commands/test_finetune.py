"""The command line of a training, which runs in this process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support.drawn_lessons import draw_lessons
from support.processes import Ended, run_here

from malmm.jobs.extras import install_command
from malmm.model.checkpoints.debug import save_debug_checkpoint


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table beside its videos, and a base. Read them."""
    folder = tmp_path_factory.mktemp("finetune")
    draw_lessons(folder)
    save_debug_checkpoint(folder / "base")
    return folder


def train(place: Path, output: Path, *options: str) -> Ended:
    common = (
        "--workers",
        "0",
        "--epochs",
        "1",
        "--batch",
        "3",
        "--frames",
        "2",
        "--bank-length",
        "2",
        "--quiet",
    )
    return run_here(
        "finetune", place / "lessons.csv", "--model", place / "base", "--output", output, *common, *options
    )


def test_what_was_written_is_said(place: Path, tmp_path: Path) -> None:
    done = train(place, tmp_path / "one")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"Written    {tmp_path / 'one'}"
    assert lines[1] == f"Base       {place / 'base'}, language model frozen"
    assert lines[2:4] == ["Examples   6 of 2 videos, 2 held back", "Steps      2 of 2"]
    assert lines[5].endswith("right after 2 steps, whose weights these are")
    again = train(place, tmp_path / "one")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == f"error: {tmp_path / 'one'} is there already: name a directory that is not\n"
    said = json.loads(train(place, tmp_path / "two", "--json").stdout)
    # The same losses, as everything is drawn with the seed.
    assert f"Loss       {said['losses'][0]:.3f} at first, {said['losses'][1]:.3f} at the end" == lines[4]
    assert [point["step"] for point in said["points"]] == [2]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--rate", "0"), 2, "--rate 0: above 0"),
        (("--videos", "nowhere"), 1, "nowhere is not a folder: --videos is the folder of the videos"),
        (("--checkpoints", "nosuch://place"), 2, "--checkpoints nosuch://place: it cannot be opened"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    place: Path, tmp_path: Path, options: tuple[str, ...], code: int, said: str
) -> None:
    done = train(place, tmp_path / "none", *options)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "options"),
    [("tensorboardX", ("--tensorboard", "events")), ("peft", ("--language", "lora"))],
)
def test_a_missing_extra_is_named_before_anything_is_written(
    place: Path,
    tmp_path: Path,
    package: str,
    options: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    done = train(place, tmp_path / "none", *options)
    assert done.returncode == 2
    assert (
        f"`malmm finetune` needs {package}, which is not installed: {install_command('finetune')}"
        in done.stderr
    )
    assert list(tmp_path.iterdir()) == []
