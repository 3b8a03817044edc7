from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import hypothesis.strategies as st
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from support.drawn_archive import Drawn
from support.media import run_ffmpeg
from support.planted_films import archive_of, film, sampled

from malmm.pipeline.archive.export import caption_file, export, export_captions, export_rows, texts_of
from malmm.pipeline.schema.config import ExportConfig
from malmm.pipeline.schema.errors import ConfigError


def cue(start_s: float, end_s: float, text: str, video_start_s: float = 0.0) -> dict:
    return {"start_s": start_s, "end_s": end_s, "text": text, "video_start_s": video_start_s}


def test_rows_are_those_of_the_archive(drawn: Drawn, tmp_path: Path) -> None:
    texts = texts_of(drawn.reader)
    expected = drawn.reader.annotations().to_pylist()
    assert {row["annotation_id"] for row in texts.to_pylist()} == {row["annotation_id"] for row in expected}
    as_json = [json.loads(line) for line in (export_rows(texts, "jsonl", None) or "").splitlines()]
    as_csv = list(csv.DictReader(io.StringIO(export_rows(texts, "csv", None) or "")))
    export_rows(texts, "parquet", tmp_path / "texts.parquet")
    as_parquet = pq.read_table(tmp_path / "texts.parquet").to_pylist()
    for rows in (as_json, as_csv, as_parquet):
        assert [row["annotation_id"] for row in rows] == texts["annotation_id"].to_pylist()
        assert [row["text"] for row in rows] == texts["text"].to_pylist()
        assert {row["uri"] for row in rows} == set(drawn.reader.videos()["uri"].to_pylist())
    export_rows(texts, "csv", tmp_path / "texts.csv")
    written = io.StringIO((tmp_path / "texts.csv").read_text())
    assert len(list(csv.DictReader(written))) == texts.num_rows


def test_prompts_videos_and_scopes_are_chosen(drawn: Drawn) -> None:
    [video, *_] = drawn.scenes
    one = texts_of(drawn.reader, videos=[video], prompts=["caption"], scopes=("video",)).to_pylist()
    assert [(row["video_id"], row["segment_id"]) for row in one] == [(video, None)]
    with pytest.raises(ConfigError, match="no texts of a prompt 'people': it has caption"):
        texts_of(drawn.reader, prompts=["people"])


def test_texts_of_what_is_left_out_are_not_exported(tmp_path: Path) -> None:
    slots = sampled(film(1, 40))
    made = archive_of(tmp_path / "archive", {f"/videos/{name}.mp4": slots for name in "abcd"})
    copies = tmp_path / "copies.csv"
    copies.write_text(
        "uri,start_s,end_s,whole\n"
        "/videos/a.mp4,0,1,True\n"
        "/videos/b.mp4,0,20,False\n"
        "/videos/c.mp4,0,10,False\n"
    )
    report = export(ExportConfig(made.root, "jsonl", leave_out=str(copies)))
    rows = [json.loads(line) for line in (report.text or "").splitlines()]
    # Each text is about forty seconds.
    assert [row["uri"] for row in rows] == ["/videos/c.mp4", "/videos/d.mp4"]
    assert report.texts == 2


def test_parquet_is_not_for_a_terminal(drawn: Drawn) -> None:
    with pytest.raises(ConfigError, match="--output"):
        export_rows(texts_of(drawn.reader), "parquet", None)


@pytest.mark.parametrize("kind", ["vtt", "srt"])
def test_ffmpeg_reads_the_captions(drawn: Drawn, tmp_path: Path, kind: str) -> None:
    texts = texts_of(drawn.reader, scopes=("segment",))
    written = export_captions(texts, kind, tmp_path / "captions")
    assert sorted(path.name for path in written) == [f"{number}.{kind}" for number in range(3)]
    run_ffmpeg("-i", written[0], tmp_path / "read.srt")
    read = (tmp_path / "read.srt").read_text()
    first = [row["text"] for row in texts.to_pylist() if row["uri"].endswith("/0.mp4")]
    assert all(text in read for text in first)
    assert "00:00:00,000 --> 00:00:20,000" in read


def test_cues_count_from_the_first_frame() -> None:
    said = caption_file([cue(65, 70, "late", video_start_s=5)], "srt")
    assert said == "1\n00:01:00,000 --> 00:01:05,000\nlate\n"


def test_what_looks_like_markup_is_text() -> None:
    said = caption_file([cue(0, 1, "a <b>bold\n\n--> 1 & only")], "vtt")
    assert said == "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\na &lt;b&gt;bold --&gt; 1 &amp; only\n"
    assert "-->" not in caption_file([cue(0, 1, "a --> b")], "srt").splitlines()[2]


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0.001, 1e4), st.text(max_size=30)), max_size=20))
def test_every_text_is_one_cue_in_order_of_time(texts: list[tuple[float, float, str]]) -> None:
    rows = [cue(begin, begin + length, text) for begin, length, text in texts]
    for kind, head in (("vtt", 1), ("srt", 0)):
        blocks = caption_file(rows, kind).split("\n\n")
        cues = [block for block in blocks[head:] if block.strip()]
        assert len(cues) == sum(bool(text.split()) for _, _, text in texts)
        times = [block.split("\n")[0 if kind == "vtt" else 1].split(" --> ")[0] for block in cues]
        assert times == sorted(times)


def test_videos_that_are_called_alike_get_files_of_their_own(drawn: Drawn, tmp_path: Path) -> None:
    texts = texts_of(drawn.reader, scopes=("segment",))
    place = texts.schema.get_field_index("uri")
    alike = texts.set_column(place, "uri", [["/a/film.mp4"] * texts.num_rows])
    written = export_captions(alike, "vtt", tmp_path)
    assert sorted(path.name for path in written) == sorted(f"film-{video}.vtt" for video in drawn.scenes)


def test_every_video_gets_a_file_that_can_be_made(drawn: Drawn, tmp_path: Path) -> None:
    """Names alike but for their case, too long for a file, and of no video's own."""
    texts = texts_of(drawn.reader, scopes=("video",))
    place = texts.schema.get_field_index("uri")
    odd = ["/a/Film.mp4", "/b/film.mp4", f"/c/{'ü' * 150}.mp4"]
    written = export_captions(texts.set_column(place, "uri", [odd]), "srt", tmp_path)
    assert len({path.name.casefold() for path in written}) == len(odd)
    assert all(path.is_file() for path in written)
