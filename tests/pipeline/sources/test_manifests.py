"""Manifests of every kind give the same rows, and a bad row costs itself alone."""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from csv import field_size_limit
from datetime import date
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources.manifests import Listed, read_manifest


def csv(path: Path, rows: list[dict[str, str]]) -> Path:
    pa.csv.write_csv(pa.Table.from_pylist(rows), path.with_suffix(".csv"))
    return path.with_suffix(".csv")


def parquet(path: Path, rows: list[dict[str, str]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    path.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return path.with_suffix(".jsonl")


Write = Callable[[Path, list[dict[str, str]]], Path]
WRITERS = (csv, parquet, jsonl)
WORDS = st.text(string.ascii_letters + " ,;'\"éß", min_size=1, max_size=20).filter(
    lambda text: text.strip() == text
)


def test_a_long_description_is_read_and_the_programs_own_limit_for_csv_stays(tmp_path: Path) -> None:
    rows = [{"uri": f"{number}.mp4", "title": "long " * 60_000} for number in range(2)]
    limit = field_size_limit(1000)
    try:
        for found in read_manifest(str(csv(tmp_path / "list", rows))):
            assert isinstance(found, Listed)
            assert json.loads(found.metadata)["title"] == rows[0]["title"]
            assert field_size_limit() == 1000
    finally:
        field_size_limit(limit)


def test_manifests_that_are_read_at_once_leave_the_programs_own_limit_too(tmp_path: Path) -> None:
    """Threads that take turns at each step: what one found, another may have set."""
    path = str(csv(tmp_path / "list", [{"uri": f"{number}.mp4", "title": "a"} for number in range(300)]))
    limit, interval = field_size_limit(1000), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(lambda each: len(list(read_manifest(each))), [path] * 32)) == {300}
        assert field_size_limit() == 1000
    finally:
        sys.setswitchinterval(interval)
        field_size_limit(limit)


@given(
    rows=st.lists(
        st.fixed_dictionaries({"uri": WORDS, "title": WORDS, "place": st.one_of(st.just(""), WORDS)}),
        min_size=1,
    )
)
def test_every_kind_of_manifest_says_the_same(
    rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    for write in WRITERS:
        found = list(read_manifest(str(write(folder / "list", rows))))
        for row, listed in zip(rows, found, strict=True):
            assert isinstance(listed, Listed)
            assert listed.uri == f"{folder}/{row['uri']}"
            assert json.loads(listed.metadata) == {key: row[key] for key in ("title", "place") if row[key]}


@pytest.mark.parametrize("write", WRITERS)
def test_addresses_count_from_the_manifest(write: Write, tmp_path: Path) -> None:
    given_ = ["a.mp4", "deep/b.mp4", "/films/c.mp4", "s3://films/d.mp4"]
    found = list(read_manifest(str(write(tmp_path / "list", [{"uri": uri} for uri in given_]))))
    wanted = [f"{tmp_path}/a.mp4", f"{tmp_path}/deep/b.mp4", "/films/c.mp4", "s3://films/d.mp4"]
    assert found == [Listed(uri, "") for uri in wanted]


def test_what_json_cannot_hold_is_put_in_words(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "uri": "a.mp4",
        "day": date(2026, 1, 2),
        "key": b"\x01",
        "score": float("nan"),
        "tags": ["x"],
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "list.parquet")
    [listed] = read_manifest(str(tmp_path / "list.parquet"))
    assert isinstance(listed, Listed)
    assert json.loads(listed.metadata) == {"day": "2026-01-02", "key": "01", "score": "nan", "tags": ["x"]}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "path,title\na.mp4,one\n", r"no column 'uri'.*columns: path, title"),
        ("a.csv", "", "no column 'uri'"),
        ("a.csv", "uri,title\n", "it has no row"),
        ("a.jsonl", "", "it has no row"),
        ("a.parquet", "not parquet", "cannot be read as a manifest"),
        ("a.csv", 'uri\n"a\n', "cannot be read as a manifest"),
        ("a.jsonl", b"\xff\xfe\xfa", "cannot be read as a manifest"),
    ],
)
def test_a_manifest_that_is_none_is_an_error(name: str, text: str | bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    [error] = read_manifest(str(path))
    assert isinstance(error, SourceError)
    with pytest.raises(SourceError, match=said):
        raise error


def test_a_manifest_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    [error] = read_manifest(str(tmp_path / "none.csv"))
    assert str(error) == f"no such file or directory: {tmp_path}/none.csv"


def test_a_bad_row_costs_itself_alone(tmp_path: Path) -> None:
    lines = [
        '{"uri": "a.mp4"}',
        "nonsense",
        "[1]",
        '{"title": "no address"}',
        '{"uri": 7}',
        '{"uri": "b.mp4"}',
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    found = list(read_manifest(str(tmp_path / "list.jsonl")))
    assert [row.uri for row in found if isinstance(row, Listed)] == [f"{tmp_path}/a.mp4", f"{tmp_path}/b.mp4"]
    said = [str(row) for row in found if isinstance(row, SourceError)]
    assert [text.split(" of ")[0] for text in said] == ["row 2", "row 3", "row 4", "row 5"]
    (tmp_path / "list.csv").write_text("uri,title\na.mp4,one\nb.mp4,two,three\n,four\nc.mp4\n")
    found = list(read_manifest(str(tmp_path / "list.csv")))
    assert [type(row) for row in found] == [Listed, SourceError, SourceError, Listed]


def test_a_mark_at_the_beginning_is_no_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"\xef\xbb\xbfuri,title\r\na.mp4,one\r\n")
    assert list(read_manifest(str(tmp_path / "list.csv"))) == [
        Listed(f"{tmp_path}/a.mp4", '{"title": "one"}')
    ]
