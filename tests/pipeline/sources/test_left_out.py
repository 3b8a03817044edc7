"""Lists of what to leave out, in every form that they are written in."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from malmm.pipeline.duplicates.copies import Copies
from malmm.pipeline.duplicates.groups import LeftOut
from malmm.pipeline.duplicates.reports import write_left_out
from malmm.pipeline.duplicates.slot_vectors import VideoRow
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.sources.left_out import read_left_out

VIDEOS = tuple(VideoRow(str(n), f"/videos/{n}.mp4", "archive", 0.0, 100.0, float(n)) for n in range(3))
COPIES = Copies(("archive",), VIDEOS, 60, ())


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_what_is_written_is_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"copies.{ending}"
    rows = [LeftOut(1, ((0.0, 100.0),), True, (0,)), LeftOut(2, ((0.0, 10.0), (50.0, 60.5)), False, (0,))]
    write_left_out(COPIES, rows, path)
    found = read_left_out(str(path))
    assert found.whole == {"/videos/1.mp4"}
    assert found.spans == {"/videos/2.mp4": ((0.0, 10.0), (50.0, 60.5))}


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_a_list_without_copies_leaves_nothing_out(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"copies.{ending}"
    write_left_out(COPIES, [], path)
    found = read_left_out(str(path))
    assert (found.whole, found.spans) == (frozenset(), {})


def test_a_manifest_of_uris_names_whole_videos(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("uri\na.mp4\ns3://bucket/b.mp4\n")
    assert read_left_out(str(path)).whole == {str(tmp_path / "a.mp4"), "s3://bucket/b.mp4"}


def test_half_of_a_span_counts(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text(json.dumps({"uri": "/a.mp4", "start_s": 10, "end_s": 20}) + "\n")
    found = read_left_out(str(path))
    assert found.covers("/a.mp4", 5, 15)
    assert found.covers("/a.mp4", 12, 14)
    assert not found.covers("/a.mp4", 0, 12)
    assert not found.covers("/a.mp4", 15, 15)
    assert not found.covers("/b.mp4", 10, 20)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("list.txt", "uri\n", "name a file that ends in .csv, .parquet, .jsonl, .ndjson"),
        ("list.csv", "path\n/a.mp4\n", "it has no column 'uri'"),
        (
            "list.jsonl",
            '{"uri": "/a.mp4", "start_s": 1}\n',
            "the row of /a.mp4 has no start_s and end_s in seconds",
        ),
        ("list.csv", "uri,start_s,end_s\n/a.mp4,1,later\n", "has no start_s and end_s in seconds"),
        ("gone.csv", None, "no such file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: str | None, sentence: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=sentence):
        read_left_out(str(path))


def test_a_parquet_list_of_another_program(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uri": ["/a.mp4"], "whole": [True]}), tmp_path / "list.parquet")
    assert read_left_out(str(tmp_path / "list.parquet")).whole == {"/a.mp4"}
