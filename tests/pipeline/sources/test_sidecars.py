"""Subtitle files are found by their names, beside local and remote videos."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources.sidecars import Sidecar, language_of, list_sidecars

ENDINGS = ("srt", "vtt")


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("talk.srt", ""),
        ("talk.mp4.srt", ""),
        ("talk.de.srt", "de"),
        ("talk.pt_BR.forced.vtt", "pt-BR"),
        ("talk.sdh.srt", ""),
        ("talk.part2.srt", None),
        ("talk.de.fr.srt", None),
        ("talks.srt", None),
        ("other.srt", None),
    ],
)
def test_a_name_says_whose_subtitles_they_are_and_in_which_language(name: str, language: str | None) -> None:
    assert language_of("talk.mp4", name) == language


def test_each_video_gets_its_own(tmp_path: Path) -> None:
    for name in ("talk.srt", "talk.de.vtt", "talk.part2.srt", "talk.txt", "else.srt"):
        (tmp_path / name).write_text("x")
    videos = [str(tmp_path / "talk.mp4"), str(tmp_path / "talk.part2.mkv"), str(tmp_path / "mute.mp4")]
    found = [each for each in list_sidecars(videos, ENDINGS) if isinstance(each, Sidecar)]
    assert {(Path(each.video_uri).name, Path(each.uri).name, each.language) for each in found} == {
        ("talk.mp4", "talk.srt", ""),
        ("talk.mp4", "talk.de.vtt", "de"),
        ("talk.part2.mkv", "talk.part2.srt", ""),
    }
    before = {each.uri: each.fingerprint for each in found}
    (tmp_path / "talk.srt").write_text("changed")
    after = {
        each.uri: each.fingerprint for each in list_sidecars(videos, ENDINGS) if isinstance(each, Sidecar)
    }
    assert {Path(uri).name for uri in before if before[uri] != after[uri]} == {"talk.srt"}


def test_a_folder_that_is_gone_is_a_sentence_and_the_others_are_listed(tmp_path: Path) -> None:
    (tmp_path / "talk.srt").write_text("x")
    found = list(list_sidecars([str(tmp_path / "gone" / "a.mp4"), str(tmp_path / "talk.mp4")], ENDINGS))
    assert [type(each) for each in found] == [SourceError, Sidecar]
    assert "gone cannot be listed: No such file or directory" in str(found[0])


def test_object_stores_are_listed_and_web_servers_are_not() -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/sidecars/talk.en.srt", b"x")
    uris = ["memory://sidecars/talk.mp4", "https://example.invalid/talk.mp4"]
    try:
        [found] = list_sidecars(uris, ENDINGS)
    finally:
        store.rm("/sidecars", recursive=True)
    assert isinstance(found, Sidecar)
    assert (found.video_uri, found.language) == (uris[0], "en")
    assert found.uri.endswith("/sidecars/talk.en.srt")
