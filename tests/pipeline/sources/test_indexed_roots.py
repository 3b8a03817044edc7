from __future__ import annotations

import json
from pathlib import Path

import pytest

from malmm.pipeline.sources.indexed_roots import remember_roots, remembered_roots, roots_of


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.mark.parametrize(
    ("source", "roots"),
    [
        ("/films", ["/films"]),
        ("/films/", ["/films"]),
        ("/films/v.mp4", ["/films/v.mp4"]),
        ("/films/../more", ["/more"]),
        ("/films/*.mp4", ["/films"]),
        ("/films/**/v?.mp4", ["/films"]),
        ("/films/part-*/v.mp4", ["/films"]),
        ("file:///films", ["/films"]),
        ("file:///my%20films/v.mp4", ["/my films/v.mp4"]),
        ("s3://b/films/", ["s3://b/films/"]),
        ("s3://b/films/*/v.mp4", ["s3://b/films/"]),
        ("https://h.org/films/", ["https://h.org/films/"]),
        ("https://h.org/films/*.mp4", ["https://h.org/films/"]),
        ("https://h.org/v.mp4?sig=a/b", ["https://h.org/v.mp4"]),
        # All of a file system, or of a scheme, is no place.
        ("/*", []),
        ("/", []),
        ("s3://*", []),
    ],
)
def test_a_source_says_where_its_videos_are(source: str, roots: list[str]) -> None:
    assert roots_of([source]) == roots


def test_paths_count_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert roots_of(["films", "*.mp4"]) == sorted([str(tmp_path), str(tmp_path / "films")])


def test_a_manifest_stands_for_the_folders_that_it_lists(tmp_path: Path) -> None:
    rows = ["sub/a.mp4", "sub/b.mp4", "/films/c.mp4", "s3://b/x/d.mp4", "https://h.org/y/e.mp4?sig=a/b"]
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("".join(json.dumps({"uri": uri}) + "\n" for uri in rows))
    assert roots_of([str(manifest)]) == sorted(
        [f"{tmp_path}/sub/", "/films/", "s3://b/x/", "https://h.org/y/"]
    )


def test_roots_are_kept_for_their_archive_alone(state: Path) -> None:
    assert remembered_roots("/archive") == ()
    assert remember_roots("/archive", ["/b"])
    assert remember_roots("/archive", ["/a", "/b"])
    assert remembered_roots("/archive") == ("/a", "/b")
    assert remembered_roots("/another") == ()
    [record] = state.rglob("*.json")
    assert (record.stat().st_mode & 0o777, record.parent.stat().st_mode & 0o777) == (0o600, 0o700)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"archive": "/other", "roots": ["/"]}', '{"archive": "/archive", "roots": 1}']
)
def test_a_record_that_is_not_one_counts_as_none(state: Path, content: str) -> None:
    remember_roots("/archive", ["/a"])
    [record] = state.rglob("*.json")
    record.write_text(content)
    assert remembered_roots("/archive") == ()
    assert remember_roots("/archive", ["/b"])
    assert remembered_roots("/archive") == ("/b",)


def test_a_record_that_others_may_write_counts_as_none(state: Path) -> None:
    remember_roots("/archive", ["/a"])
    [record] = state.rglob("*.json")
    record.chmod(0o666)
    assert remembered_roots("/archive") == ()


def test_where_nothing_can_be_kept_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert not remember_roots("/archive", ["/a"])
    assert remembered_roots("/archive") == ()
