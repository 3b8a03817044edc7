"""Texts with spans of their own: stored once, corrected, replaced by track, and exported."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from support.archive_contents import versions
from support.archive_rows import commit_rows, video, video_table

from malmm.pipeline.archive.export import export_captions, export_rows, texts_of
from malmm.pipeline.archive.given_texts import Added
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.given_texts import GivenRows, GivenText, Track

ENGLISH = Track(origin="/videos/0.en.srt", language="en")
GERMAN = Track(origin="/videos/0.de.srt", language="de")
OCR = Track("ocr", origin="tesseract")
SAID = [
    (video(0), ENGLISH, GivenText(1.0, 2.5, "welcome to the harbour", speaker="Ada")),
    (video(0), ENGLISH, GivenText(1.0, 2.5, "two at once")),
    (video(0), GERMAN, GivenText(1.0, 2.5, "Willkommen im Hafen")),
    (video(0), OCR, GivenText(4.0, 5.0, "=HYPERLINK(1)", score=0.5)),
]


@pytest.fixture
def talk(archive: Archive) -> Archive:
    """An archive of one finished video."""
    commit_rows(archive, 0)
    archive.put_videos(video_table(0))
    return archive


def put(archive: Archive, texts: list) -> Added:
    return archive.put_given(GivenRows({video(0): "first"}).of(texts))


def test_texts_are_stored_once_and_corrected(talk: Archive) -> None:
    assert put(talk, SAID) == Added(new=4)
    before = versions(talk, "annotations")
    assert put(talk, SAID) == Added(unchanged=4)
    assert versions(talk, "annotations") == before
    corrected = [*SAID[:2], (video(0), GERMAN, GivenText(1.0, 2.5, "Willkommen am Hafen")), SAID[3]]
    assert put(talk, corrected) == Added(changed=1, unchanged=3)
    texts = [row["text"] for row in talk.annotations().to_pylist() if row["language"] == "de"]
    assert texts == ["Willkommen am Hafen"]


def test_a_track_given_anew_takes_the_place_of_the_old(talk: Archive) -> None:
    put(talk, SAID)
    now = GivenRows({video(0): "first"}).of([(video(0), ENGLISH, GivenText(1.0, 2.5, "welcome"))])
    assert talk.replace_tracks(now, [(video(0), ENGLISH.track_id)]) == Added(changed=1)
    assert [(t.language, t.texts) for t in talk.tracks.tracks(video(0))] == [("de", 1), ("en", 1)]
    assert talk.tracks.texts(video(0), ENGLISH.track_id)[0]["text"] == "welcome"
    assert talk.tracks.texts(video(0), GERMAN.track_id)[0]["text"] == "Willkommen im Hafen"


def test_a_part_of_a_track_that_is_made_anew_takes_the_place_of_what_began_there(talk: Archive) -> None:
    other = Track(origin="other", language="en")
    texts = [
        (video(0), track, GivenText(start_s, start_s + 5, "old"))
        for track in (ENGLISH, other)
        for start_s in (0.0, 8.0, 10.0)
    ]
    rows_of = GivenRows({video(0): "first"}).of
    talk.put_given(rows_of(texts))
    now = rows_of([(video(0), ENGLISH, GivenText(0.0, 3.0, "new"))])
    assert talk.replace_spans(now, [(video(0), ENGLISH.track_id, 0.0, 10.0)]) == Added(new=1)
    assert [(row["start_s"], row["text"]) for row in talk.tracks.texts(video(0), ENGLISH.track_id)] == [
        (0.0, "new"),
        (10.0, "old"),
    ]
    assert len(talk.tracks.texts(video(0), other.track_id)) == 3


def test_they_are_neither_prompts_nor_swept(talk: Archive) -> None:
    put(talk, SAID)
    assert [row["prompt_name"] for row in talk.prompt_versions()] == ["caption"]
    assert talk.sweep() == {"memories": 0, "annotations": 0}
    assert talk.remove_video(video(0))["annotations"] == 5


def test_each_transcript_is_a_caption_file_of_its_own(talk: Archive, tmp_path: Path) -> None:
    put(talk, SAID)
    texts = texts_of(talk, prompts=["transcript"], scopes=("segment", "span"))
    written = {path.name: path.read_text() for path in export_captions(texts, "vtt", tmp_path)}
    assert sorted(written) == ["0.de.vtt", "0.en.vtt"]
    assert "<v Ada>welcome to the harbour" in written["0.en.vtt"]
    assert "00:00:01.000 --> 00:00:02.500\nWillkommen im Hafen" in written["0.de.vtt"]
    with pytest.raises(ConfigError, match="it has caption, ocr, transcript"):
        texts_of(talk, prompts=["speech"])


def test_no_cell_of_a_table_is_a_formula(talk: Archive) -> None:
    put(talk, [(video(0), OCR, GivenText(n, n + 1, f"{sign}1+1")) for n, sign in enumerate("=+-@\t\r")])
    table = csv.DictReader(
        io.StringIO(export_rows(texts_of(talk, prompts=["ocr"]), "csv", None) or "", newline="")
    )
    assert [row["text"] for row in table] == [f"'{sign}1+1" for sign in "=+-@\t\r"]
