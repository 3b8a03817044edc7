"""Tables of other programs become texts: each row once, and each row that cannot be stored a sentence."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from support.archive_contents import versions
from support.listed_videos import knowing
from support.processes import run_here

from malmm.pipeline.archive import import_annotations as module
from malmm.pipeline.archive.export import export
from malmm.pipeline.archive.foreign_tables import read_foreign
from malmm.pipeline.archive.import_annotations import ImportConfig, import_annotations
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.config import ExportConfig
from malmm.pipeline.schema.errors import ConfigError

ROWS: list[dict[str, Any]] = [
    {"video": "a.mp4", "start_s": 1.0, "end_s": 2.0, "task": "ocr", "text": "EXIT", "score": 0.5},
    {"video": "/videos/b.mp4", "start_s": 3.0, "end_s": 4.5, "task": "ocr", "text": "EXIT", "score": 0.25},
]


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return knowing(tmp_path / "archive", "/videos/a.mp4", "/videos/b.mp4", "/more/b.mp4")


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ";")
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


def stored(archive: Archive) -> list[tuple[Any, ...]]:
    names = ("start_s", "end_s", "task", "prompt_name", "text", "score", "source", "origin")
    return sorted(tuple(row[name] for name in names) for row in archive.annotations().to_pylist())


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_every_kind_of_table_goes_in_once(archive: Archive, tmp_path: Path, ending: str) -> None:
    table = write(tmp_path / f"found.{ending}", ROWS)
    report = import_annotations(ImportConfig(archive.root, table))
    assert (report.exit_code, report.rows, report.new, report.problems) == (0, 2, 2, [])
    origin = f"found.{ending}"
    assert stored(archive) == [
        (1.0, 2.0, "imported", "ocr", "EXIT", 0.5, "file", origin),
        (3.0, 4.5, "imported", "ocr", "EXIT", 0.25, "file", origin),
    ]
    before = versions(archive, "annotations")
    again = import_annotations(ImportConfig(archive.root, table))
    assert (again.new, again.changed, again.unchanged) == (0, 0, 2)
    assert versions(archive, "annotations") == before


def test_a_corrected_row_takes_the_place_of_the_old_also_when_it_comes_in_parts(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ROWS_A_COMMIT", 2)
    rows = [ROWS[0] | {"text": f"text {n}", "source": "easyocr"} for n in range(5)]
    import_annotations(ImportConfig(archive.root, write(tmp_path / "one.jsonl", rows)))
    rows[3]["text"] = "corrected"
    # Named by its source, the table may be called anything.
    report = import_annotations(ImportConfig(archive.root, write(tmp_path / "two.csv", rows)))
    assert (report.new, report.changed, report.unchanged) == (0, 1, 4)
    assert [row[4] for row in stored(archive)] == ["corrected", "text 0", "text 1", "text 2", "text 4"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"video": "c.mp4"}, "the archive holds no video 'c.mp4'"),
        ({"video": "b.mp4"}, "several videos of the archive are called 'b.mp4'"),
        ({"video": ""}, "it names no video"),
        ({"text": " "}, "it has no text"),
        ({"text": "x" * 100_001}, "its text has 100001 characters"),
        ({"task": "=cmd"}, "its task '=cmd' is not usable"),
        ({"start_s": "soon"}, "its start 'soon' is no number"),
        ({"start_s": "nan"}, "its start 'nan' is no number"),
        ({"start_s": 20}, "it begins at 20 s, and the video ends at 10 s"),
        ({"start_s": -3, "end_s": -1}, "it ends at -1 s, and the video begins at 0 s"),
        ({"start_s": 3}, "it ends at 2 s, before it begins at 3 s"),
        ({"score": "high"}, "its score 'high' is no number"),
        ({"span": "from here"}, "its span 'from here' is no pair of times"),
    ],
)
def test_a_row_that_cannot_be_stored_is_named_and_the_others_go_in(
    archive: Archive, tmp_path: Path, values: dict[str, Any], sentence: str
) -> None:
    table = write(
        tmp_path / "t.csv",
        [{"span": "", **ROWS[0]}, {"span": "", **ROWS[0], **values}, {"span": "", **ROWS[1]}],
    )
    done = run_here("import-annotations", table, "--archive", archive.root, "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["new"], told["left_out"]) == (3, 2, 1)
    assert told["problems"][0].startswith(f"{table}, row 3: {sentence}")


@pytest.mark.parametrize(
    ("values", "span_s"),
    [
        ({"span": "0:01.5-0:02"}, (1.5, 2.0)),
        ({"span": [1, 2.5]}, (1.0, 2.5)),
        ({"span": {"start_s": 1, "end_s": 2}}, (1.0, 2.0)),
        ({"start": "0:00:01", "end": 3}, (1.0, 3.0)),
        ({"start_s": 9, "end_s": 99}, (9.0, 10.0)),
        ({"start_s": -4, "end_s": 2}, (0.0, 2.0)),
        ({}, (0.0, 10.0)),
    ],
)
def test_spans_are_written_in_many_ways(
    archive: Archive, tmp_path: Path, values: dict[str, Any], span_s: tuple[float, float]
) -> None:
    table = write(tmp_path / "t.jsonl", [{"uri": "/videos/a.mp4", "label": "x", **values}])
    assert import_annotations(ImportConfig(archive.root, table, "tag")).problems == []
    assert [row[:4] for row in stored(archive)] == [(*span_s, "imported", "tag")]


def test_what_is_exported_comes_back_and_formulas_are_no_formulas(archive: Archive, tmp_path: Path) -> None:
    rows = [ROWS[0] | {"text": "=HYPERLINK(1)", "task": "transcript", "language": "en", "speaker": "@Ada"}]
    import_annotations(ImportConfig(archive.root, write(tmp_path / "t.jsonl", rows)))
    told = export(ExportConfig(archive.root, "csv", str(tmp_path / "out.csv")))
    assert told.texts == 1
    assert "'=HYPERLINK(1)" in (tmp_path / "out.csv").read_text()
    assert "'@Ada" in (tmp_path / "out.csv").read_text()
    other = knowing(tmp_path / "other", "/videos/a.mp4")
    import_annotations(ImportConfig(other.root, str(tmp_path / "out.csv")))
    [row] = other.annotations().to_pylist()
    assert (row["text"], row["speaker"], row["task"], row["language"]) == (
        "=HYPERLINK(1)",
        "@Ada",
        "transcript",
        "en",
    )


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.xlsx", b"", "is of no kind that can be imported"),
        ("t.csv", b"video,text\n\xff\xfe,x\n", "is not in UTF-8 (byte 11): save it as UTF-8"),
        ("t.parquet", b"no", "cannot be read"),
        ("gone.csv", None, "cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_table_is_refused_whole(
    archive: Archive, tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = run_here("import-annotations", tmp_path / name, "--archive", archive.root)
    assert done.returncode == 2
    assert sentence in done.stderr


@given(st.binary(max_size=300), st.sampled_from(["csv", "jsonl"]))
def test_any_bytes_are_rows_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, ending: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"any.{ending}"
    path.write_bytes(data)
    try:
        found = list(read_foreign(str(path)))
    except ConfigError as error:
        found = [(f"row 1 of {error}", "")] if str(path) in str(error) else [("", "")]
    assert all(place.startswith("row ") for place, _ in found)
