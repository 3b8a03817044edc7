from __future__ import annotations

import json
from pathlib import Path

import pytest

from malmm.pipeline.sources.indexed_roots import remember_roots, remembered_roots, roots_of
from malmm.pipeline.web.media_roots import MediaRoots


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


@pytest.mark.parametrize(
    ("row", "root"),
    [
        ("sub/a.mp4", "{here}/sub/a.mp4"),
        ("../a.MKV", "{above}/a.MKV"),
        ("/films/c d.mp4", "/films/c d.mp4"),
        ("file:///films/c%20d.mp4", "/films/c d.mp4"),
        ("s3://b/x/d.mp4", "s3://b/x/d.mp4"),
        ("https://h.org/y/e.mp4?sig=a/b", "https://h.org/y/e.mp4"),
        # Rows that would open more than a video.
        ("/etc/passwd", None),
        ("/etc/", None),
        ("/", None),
        (".", None),
        ("folder.mp4", None),
        ("file:///", None),
        ("file:///etc/shadow", None),
        ("s3://b", None),
        ("s3://b/", None),
        ("s3://b/x", None),
        ("s3://b/x/", None),
        ("s3://b/x.mp4/", None),
        ("http://169.254.169.254/latest/meta-data", None),
        ("https://h.org/", None),
        ("https://h.org/y?name=e.mp4", None),
        ("https://h.org/y#e.mp4", None),
    ],
)
def test_a_manifest_stands_for_the_videos_that_it_lists_and_nothing_beside_them(
    tmp_path: Path, row: str, root: str | None
) -> None:
    """Somebody else may have written it: its rows open no folder, and no file that is not called a video."""
    (tmp_path / "folder.mp4").mkdir()
    manifest = tmp_path / "list.jsonl"
    manifest.write_text(json.dumps({"uri": row}) + "\n")
    wanted = [] if root is None else [root.format(here=tmp_path, above=tmp_path.parent)]
    assert roots_of([str(manifest)]) == wanted
    permitted = MediaRoots(wanted)
    for other in ("/films/other.mp4", f"{tmp_path}/sub/b.mp4", "s3://b/x/f.mp4", "https://h.org/y/f.mp4"):
        assert not permitted.permits(other)


def test_a_manifest_that_is_too_long_for_the_record_has_no_roots(tmp_path: Path) -> None:
    manifest = tmp_path / "list.jsonl"
    rows = [json.dumps({"uri": f"s3://b/{number}.mp4"}) + "\n" for number in range(10_001)]
    manifest.write_text("".join(rows))
    assert roots_of([str(manifest), "/films"]) == ["/films"]
    manifest.write_text("".join(rows[1:]))
    assert len(roots_of([str(manifest)])) == 10_000


def test_roots_are_kept_for_their_archive_alone(state: Path) -> None:
    assert remembered_roots("/archive") == ()
    assert remember_roots("/archive", ["/b"])
    assert remember_roots("/archive", ["/a", "/b"])
    assert remembered_roots("/archive") == ("/a", "/b")
    assert remembered_roots("/another") == ()
    [record] = state.rglob("*.json")
    assert (record.stat().st_mode & 0o777, record.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert remember_roots("/archive", (f"s3://b/{number}.mp4" for number in range(10_000)))
    kept = remembered_roots("/archive")
    assert len(kept) == 10_000
    assert {"/a", "/b"} < set(kept)


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
