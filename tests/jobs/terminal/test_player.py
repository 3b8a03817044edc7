"""Videos are opened in a player that is installed, and nothing of an archive is taken for a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from malmm.jobs.terminal.player import open_in, player, player_command
from malmm.pipeline.schema.errors import ConfigError


def install(folder: Path, name: str) -> Path:
    """A player that writes down what it was started with."""
    made = folder / name
    made.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{folder}/told"\n')
    made.chmod(0o755)
    return made


@pytest.mark.parametrize(
    ("installed", "found"), [(["mpv", "vlc"], "mpv"), (["vlc"], "vlc"), (["mpv"], "mpv")]
)
def test_the_player_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: list[str], found: str
) -> None:
    for name in installed:
        install(tmp_path, name)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Path(player()).name == found


def test_without_one_a_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="neither mpv nor vlc is on the PATH"):
        player()


@pytest.mark.parametrize("name", ["mpv", "vlc"])
@pytest.mark.parametrize("video", ["a video.mp4", "--script=x.lua", "$(touch gone);`id`.mp4", "ß'\"\n.mp4"])
def test_it_is_given_the_file_and_the_second(tmp_path: Path, name: str, video: str) -> None:
    path = install(tmp_path, name)
    (tmp_path / video).touch()
    assert open_in(str(path), str(tmp_path / video), 12.25).wait() == 0
    told = tmp_path / "told"
    option = {"mpv": "--start=12.250", "vlc": "--start-time=12.250"}[name]
    assert told.read_text() == f"{option}\n--\n{tmp_path / video}\n"
    assert not (tmp_path / "gone").exists()


@pytest.mark.parametrize(
    "uri", ["/gone.mp4", "s3://bucket/a.mp4", "file:///etc/passwd", "edl://a", "-v", "relative.mp4", "/", ""]
)
def test_what_is_not_a_file_or_on_the_web_is_not_opened(uri: str) -> None:
    with pytest.raises(ConfigError, match="is not a file of this machine"):
        player_command("/usr/bin/mpv", uri, 0.0)


def test_the_web_is_opened_from_the_beginning_at_least() -> None:
    uri = "https://films.example.org/a.mp4"
    assert player_command("/usr/bin/mpv", uri, -1.0) == ["/usr/bin/mpv", "--start=0.000", "--", uri]


def test_a_player_that_cannot_be_started(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ConfigError, match="cannot start"):
        open_in(str(tmp_path / "mpv"), str(tmp_path / "a.mp4"), 0.0)
