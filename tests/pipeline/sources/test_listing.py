"""Listing sources: what is found, in which order, and what is said about the rest."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources.backends import open_backend
from malmm.pipeline.sources.listing import SourceFile, is_gone, list_sources


def put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def uris(*sources: str | Path) -> list[str]:
    found = list(list_sources([str(source) for source in sources]))
    assert all(isinstance(item, SourceFile) for item in found), found
    return [item.uri for item in found]


def error(*sources: str | Path) -> str:
    (found,) = list_sources([str(source) for source in sources])
    assert isinstance(found, SourceError)
    return found.message


def test_a_file_whatever_its_extension(tmp_path: Path) -> None:
    path = put(tmp_path / "a.dat", b"12345")
    (found,) = list_sources([str(path)])
    assert found == SourceFile(str(path), 5, f"5-{path.stat().st_mtime_ns}")


def test_paths_are_absolute_and_normal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.mp4")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    expected = str(tmp_path / "a.mp4")
    assert uris("a.mp4") == [expected]
    assert uris("sub/../a.mp4") == [expected]
    assert uris("./sub//..//*.mp4") == [expected]
    assert uris(f"file://{expected}") == [expected]


def test_a_directory_is_walked_in_order_without_what_is_hidden(tmp_path: Path) -> None:
    names = ["b.mp4", "a.MKV", "c/d/e.webm", "notes.txt", ".hidden.mp4", ".git/x.mp4", "c/._d.mp4"]
    for name in names:
        put(tmp_path / name)
    assert uris(tmp_path) == [str(tmp_path / name) for name in ("a.MKV", "b.mp4", "c/d/e.webm")]


def test_globs(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.txt", "c.dat", "sub/d.mp4", "sub/deep/e.mp4"):
        put(tmp_path / name)
    assert uris(tmp_path / "*.mp4") == [str(tmp_path / "a.mp4")]
    assert uris(tmp_path / "*.dat") == [str(tmp_path / "c.dat")]
    everywhere = [str(tmp_path / name) for name in ("a.mp4", "sub/d.mp4", "sub/deep/e.mp4")]
    assert uris(tmp_path / "**" / "*.mp4") == everywhere
    assert uris(tmp_path / "**") == everywhere
    assert uris(tmp_path / "*") == everywhere
    assert uris(tmp_path / "[ab].mp4") == [str(tmp_path / "a.mp4")]


@pytest.mark.parametrize(
    "name",
    ["a b.mp4", "é 映画.mp4", "two\nlines.mp4", "clip [1080p].mp4", "what?.mp4", "100%.mp4", "a:b.mp4"],
)
def test_any_name(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / "some [dir]" / name)
    assert uris(path) == [str(path)]
    assert uris(path.parent) == [str(path)]


@pytest.mark.parametrize(
    "name", ["a b.mp4", "a%20b.mp4", "100%.mp4", "é#?.mp4", "%.mp4", "%2F.mp4", "a+b.mp4"]
)
def test_a_file_address_means_the_path_that_it_encodes(tmp_path: Path, name: str) -> None:
    wanted = put(tmp_path / name)
    for other in ("a b.mp4", "a%20b.mp4"):
        put(tmp_path / other)
    assert uris(wanted.as_uri()) == [str(wanted)]
    assert uris(wanted.as_uri().replace("file://", "file://localhost")) == [str(wanted)]
    (tmp_path / "list.csv").write_text(f"uri\n{wanted.as_uri()}\n")
    assert uris((tmp_path / "list.csv").as_uri()) == [str(wanted)]
    assert not is_gone(wanted.as_uri())


def test_a_file_address_without_escapes_stays_what_it_was(tmp_path: Path) -> None:
    odd = put(tmp_path / "a%20b.mp4")
    assert uris(f"file://{odd}") == [str(odd)]


def test_a_name_that_is_not_unicode_is_told(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff.mp4"
    Path(os.fsdecode(raw)).write_bytes(b"x")
    assert "rename" in error(tmp_path)


def test_a_file_reached_twice_is_given_once(tmp_path: Path) -> None:
    path = put(tmp_path / "a.mp4")
    (tmp_path / "link.mp4").symlink_to(path)
    (tmp_path / "z").symlink_to(tmp_path)
    assert uris(path, tmp_path, tmp_path / "*.mp4", f"file://{path}", tmp_path / "z") == [str(path)]


def test_links_are_kept_as_they_are_named(tmp_path: Path) -> None:
    path = put(tmp_path / "store" / "a.mp4")
    link = tmp_path / "link.mp4"
    link.symlink_to(path)
    assert uris(link) == [str(link)]


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    put(tmp_path / "a" / "x.mp4")
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to("self")
    assert uris(tmp_path) == [str(tmp_path / "a" / "x.mp4")]


def test_nothing_there(tmp_path: Path) -> None:
    assert error(tmp_path / "none") == f"no such file or directory: {tmp_path}/none"
    assert error(tmp_path / "none*.mp4") == f"no file matches {tmp_path}/none*.mp4"
    assert "empty" in error(tmp_path)
    assert "empty" in error("")


def test_nothing_that_is_a_video(tmp_path: Path) -> None:
    for number in range(12):
        put(tmp_path / f"{number}.txt")
    assert f"{tmp_path} holds 12 files but none with a video extension (.mp4, .mkv" in error(tmp_path)
    assert "12 files" in error(tmp_path / "*")


def test_a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    assert "link to nothing" in error(tmp_path / "gone.mp4")
    assert "cannot be reached" in error(tmp_path)


@pytest.mark.needs("ordinary user")
def test_a_directory_that_may_not_be_read(tmp_path: Path) -> None:
    put(tmp_path / "locked" / "a.mp4")
    put(tmp_path / "z.mp4")
    (tmp_path / "locked").chmod(0)
    try:
        found = list(list_sources([str(tmp_path)]))
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert isinstance(found[0], SourceError)
    assert "permission" in found[0].message.lower()
    assert isinstance(found[1], SourceFile)


def test_an_unreadable_directory_without_permissions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "locked" / "a.mp4")
    put(tmp_path / "z.mp4")
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list(list_sources([str(tmp_path)]))
    assert isinstance(found[0], SourceError)
    assert "Permission denied" in found[0].message
    assert isinstance(found[1], SourceFile)


@pytest.mark.parametrize("source", ["", "*", "**", "**/*.mp4", "*/*/a.mp4", "*/*/*.mp4"])
def test_every_folder_that_cannot_be_listed_is_a_failure(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("x/locked/a.mp4", "x/open/a.mp4", "y/z/a.mp4"):
        put(tmp_path / name)
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("locked"):
            raise OSError(5, "Input/output error", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = list(list_sources([str(tmp_path / source)]))
    listed = [item.uri for item in found if isinstance(item, SourceFile)]
    assert listed[-2:] == [str(tmp_path / name) for name in ("x/open/a.mp4", "y/z/a.mp4")]
    if source != "*/*/a.mp4":
        assert "Input/output error" in next(item.message for item in found if isinstance(item, SourceError))


def test_a_folder_too_deep_for_its_path_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.mp4")
    monkeypatch.chdir(tmp_path)
    for _ in range(20):
        Path("d" * 250).mkdir()
        os.chdir("d" * 250)
    for source in (str(tmp_path), f"{tmp_path}/**", f"{tmp_path}/**/*.mp4"):
        found = list(list_sources([source]))
        assert {type(item) for item in found} == {SourceFile, SourceError}
        assert len(found) == 2
        assert any("File name too long" in str(item) for item in found)


def test_errors_do_not_stop_the_rest(tmp_path: Path) -> None:
    path = put(tmp_path / "a.mp4")
    found = list(
        list_sources([str(tmp_path / "none"), str(path), "nosuchscheme://x/y", str(tmp_path / "b*")])
    )
    assert [type(item) for item in found] == [SourceError, SourceFile, SourceError, SourceError]
    assert "nosuchscheme" in found[2].uri


def test_listing_is_lazy(tmp_path: Path) -> None:
    for number in range(5):
        put(tmp_path / str(number) / "a.mp4")
    endless = itertools.chain([str(tmp_path)], itertools.repeat(str(tmp_path / "none")))

    class Endless(list[str]):
        def __iter__(self):
            return endless

    found = list(itertools.islice(list_sources(Endless()), 7))
    assert [type(item) for item in found] == [SourceFile] * 5 + [SourceError] * 2


def test_other_schemes_keep_their_address() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("a.mp4", "sub/b.mkv", "sub/c.txt", ".hidden/d.mp4"):
        memory.pipe(f"/videos/{name}", b"12345")
    try:
        found = list(list_sources(["memory://videos"]))
        assert [item.uri for item in found] == ["memory:///videos/a.mp4", "memory:///videos/sub/b.mkv"]
        assert isinstance(found[0], SourceFile)
        assert found[0].size_bytes == 5
        assert found[0].fingerprint.startswith("5-")
        assert [item.uri for item in list_sources(["memory://videos/*.mp4"])] == ["memory:///videos/a.mp4"]
        assert [item.uri for item in list_sources(["memory://videos/sub/b.mkv"])] == [
            "memory:///videos/sub/b.mkv"
        ]
        (missing,) = list_sources(["memory://none"])
        assert isinstance(missing, SourceError)
    finally:
        memory.rm("/videos", recursive=True)


def test_a_manifest_lists_files_with_what_it_says_of_them(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"video")
    (tmp_path / "folder").mkdir()
    rows = [
        {"uri": "a.mp4", "title": "one"},
        {"uri": "none.mp4"},
        {"uri": "folder"},
        {"uri": "memory://none.mp4"},
        {"uri": "nonsense://a.mp4"},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    first, *others = list_sources([str(tmp_path / "list.jsonl")])
    assert isinstance(first, SourceFile)
    assert (first.uri, first.size_bytes, first.metadata) == (str(tmp_path / "a.mp4"), 5, '{"title": "one"}')
    [plain] = list_sources([str(tmp_path / "a.mp4")])
    assert isinstance(plain, SourceFile)
    assert first.fingerprint == plain.fingerprint
    said = [str(error) for error in others]
    assert len(said) == 4
    for text, part in zip(
        said, ("cannot be reached", "is not a file", "no such file", "cannot be reached"), strict=True
    ):
        assert part in text


def test_a_manifest_in_an_object_store_lists_files_beside_it() -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/listed/a.mp4", b"video")
    filesystem.pipe("/listed/list.csv", b"uri,title\na.mp4,one\n")
    [file] = list_sources(["memory://listed/list.csv"])
    assert isinstance(file, SourceFile)
    assert file.uri.endswith("listed/a.mp4")
    assert file.metadata == '{"title": "one"}'


def test_only_what_is_surely_not_there_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.touch()
    assert not is_gone(str(path))
    path.unlink()
    assert is_gone(str(path))
    assert is_gone("memory://no/such.mp4")
    assert not is_gone("nonsense://a.mp4")
    assert not is_gone("http://127.0.0.1:9/a.mp4")


class Hosted(MemoryFileSystem):
    """Files on a host that is named in an address and not in a path, as SFTP, FTP and SMB have it."""

    protocol = "hosted"
    store: dict[str, Any] = {}  # noqa: RUF012 - as in the class above
    pseudo_dirs: list[str] = [""]  # noqa: RUF012

    def __init__(self, host: str, **options: Any) -> None:
        super().__init__(**options)
        self.host = host

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return urlsplit(path).path if "://" in path else MemoryFileSystem._strip_protocol(path)

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        host = urlsplit(path).netloc
        return {"host": host} if host else {}


@pytest.mark.parametrize("host", ["films", "films:2222", "me@films"])
@pytest.mark.parametrize(
    "source", ["/b/c.mp4", "/", "/b", "/*/*.mp4", "/**/*.mp4", "/films/a.mp4", "/list.csv"]
)
def test_a_file_that_is_listed_can_be_found_again(host: str, source: str) -> None:
    fsspec.register_implementation("hosted", Hosted, clobber=True)
    files = Hosted("films")
    for path in ("/b/c.mp4", "/films/a.mp4"):
        files.pipe(path, b"video")
    files.pipe("/list.csv", b"uri\nb/c.mp4\n")
    found = list(list_sources([f"hosted://{host}{source}"]))
    assert found
    for item in found:
        assert isinstance(item, SourceFile)
        assert item.uri.startswith(f"hosted://{host}/")
        assert [again.uri for again in list_sources([item.uri])] == [item.uri]
        assert not is_gone(item.uri)


class Caching(Hosted):
    """Files of a backend that keeps what it listed."""

    protocol = "caching"
    store: dict[str, Any] = {}  # noqa: RUF012 - as in the class above
    pseudo_dirs: list[str] = [""]  # noqa: RUF012

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        if path not in self.dircache:
            self.dircache[path] = super().ls(path, detail=True, **options)
        return self.dircache[path] if detail else [entry["name"] for entry in self.dircache[path]]

    def invalidate_cache(self, path: str | None = None) -> None:
        self.dircache.clear()


def test_what_changed_since_the_last_listing_of_this_process_is_noticed() -> None:
    fsspec.register_implementation("caching", Caching, clobber=True)
    files = Caching("host")
    for count in (1, 2, 3):
        files.store.pop(f"/films/{count - 1}.mp4", None)
        files.store[f"/films/{count}.mp4"] = MemoryFile(files, f"/films/{count}.mp4", b"video")
        found = [item.uri for item in list_sources(["caching://host/films"])]
        assert found == [f"caching://host/films/{count}.mp4"]


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("http://[::1]:8000/a.mp4", "http://[::1]:8000/a.mp4"),
        ("https://[2001:db8::7]/a.mp4?x=1", "https://[2001:db8::7]/a.mp4?x=1"),
        ("http://films/a::b.mp4", "http://films/a::b.mp4"),
        ("s3://films/cam::1/a::b.mp4", "films/cam::1/a::b.mp4"),
        ("hosted://films/a::b.mp4", "/a::b.mp4"),
        ("simplecache::memory://films/a.mp4", "/films/a.mp4"),
    ],
)
def test_an_address_is_taken_whole(uri: str, path: str) -> None:
    fsspec.register_implementation("hosted", Hosted, clobber=True)
    assert open_backend(uri).path == path
