"""The command line as its user sees it: help that teaches, errors of one sentence, exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.archive_rows import RECIPE, VECTOR_SIZE
from support.processes import run_cli, run_here

from malmm.jobs.cli import main
from malmm.pipeline.archive.writer import Archive


@pytest.fixture
def _own_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def check_sentence(errors: str) -> None:
    """One line that begins ``error: ``, without control characters or a trace."""
    assert errors.startswith("error: ")
    assert errors.endswith("\n")
    assert errors.count("\n") == 1
    assert errors[:-1].isprintable()
    assert "Traceback" not in errors


def test_help_teaches() -> None:
    done = run_cli("--help")
    assert done.returncode == 0
    for command in ("index", "show", "demo-videos"):
        assert command in done.stdout


@pytest.mark.parametrize("command", ["index", "show", "demo-videos"])
def test_the_help_of_a_command_has_an_example(command: str) -> None:
    done = run_here(command, "--help")
    assert done.returncode == 0
    assert f"malmm {command} " in done.stdout.partition("example")[2]
    assert done.stderr == ""


def test_the_help_of_index_says_its_exit_codes() -> None:
    said = run_here("index", "--help").stdout
    assert "0 all done, 3 some videos failed, 1 nothing could be done, 2 wrong usage, 130 interrupted" in said


USAGE = [
    (),
    ("frobnicate",),
    ("frob\x1b[2Jnicate",),
    ("index", "videos"),
    ("index", "--archive", "archive"),
    ("index", "videos", "--archive", "archive", "--fps", "fast"),
    ("index", "videos", "--archive", "archive", "--fps", "0"),
    ("index", "videos", "--archive", "archive", "--fps", "-1"),
    ("index", "videos", "--archive", "archive", "--fps", "nan"),
    ("index", "videos", "--archive", "archive", "--segment-s", "0"),
    ("index", "videos", "--archive", "archive", "--segment-s", "1e9"),
    ("index", "videos", "--archive", "archive", "--bank-length", "0"),
    ("index", "videos", "--archive", "archive", "--bank-length", "2.5"),
    ("index", "videos", "--archive", "archive", "--max-new-tokens", "0"),
    ("index", "videos", "--archive", "archive", "--batch-segments", "0"),
    ("index", "videos", "--archive", "archive", "--merge-policy", "best"),
    ("index", "videos", "--archive", "archive", "--decoder", "vlc"),
    ("index", "videos", "--archive", "archive", "--prompt", "no text"),
    ("index", "videos", "--archive", "archive", "--prompt", "na\x1bme=text"),
    ("index", "videos", "--archive", "archive", "--no\x1b[2J-such-option"),
    ("index", "videos", "--archive", ""),
    ("show",),
    ("demo-videos",),
    ("demo-videos", "folder", "--count", "0"),
    ("demo-videos", "folder", "--count", "two"),
    ("demo-videos", "folder", "--minutes", "0"),
    ("demo-videos", "folder", "--seed", "-1"),
]


@pytest.mark.parametrize("options", USAGE, ids=lambda options: " ".join(options).replace("\x1b", "ESC"))
@pytest.mark.usefixtures("_own_signals")
def test_wrong_usage_is_one_sentence_and_2(
    options: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(options)
    except SystemExit as left:
        code = left.code  # type: ignore[assignment]
    shown = capsys.readouterr()
    assert code == 2
    assert shown.out == ""
    check_sentence(shown.err)
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_from_outside() -> None:
    done = run_cli("index", "videos", "--archive", "archive", "--fps", "-1")
    assert (done.returncode, done.stdout) == (2, "")
    check_sentence(done.stderr)
    assert "--fps -1" in done.stderr


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources and archives that cannot be used."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "empty").mkdir()
    (folder / "papers").mkdir()
    (folder / "papers" / "paper\x1b[2J.txt").write_text("words")
    (folder / "video.mp4").write_text("not looked at before the archive is")
    (folder / "file").write_text("a file")
    (folder / "strange").mkdir()
    (folder / "strange" / "thing\x1b[2J").touch()
    (folder / "model").mkdir()
    Archive.create_or_open(str(folder / "archive"), RECIPE, VECTOR_SIZE)
    return folder


VIDEO, NEW = "{place}/video.mp4", ("--archive", "{place}/new")
NOTHING = {
    "missing path": (("index", "{place}/gone.mp4", *NEW), "no such file or directory"),
    "control characters": (("index", "{place}/go\x1b[2Jne.mp4", *NEW), r"go\x1b[2Jne.mp4"),
    "empty directory": (("index", "{place}/empty", *NEW), "is empty"),
    "directory without videos": (("index", "{place}/papers", *NEW), "none with a|not one with a"),
    "glob without matches": (("index", "{place}/*.mkv", *NEW), "no file matches"),
    "several": (("index", "{place}/gone.mp4", "{place}/empty", *NEW), "gone.mp4; "),
    "archive that is a file": (("index", VIDEO, "--archive", "{place}/file"), "a file"),
    "archive in a file": (("index", VIDEO, "--archive", "{place}/file/archive"), "a file"),
    "archive that is something else": (("index", VIDEO, "--archive", "{place}/strange"), r"thing\x1b[2J"),
    "archive of another recipe": (
        ("index", VIDEO, "--archive", "{place}/archive", "--model", "demo"),
        "other options",
    ),
    "no model named and no hub": (("index", VIDEO, *NEW), "--model demo, which knows drawn videos"),
    "unknown model": (("index", VIDEO, *NEW, "--model", "no-such-owner/no-such-model"), "no-such-model"),
    "model that is no directory": (("index", VIDEO, *NEW, "--model", "./nowhere"), "no such directory"),
    "directory that is no model": (("index", VIDEO, *NEW, "--model", "{place}/model"), "config.json"),
    "no retrieval model": (
        ("index", VIDEO, *NEW, "--model", "demo", "--retrieval-model", "{place}/model"),
        "config.json",
    ),
    "missing archive": (("show", "--archive", "{place}/nowhere"), "there is no archive at"),
    "not an archive": (("show", "--archive", "{place}/file"), "there is no archive at|file"),
}


def filled(options: tuple[str, ...], place: Path) -> list[str]:
    return [option.replace("{place}", str(place)) for option in options]


@pytest.mark.parametrize("case", NOTHING)
@pytest.mark.usefixtures("_own_signals")
def test_where_nothing_can_be_done_it_is_one_sentence_and_1(
    case: str, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    options, said = NOTHING[case]
    quiet = ["--quiet"] if options[0] == "index" else []
    assert main([*filled(options, place), *quiet]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    check_sentence(shown.err)
    assert any(part in shown.err for part in said.split("|"))
    assert not (place / "new").exists()
    assert [path.name for path in (place / "strange").iterdir()] == ["thing\x1b[2J"]


@pytest.mark.parametrize("case", ["unknown model", "empty directory"])
def test_the_same_from_outside(case: str, place: Path) -> None:
    options, said = NOTHING[case]
    done = run_cli(*filled(options, place))
    assert (done.returncode, done.stdout) == (1, "")
    first, _, rest = done.stderr.partition("\n")
    assert first == "Listing sources"
    check_sentence(rest)
    assert said in rest


@pytest.mark.usefixtures("_own_signals")
def test_a_video_that_is_not_there_is_wrong_usage(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--archive", str(place / "archive"), "ta\x1bpe.mp4"]) == 2
    check_sentence(capsys.readouterr().err)


def test_a_reader_that_leaves_early_is_no_error(place: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    script = "import sys; from malmm.jobs.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", script, "show", "--archive", str(place / "archive")],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 0
