"""`malmm search` without a query answers one after the other."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
from pathlib import Path

import pytest
from support.drawn_archive import Drawn
from support.processes import Ended, command, run_here

LINES = "a red circle\n\n   \n:open x\n:open 99\na blue square\n"


def search(drawn: Drawn, *options: str, lines: str | None = None) -> Ended:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.StringIO(lines or ""))
        return run_here("search", "--archive", drawn.place, "-k", "2", *options)


def test_queries_are_read_from_standard_input(drawn: Drawn) -> None:
    ended = search(drawn, lines=LINES)
    assert ended.returncode == 0
    assert ended.stdout.count("  1. 0:") == 2
    assert ended.stderr.splitlines() == [
        "error: ':open x': write `:open` and the number of a moment",
        "error: there is no moment 99: 2 were found",
    ]


def test_json_is_an_object_a_line(drawn: Drawn) -> None:
    ended = search(drawn, "--json", "--page", "http://127.0.0.1:8000/", lines=LINES)
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [each["query"] for each in told] == ["a red circle", "a blue square"]
    for each in told:
        assert len(each["moments"]) == 2
        for moment in each["moments"]:
            start = f"http://127.0.0.1:8000/#/video/{moment['video_id']}?t="
            assert moment["link"] == f"{start}{moment['start_s']:.2f}"


def test_no_query_at_all_is_refused(drawn: Drawn) -> None:
    ended = search(drawn)
    assert ended.returncode == 2
    assert "no query" in ended.stderr


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("a", "--page", "localhost:8000"), "--page 'localhost:8000'"),
        (("a", "--open"), "neither mpv nor vlc"),
    ],
)
def test_options_that_cannot_be(
    drawn: Drawn,
    options: tuple[str, ...],
    error: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ended = search(drawn, *options)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert error in ended.stderr


@pytest.mark.parametrize("leave", [b"\x04", b"\x03"], ids=["Ctrl-D", "Ctrl-C"])
def test_a_terminal_gets_a_prompt_and_leaves_it(drawn: Drawn, leave: bytes) -> None:
    ours, theirs = pty.openpty()
    # Ctrl-C reaches a process through the terminal that is its session's own.
    arguments = ["setsid", "--ctty", *command("search", "--archive", drawn.place, "-k", "1")]
    with subprocess.Popen(arguments, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        read_to(ours, "search> ")
        os.write(ours, b"a red circle\n")
        said = read_to(ours, "search> ")
        assert "  1. 0:" in said
        assert pressed_until_it_ends(ours, leave, process) == 0
    os.close(ours)


def pressed_until_it_ends(terminal: int, key: bytes, process: subprocess.Popen[bytes]) -> int:
    """The exit code. The prompt is seen before the line editor has the terminal, and a key between them is lost."""
    while True:
        os.write(terminal, key)
        try:
            return process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            continue


def read_to(terminal: int, end: str) -> str:
    """What a terminal shows until it ends so."""
    said = ""
    while not said.endswith(end):
        said += os.read(terminal, 4096).decode()
    return said
