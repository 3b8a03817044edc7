from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pyarrow as pa
import pytest

from malmm.pipeline.schema import config, ids, records, tables

DOCUMENTED = {
    "videos": "video_id uri fingerprint duration_s fps width height codec recipe_id indexed_at",
    "segments": "segment_id video_id index start_s end_s frame_count recipe_id",
    "memories": "memory_id segment_id video_id slot start_s end_s timestamp_s frame_count vectors tokens sizes"
    " thumbnail",
    "annotations": "annotation_id video_id segment_id start_s end_s task prompt_name prompt text score mode"
    " model created_at",
    "failures": "video_id segment_id uri stage kind message attempts first_seen last_seen",
}


def test_tables_have_the_documented_columns():
    schemas = tables.table_schemas(256)
    for table, names in DOCUMENTED.items():
        assert set(names.split()) <= set(schemas[table].names), table


def test_what_a_memory_slot_holds():
    schema = tables.memories_schema(256)
    assert schema.field("vectors").type == pa.list_(pa.list_(pa.float16(), 256))
    assert schema.field("tokens").metadata == {b"lance-encoding:blob": b"true"}


@pytest.mark.parametrize("name", ["videos", "segments", "memories", "annotations", "failures", "recipes"])
def test_the_first_column_is_the_key(name):
    field = tables.table_schemas(8)[name].field(0)
    assert field.name == {"memories": "memory_id"}.get(name, f"{name[:-1]}_id")
    assert not field.nullable


def test_ids_are_the_same_in_every_process():
    script = (
        "from malmm.pipeline.schema import ids as r; print(r.segment_id(r.video_id('a'), 'f', 'r', 0, 100))"
    )
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert said.strip() == ids.segment_id(ids.video_id("a"), "f", "r", 0.0, 100.0)


def test_a_segment_is_another_when_anything_that_decides_its_rows_is():
    base = ("video", "fingerprint", "recipe", 0.0, 100.0)
    others = [("other", *base[1:]), *((*base[:i], f"{base[i]}!", *base[i + 1 :]) for i in (1, 2))]
    others += [(*base[:3], 1.0, 100.0), (*base[:4], 99.0)]
    found = {ids.segment_id(*case) for case in [base, *others]}
    assert len(found) == 6
    assert all(re.fullmatch("[0-9a-f]{24}", key) for key in found)
    assert ids.segment_id(*base) == ids.segment_id("video", "fingerprint", "recipe", 0, 99.9999999)


def test_parts_of_an_id_do_not_run_together():
    assert config.stable_id("ab", "c") != config.stable_id("a", "bc")
    assert ids.failure_id("v", None, "probe") != ids.failure_id("v", None, "decode")
    assert ids.failure_id("v", "s", "decode") != ids.failure_id("v", None, "decode")
    assert ids.annotation_id("s", "p", "m", "online") != ids.annotation_id("s", "p", "m", "replay")


def test_memory_ids_sort_by_slot():
    assert sorted(ids.memory_id("s", slot) for slot in (10, 2, 999)) == ["s-0002", "s-0010", "s-0999"]


def test_a_failure_has_the_columns_of_its_table():
    names = [field.name for field in dataclasses.fields(records.Failure)]
    # A traceback goes to the report, and is not stored.
    assert set(names) - {"trace"} | {"failure_id", "attempts", "first_seen", "last_seen"} == set(
        tables.FAILURES.names
    )


@pytest.mark.parametrize("module", [records, config], ids=lambda module: module.__name__)
def test_all_names_what_is_public(module):
    defined = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", module.__name__) == module.__name__
    }
    functions_and_classes = {name for name in defined if callable(getattr(module, name))}
    # Offered again from where they were before they had modules of their own.
    again = {"CAPTION", "Prompt", "stable_id"}
    assert functions_and_classes <= set(module.__all__) <= defined | again
