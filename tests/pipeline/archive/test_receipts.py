from __future__ import annotations

import pickle

import lance
import pyarrow as pa
import pytest
from support.archive_rows import RECIPE, VECTOR_SIZE, annotation, annotation_table, rows, segment

from malmm.pipeline.archive.receipts import conform, write_fragments, write_rows
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ArchiveError
from malmm.pipeline.schema.receipt_type import RECEIPT, Receipt
from malmm.pipeline.schema.tables import SEGMENTS


@pytest.fixture
def archive(tmp_path):
    return Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)


def test_written_rows_are_invisible_until_committed(archive):
    receipts = write_rows(archive.uri, rows(0, 1))
    assert [receipt.segment_id for receipt in receipts] == [segment(0), segment(1)]
    assert [receipt.memory_count for receipt in receipts] == [3, 3]
    assert [archive.count(name) for name in ("memories", "annotations", "segments")] == [0, 0, 0]
    archive.commit(receipts)
    assert [archive.count(name) for name in ("memories", "annotations", "segments")] == [6, 2, 2]


def test_a_receipt_survives_arrow_and_pickle(archive):
    (receipt,) = write_rows(archive.uri, rows(0))
    assert Receipt(**pa.array([vars(receipt)], RECEIPT)[0].as_py()) == receipt
    assert pickle.loads(pickle.dumps(receipt)) == receipt  # noqa: S301
    assert pa.table(receipt.segment_rows()).equals(rows(0)["segments"])
    assert pa.table(receipt.annotation_rows()).equals(rows(0)["annotations"])


def test_a_receipt_carries_its_own_rows_only(archive):
    few = write_rows(archive.uri, rows(0))[0]
    many = write_rows(archive.uri, rows(*range(50)))[0]
    assert len(pickle.dumps(many)) < 1.1 * len(pickle.dumps(few))


def test_a_segment_without_memory_or_texts_has_a_receipt(archive):
    (receipt,) = write_rows(archive.uri, {"segments": rows(0)["segments"]})
    assert receipt.memories == ()
    assert archive.commit([receipt]).segment_ids == (segment(0),)


def test_fragments_are_lance_metadata_as_json(archive):
    fragments = write_fragments(archive.uri, "segments", rows(0, 1)["segments"])
    assert [lance.FragmentMetadata.from_json(text).physical_rows for text in fragments] == [2]
    assert write_fragments(archive.uri, "segments", SEGMENTS.empty_table()) == []


def test_conform_casts_orders_and_fills(archive):
    table = rows(0)["segments"]
    loose = table.set_column(2, "index", table["index"].cast(pa.int64())).select(table.column_names[::-1])
    assert conform(loose, SEGMENTS, "segments", "x").equals(table)
    schema = pa.schema([pa.field("a", pa.int32()), pa.field("b", pa.string())])
    filled = conform(pa.table({"a": [1]}), schema, "t", "x")
    assert filled.to_pylist() == [{"a": 1, "b": None}]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop_columns(["frame_count"]), "column 'frame_count' is missing"),
        (lambda t: t.append_column("extra", pa.array([1])), "column 'extra' is not in its schema"),
        (
            lambda t: t.set_column(2, "index", pa.array(["first"])),
            "column 'index' is string and cannot become",
        ),
        (lambda t: t.set_column(2, "index", pa.array([2**40])), "column 'index' is int64 and cannot become"),
        (lambda t: t.set_column(2, "index", pa.array([None], pa.int32())), "column 'index' has nulls"),
    ],
)
def test_rows_that_do_not_fit_are_refused_by_column(archive, change, said):
    with pytest.raises(ArchiveError, match="table 'segments' of") as caught:
        write_rows(archive.uri, {"segments": change(rows(0)["segments"])})
    assert said in str(caught.value)
    assert caught.value.uri == archive.uri


def test_vectors_of_another_length_are_refused(archive):
    tables = rows(0)
    wrong = pa.array([[[1.0, 2.0]]] * 3, pa.list_(pa.list_(pa.float16(), 2)))
    place = tables["memories"].schema.get_field_index("vectors")
    tables["memories"] = tables["memories"].set_column(place, "vectors", wrong)
    with pytest.raises(ArchiveError, match="column 'vectors'"):
        write_rows(archive.uri, tables)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"memories": rows(0)["memories"]}, "there are no segments"),
        (rows(0) | {"videos": rows(0)["segments"]}, "table 'videos' cannot be written with a segment"),
        (rows(0) | {"memories": rows(1)["memories"]}, "not among the segments"),
        (rows(0) | {"annotations": annotation_table(annotation(None, subject="v"))}, "segment_id None"),
        (rows(0, 0), "two rows have the same segment_id"),
        (rows(0) | {"memories": rows(0, 0)["memories"]}, "two rows have the same memory_id"),
        (rows(0) | {"annotations": rows(0, 0)["annotations"]}, "two rows have the same annotation_id"),
    ],
)
def test_tables_that_contradict_each_other_are_refused(archive, tables, said):
    with pytest.raises(ArchiveError, match=said):
        write_rows(archive.uri, tables)


def test_writing_where_there_is_no_archive(tmp_path):
    with pytest.raises(ArchiveError, match="no archive at"):
        write_rows(str(tmp_path), rows(0))
    with pytest.raises(ArchiveError, match="no table 'segments'"):
        write_fragments(str(tmp_path), "segments", rows(0)["segments"])
