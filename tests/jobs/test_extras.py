"""Without what an extra brings, the commands that need it name the extra, and the others do not notice."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, PathDistribution
from pathlib import Path

import pytest

from malmm.jobs import extras
from malmm.jobs.cli import main
from malmm.jobs.extras import EXTRAS, install_command, needing

ROOT = Path(__file__).parents[2]
# Runs the command line in a process where these cannot be imported, as if they were not installed.
BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
from malmm.jobs.cli import main
sys.exit(main({arguments!r}))
"""
SCHEDULED = """
name: nightly
archive: archive
steps:
  - optimize: {}
schedule:
  cron: "0 2 * * *"
"""


def run_without(names: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    script = BLOCKED.format(names=names, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("extra", "arguments", "what"),
    [
        ("serve", ["serve", "--archive", "a"], "`malmm serve`"),
        ("ray-serve", ["serve", "--archive", "a", "--ray"], "`malmm serve --ray`"),
        ("schedule", ["schedule", "job.yaml"], "`malmm schedule`"),
        ("schedule", ["run", "job.yaml"], "`schedule:` in a job file"),
        ("cluster", ["submit", "job.yaml", "--address", "http://127.0.0.1:1"], "`malmm submit`"),
    ],
)
def test_a_missing_extra_is_a_sentence_that_names_it(
    tmp_path: Path, extra: str, arguments: list[str], what: str
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(SCHEDULED)
    done = run_without(EXTRAS[extra], *(str(job) if each == "job.yaml" else each for each in arguments))
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {what} needs ")
    assert done.stderr.endswith(f"which is not installed: {install_command(extra)}\n")
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["transcribe", "--archive", "a"], "`malmm transcribe`"),
        (["transcribe", "--archive", "a", "--subtitles", "files", "--dry-run"], "`malmm transcribe`"),
        (["index", "videos", "--archive", "a", "--transcribe", "subtitles"], "--transcribe"),
        (["index", "videos", "--archive", "a", "--transcribe", "a/whisper", "--dry-run"], "--transcribe"),
        (["run", "talks.yaml"], "talks.yaml:5:5: `malmm transcribe`"),
        (["run", "talks.yaml", "--dry-run"], "talks.yaml:5:5: `malmm transcribe`"),
    ],
)
def test_what_reads_subtitles_is_missed_before_anything_is_indexed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    what: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("talks.yaml").write_text(
        "archive: a\nsteps:\n  - index:\n      sources: [videos]\n  - transcribe: {}\n"
    )
    monkeypatch.setitem(sys.modules, "pysubs2", None)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert f"{what} needs pysubs2, which is not installed: {install_command('speech')}" in said
    assert not Path("a").exists()


FOLDER = {"url": "file:///home/ann/my%20clone", "dir_info": {}}


@pytest.mark.parametrize(
    ("noted", "command"),
    [
        (None, "pip install 'malmm-ray[speech]'"),
        ({"url": "https://example.org/malmm.whl", "archive_info": {}}, "pip install 'malmm-ray[speech]'"),
        ({"url": "file:///home/ann/malmm.whl", "archive_info": {}}, "pip install 'malmm-ray[speech]'"),
        (FOLDER, "pip install '/home/ann/my clone[speech]'"),
        (FOLDER | {"dir_info": {"editable": True}}, "pip install --editable '/home/ann/my clone[speech]'"),
    ],
)
def test_the_command_names_the_folder_that_pip_installed_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noted: dict[str, object] | None, command: str
) -> None:
    if noted is not None:
        (tmp_path / "direct_url.json").write_text(json.dumps(noted))
    monkeypatch.setattr(extras, "distribution", lambda name: PathDistribution(tmp_path))
    assert install_command("speech") == command


def test_a_package_that_pip_does_not_know_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "distribution", missing)
    assert install_command("serve") == "pip install 'malmm-ray[serve]'"


def test_what_needs_no_extra_runs_without_any(tmp_path: Path) -> None:
    every = tuple(name for extra in ("serve", "schedule") for name in EXTRAS[extra])
    place = str(tmp_path / "video")
    done = run_without(every, "demo-videos", place, "--minutes", "0.05", "--count", "1")
    assert (done.returncode, done.stderr) == (0, "")
    done = run_without(every, "show", "--archive", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["numpy", "fastapi_users", None])
def test_another_missing_package_is_not_blamed_on_the_extra(name: str | None) -> None:
    def load() -> None:
        with needing("serve", "x"):
            raise ImportError("no", name=name)

    with pytest.raises(ImportError):
        load()


def test_every_extra_is_declared() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert EXTRAS.keys() == declared["optional-dependencies"].keys() - {"all", "dev", "docs"}
    needed = " ".join(declared["dependencies"])
    for name in ("fastapi", "uvicorn", "apscheduler"):
        assert name not in needed
