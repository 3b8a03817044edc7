"""No file outside of the roots is read, however an archive's rows spell it."""

from __future__ import annotations

import os
from pathlib import Path

import lance
import pytest
from fastapi.testclient import TestClient
from support.drawn_archive import Drawn
from support.served import copied

from malmm.pipeline.schema.errors import ConfigError, MediaError
from malmm.pipeline.web.api.problems import NotServed
from malmm.pipeline.web.app import make_app
from malmm.pipeline.web.media import open_source
from malmm.pipeline.web.media_roots import MediaRoots
from malmm.pipeline.web.settings import ServeConfig


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder ``films`` that is served, with links out of it and within, beside a secret."""
    films = tmp_path / "films"
    (films / "a" / ".hidden").mkdir(parents=True)
    (tmp_path / "films-of-others").mkdir()
    for name in ("films/v.mp4", "films/a/v.mp4", "films/a/.hidden/v.mp4", "films/.v.mp4", "secret.mp4"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "films-of-others" / "v.mp4").write_bytes(b"others")
    (films / "a b%2e#?.mp4").write_bytes(b"odd")
    (films / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (films / "up").symlink_to(tmp_path)
    (films / "in.mp4").symlink_to(films / "a" / "v.mp4")
    (films / "within").symlink_to(films / "a")
    (films / "loop").symlink_to(films / "loop")
    os.mkfifo(films / "pipe.mp4")
    (tmp_path / "link-to-films").symlink_to(films)
    return tmp_path


@pytest.mark.parametrize(
    ("uri", "content"),
    [
        ("{place}/films/v.mp4", "films/v.mp4"),
        ("file://{place}/films/v.mp4", "films/v.mp4"),
        ("{place}/films/a/v.mp4", "films/a/v.mp4"),
        ("{place}/films/a/../v.mp4", "films/v.mp4"),
        ("{place}/films/in.mp4", "films/a/v.mp4"),
        ("{place}/films/within/v.mp4", "films/a/v.mp4"),
        ("{place}/link-to-films/v.mp4", "films/v.mp4"),
        ("{place}/films/a b%2e#?.mp4", "odd"),
        ("{place}/films//v.mp4", "films/v.mp4"),
        ("{place}/films/gone.mp4", "missing"),
        ("{place}/films/pipe.mp4", "unreachable"),
        ("{place}/films/a", "unreachable"),
        ("{place}/films", "unreachable"),
        # Everything from here on lies outside, or is not let in.
        ("{place}/films/out.mp4", None),
        ("{place}/films/up/secret.mp4", None),
        ("{place}/films/up/films/up/secret.mp4", None),
        ("{place}/films/../secret.mp4", None),
        ("{place}/films/a/../../secret.mp4", None),
        ("{place}/films/within/../../secret.mp4", None),
        ("{place}/films-of-others/v.mp4", None),
        ("{place}/films/.v.mp4", None),
        ("{place}/films/a/.hidden/v.mp4", None),
        ("{place}/secret.mp4", None),
        ("{place}/gone.mp4", None),
        ("{place}", None),
        ("/etc/passwd", None),
        ("file:///etc/passwd", None),
        ("file://localhost/etc/passwd", None),
        ("FILE:///etc/passwd", None),
        ("/proc/self/environ", None),
        ("/dev/zero", None),
        ("etc/passwd", None),
        ("films/v.mp4", None),
        ("~/v.mp4", None),
        ("", None),
        ("{place}/films/v.mp4\0.txt", None),
        ("http://127.0.0.1/v.mp4", None),
        ("http://169.254.169.254/latest/meta-data/", None),
        ("https://example.org/films/v.mp4", None),
        ("ftp://example.org/v.mp4", None),
        ("s3://films/v.mp4", None),
        ("simplecache::file://{place}/secret.mp4", None),
        ("local://{place}/secret.mp4", None),
        ("zip://v.mp4::file://{place}/secret.zip", None),
        ("data:video/mp4;base64,AAAA", None),
        ("memory://v.mp4", None),
        ("github://owner:repo@main/v.mp4", None),
    ],
)
def test_local_files_are_read_below_their_root_alone(place: Path, uri: str, content: str | None) -> None:
    roots = MediaRoots([str(place / "films")])
    uri = uri.format(place=place)
    if content in ("missing", "unreachable"):
        with pytest.raises(MediaError) as raised:
            open_source(uri, roots)
        assert raised.value.kind == content
    elif content is None:
        assert not roots.permits(uri)
        with pytest.raises(NotServed, match="--media-root"):
            open_source(uri, roots)
    else:
        assert roots.permits(uri)
        assert b"".join(open_source(uri, roots).pieces(0, len(content))) == content.encode()


ADDRESSES = ("https://films.example.org/2026/", "http://[fd00::1]:8080/x", "s3://films/a", "gs://b")


@pytest.mark.parametrize(
    ("uri", "permitted"),
    [
        ("https://films.example.org/2026/v.mp4", True),
        ("https://films.example.org/2026/a/b/v.mp4?sig=1#t=3", True),
        ("HTTPS://FILMS.example.org:443/2026/v.mp4", True),
        ("https://films.example.org/%32026/a%20b.mp4", True),
        ("https://films.example.org/2026", True),
        ("http://[fd00::1]:8080/x/v.mp4", True),
        ("s3://films/a/v.mp4", True),
        ("s3a://films/a/v.mp4", True),
        ("s3://films/a/v 1#2?.mp4", True),
        ("gcs://b/v.mp4", True),
        ("http://films.example.org/2026/v.mp4", False),
        ("https://films.example.org:8443/2026/v.mp4", False),
        ("https://films.example.org.evil.org/2026/v.mp4", False),
        ("https://films.example.org@evil.org/2026/v.mp4", False),
        ("https://me@films.example.org/2026/v.mp4", False),
        ("https://films.example.org\\@evil.org/2026/v.mp4", False),
        ("https://evil.org/?https://films.example.org/2026/v.mp4", False),
        ("https://films.example.org/2026/../secret", False),
        ("https://films.example.org/2026/%2e%2e/secret", False),
        ("https://films.example.org/2026/%252e%252e/secret", False),
        ("https://films.example.org/2026/..%2fsecret", False),
        ("https://films.example.org/2026/..%5csecret", False),
        ("https://films.example.org/2026/%00", False),
        ("https://films.example.org/2026/v.mp4\r\nX: y", False),
        ("https://films.example.org/20260/v.mp4", False),
        ("https://films.example.org/", False),
        ("https://films.example.org?/2026/v.mp4", False),
        ("https:///2026/v.mp4", False),
        ("https:/films.example.org/2026/v.mp4", False),
        ("http://[fd00::1]/x/v.mp4", False),
        ("s3://films/ab/v.mp4", False),
        ("s3://films/a/../b/v.mp4", False),
        ("s3://films-2/a/v.mp4", False),
        ("s3://films/a/zip::v.mp4", False),
        ("gs://bb/v.mp4", False),
        ("memory://films/a", False),
        ("/etc/passwd", False),
    ],
)
def test_addresses_are_fetched_below_their_root_alone(uri: str, permitted: bool) -> None:
    roots = MediaRoots(ADDRESSES)
    assert roots.permits(uri) == permitted
    if not permitted:
        with pytest.raises(NotServed):
            open_source(uri, roots)


def test_a_file_may_be_a_root(place: Path) -> None:
    roots = MediaRoots([str(place / "films" / ".v.mp4")])
    assert roots.permits(str(place / "films" / ".v.mp4"))
    assert not roots.permits(str(place / "films" / "v.mp4"))
    assert MediaRoots(["https://h.org/v.mp4?sig=1"]).permits("https://h.org/v.mp4?sig=2")
    assert not MediaRoots(["https://h.org/v.mp4"]).permits("https://h.org/v.mp4x")


def test_a_link_that_takes_a_folders_place_is_not_followed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody swaps a folder for a link after the path was checked, and before it is opened."""
    roots = MediaRoots([str(place / "films")])
    uri = str(place / "films" / "a" / "v.mp4")
    (place / "v.mp4").write_bytes(b"secret")
    check = MediaRoots._place

    def swapped(self: MediaRoots, path: str) -> tuple[str, list[str]] | None:
        found = check(self, path)
        (place / "films" / "a").rename(place / "films" / "moved")
        (place / "films" / "a").symlink_to(place)
        return found

    monkeypatch.setattr(MediaRoots, "_place", swapped)
    with pytest.raises(NotServed):
        open_source(uri, roots)


@pytest.mark.parametrize("root", ["ftp://h/x", "https://", "s3://b/../c", "http://u@h/", "zip://a::s3://b"])
def test_a_root_that_cannot_be_is_refused(root: str) -> None:
    with pytest.raises(ConfigError, match="--media-root"):
        ServeConfig("archive", media_roots=(root,))


def test_the_page_reads_what_index_was_given_and_nothing_else(drawn: Drawn, tmp_path: Path) -> None:
    place = copied(drawn, tmp_path)
    rows = drawn.reader.videos().to_pylist()
    lance.dataset(f"{place}/videos.lance").update(
        {"uri": "'/etc/passwd'"}, where=f"video_id = '{rows[0]['video_id']}'"
    )
    folder = str(Path(rows[1]["uri"]).parent)
    cases = [
        # The archive's own address has a record, a copy's has none.
        (ServeConfig(drawn.place), {rows[0]["video_id"]: 200, rows[1]["video_id"]: 200}),
        (ServeConfig(place), {rows[0]["video_id"]: 403, rows[1]["video_id"]: 403}),
        (
            ServeConfig(place, media_roots=(folder,)),
            {rows[0]["video_id"]: 403, rows[1]["video_id"]: 200},
        ),
        (ServeConfig(drawn.place, media_roots=()), {rows[1]["video_id"]: 403}),
    ]
    for config, answers in cases:
        with TestClient(make_app(config), base_url="http://127.0.0.1:8000") as client:
            for video, status in answers.items():
                answer = client.get(f"/api/videos/{video}/media")
                assert answer.status_code == status
                if status == 403:
                    assert answer.json()["kind"] == "media_not_served"
                    assert "--media-root" in answer.json()["message"]
                    assert client.get(f"/api/videos/{video}/thumbnail").status_code == 200
