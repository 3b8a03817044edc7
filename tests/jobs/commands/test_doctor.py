from __future__ import annotations

import json
import urllib.error
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import pytest

from malmm.jobs import extras
from malmm.jobs.cli import main
from malmm.jobs.commands.doctor import code, lines
from malmm.jobs.machine_findings import Finding, hub_finding, store_finding
from malmm.jobs.own_version import own_version


def test_the_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"malmm-ray {own_version()}\n"


def test_a_report_for_a_bug_has_all_findings_and_no_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MALMM_TOKEN"):
        monkeypatch.setenv(name, "do-not-print-me")
    monkeypatch.setitem(extras.EXTRAS, "serve", ("json", "package_that_nobody_wrote"))
    assert main(["doctor", "--no-hub", "--json", "--archive", str(tmp_path / "new" / "archive")]) == 0
    said = capsys.readouterr().out
    assert "do-not-print-me" not in said
    report = json.loads(said)
    assert report["version"] == own_version()
    found = {each["name"]: Finding(**each) for each in report["findings"]}
    assert {
        "Python",
        "ray",
        "torch",
        "CPUs",
        "GPU",
        "Java",
        "browser",
        "extra serve",
        "archive",
    } <= found.keys()
    assert "model hub" not in found
    assert all(each.advice for each in found.values() if each.state != "ok")
    assert all(each.state in ("ok", "missing", "wrong") for each in found.values())
    assert found["extra serve"].found == "lacks package_that_nobody_wrote"
    assert found["extra serve"].advice == extras.install_command("serve")
    # Nothing is made where an archive is only thought of.
    assert list(tmp_path.iterdir()) == []


def test_only_what_every_run_needs_fails(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--no-hub", "--archive", str(tmp_path / "file" / "archive")]) == 1
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("! archive")]
    assert "is a file" in line
    fine, lacking = Finding("a", "ok", "there", needed=True), Finding("bb", "missing", "not there", "get it")
    assert code([fine, lacking]) == 0
    assert lines([fine, lacking]) == ["  a   there", "- bb  not there; get it"]


def test_a_store_that_is_there_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("")
    assert store_finding(str(tmp_path)).state == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def answer(*_: object, timeout: float) -> None:
    """A server that answers."""


def refuse(*_: object, timeout: float) -> None:
    raise urllib.error.HTTPError("https://hub", 403, "no", Message(), None)


def unreachable(*_: object, timeout: float) -> None:
    raise urllib.error.URLError("no such name")


def forbidden(*_: object, timeout: float) -> None:
    raise AssertionError("connected")


@pytest.mark.parametrize(
    ("environment", "open_url", "state", "found"),
    [
        ({}, answer, "ok", "huggingface.co answers"),
        ({}, refuse, "ok", "huggingface.co answers"),
        ({}, unreachable, "missing", "huggingface.co does not answer (no such name)"),
        ({"HF_ENDPOINT": "https://me:secret@hub.example"}, answer, "ok", "hub.example answers"),
        ({"HF_ENDPOINT": "file:///etc"}, forbidden, "wrong", "HF_ENDPOINT is not an http address"),
        ({"HF_HUB_OFFLINE": "1"}, forbidden, "missing", "HF_HUB_OFFLINE is set"),
    ],
)
def test_the_hub_is_asked_where_the_environment_says(
    environment: dict[str, str],
    open_url: Callable[..., object],
    state: str,
    found: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    finding = hub_finding(open_url)
    assert (finding.state, finding.found) == (state, found)
