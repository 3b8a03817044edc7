from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.archive_rows import RECIPE, VECTOR_SIZE, rows, segment, tokens, video, video_table
from support.task_pages import blocks_of

from malmm.pipeline.archive import table_reader
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.errors import ArchiveError, ConfigError


@pytest.fixture
def archive(tmp_path):
    return Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)


def index(archive, *numbers, **options):
    return archive.commit(write_rows(archive.uri, rows(*numbers, **options)))


def test_memory_comes_back_as_it_went_in(archive):
    index(archive, 0, 1, 2)
    index(archive, 3, slots=1)
    asked = [segment(2), segment(3), segment(9), segment(0)]
    got = list(archive.memory_tokens(asked))
    assert [key for key, _, _ in got] == [segment(2), segment(3), segment(0)]
    for key, values, sizes in got:
        slots = 1 if key == segment(3) else 3
        assert (values.dtype, sizes.dtype) == (np.float16, np.int32)
        np.testing.assert_array_equal(values, tokens(key, slots))
        np.testing.assert_array_equal(sizes, np.repeat(np.arange(1, slots + 1)[:, None], 4, axis=1))
    assert list(archive.memory_tokens([])) == []


def test_frame_counts_are_of_done_segments_in_the_order_asked(archive):
    index(archive, 0, 1)
    asked = [segment(1), segment(9), segment(0), segment(1)]
    assert list(archive.frame_counts(asked).items()) == [(segment(1), 100), (segment(0), 100)]
    assert archive.frame_counts([]) == {}


def test_slots_come_in_order_whatever_order_they_were_written_in(archive):
    written = rows(0)
    written["memories"] = written["memories"].take([2, 0, 1])
    archive.commit(write_rows(archive.uri, written))
    ((_, values, _),) = archive.memory_tokens([segment(0)])
    np.testing.assert_array_equal(values, tokens(segment(0)))
    assert archive.memory_rows([segment(0)], ["slot"]).to_pydict() == {"slot": [0, 1, 2]}


def test_tokens_that_contradict_their_shape(archive):
    written = rows(0)
    wrong = pa.array([[5, 6]] * 3, pa.list_(pa.int32(), 2))
    position = written["memories"].column_names.index("token_shape")
    written["memories"] = written["memories"].set_column(position, "token_shape", wrong)
    archive.commit(write_rows(archive.uri, written))
    with pytest.raises(ArchiveError, match="do not have the shape"):
        list(archive.memory_tokens([segment(0)]))


def test_reading_tokens_reads_little_else(archive):
    index(archive, *range(8), shape=(64, 1024))
    dataset = archive.table("memories").to_lance()
    archive.tables.dataset = lambda name: dataset
    dataset.io_stats_incremental()
    list(archive.memory_tokens([segment(5)]))
    assert dataset.io_stats_incremental().read_bytes < 1.5 * 3 * 64 * 1024 * 2


def test_videos_and_segments_are_in_order(archive):
    index(archive, 2, 0, 1)
    archive.put_videos(video_table(1, 0))
    assert archive.segments(video(0))["index"].to_pylist() == [0, 1, 2]
    assert archive.videos()["video_id"].to_pylist() == [video(0), video(1)]


def test_what_is_no_identifier_does_not_reach_sql(archive):
    with pytest.raises(ConfigError, match="not an identifier"):
        archive.segments("' OR 1=1 --")
    with pytest.raises(ConfigError, match="not an identifier"):
        list(archive.memory_tokens(["x'); DROP TABLE memories"]))


def test_memory_rows_does_not_read_tokens(archive):
    with pytest.raises(ValueError, match="memory_tokens"):
        archive.memory_rows([], ["tokens"])


PLAIN_CLIENT = """
import json, sys
import lancedb
assert not {"malmm", "ray", "torch"} & sys.modules.keys()
archive = lancedb.connect(sys.argv[1])
memories = archive.open_table("memories")
vector = json.loads(sys.argv[2])
found = memories.search(vector, vector_column_name="vectors").distance_type("cosine").limit(3)
found = found.select(["memory_id", "segment_id", "video_id", "slot", "start_s", "end_s", "timestamp_s",
                      "frame_count", "sizes", "token_shape", "thumbnail"]).to_list()
tokens = memories.search().limit(1).select(["memory_id", "tokens"]).to_list()
read = {
    "tables": sorted(archive.list_tables().tables),
    "columns": {name: archive.open_table(name).schema.names for name in archive.list_tables().tables},
    "rows": {name: archive.open_table(name).count_rows() for name in archive.list_tables().tables},
    "nearest": [[row["memory_id"], row["_distance"], len(row["thumbnail"])] for row in found],
    "texts": archive.open_table("annotations").search().where("segment_id IS NULL").limit(1000).to_arrow()
        .select(["prompt_name", "text"]).to_pylist(),
}
from malmm.pipeline.archive.writer import Archive
archive = Archive.open(sys.argv[1])
assert len(list(archive.memory_tokens(archive.completed_segments()))) == archive.count("segments")
assert archive.annotations().num_rows == archive.count("annotations")
assert not {"ray", "torch"} & sys.modules.keys()
print(json.dumps(read))
"""


def test_lancedb_alone_reads_it_and_reading_needs_neither_ray_nor_torch(drawn):
    archive = drawn.reader
    segment = archive.segments().to_pylist()[0]["segment_id"]
    [row, *_] = archive.memory_rows([segment], ("memory_id", "vectors")).to_pylist()
    query = [float(value) for value in row["vectors"][3]]
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_CLIENT, archive.uri, json.dumps(query)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert {"videos", "segments", "memories", "annotations", "failures"} <= set(read["tables"])
    documented = {
        "videos": "video_id uri fingerprint duration_s fps width height codec recipe_id indexed_at",
        "segments": "segment_id video_id index start_s end_s frame_count recipe_id",
        "memories": "memory_id segment_id video_id slot start_s end_s timestamp_s frame_count vectors tokens "
        "sizes thumbnail",
        "annotations": "annotation_id video_id segment_id start_s end_s task prompt_name prompt text score mode "
        "model created_at",
        "failures": "video_id segment_id uri stage kind message attempts first_seen last_seen",
    }
    for table, columns in documented.items():
        assert set(columns.split()) <= set(read["columns"][table]), table
    assert read["rows"]["memories"] == archive.count("memories")
    assert read["nearest"][0][0] == row["memory_id"]
    assert read["nearest"][0][1] == pytest.approx(0, abs=1e-2)
    assert all(length > 100 for _, _, length in read["nearest"])
    assert len(read["texts"]) == len(drawn.scenes)


PAGE = """
import sys
exec(compile(sys.stdin.read(), "archive.md", "exec"))
assert not {"malmm", "ray", "torch"} & sys.modules.keys()
"""


def test_the_page_reads_an_archive_and_takes_all_of_it_out(drawn, tmp_path):
    """The Python of docs/archive.md, as it is written there, in a process that never imports malmm-ray."""
    shutil.copytree(drawn.reader.uri, tmp_path / "archive")
    page = "\n".join(block.text for block in blocks_of("archive.md") if block.language == "python")
    done = subprocess.run(
        [sys.executable, "-c", PAGE], input=page, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("videos", "segments", "memories", "annotations", "failures"):
        assert pq.read_table(tmp_path / f"{name}.parquet").num_rows == drawn.reader.count(name)
    memories = pq.read_table(tmp_path / "memories.parquet").to_pylist()
    first = drawn.reader.segments().to_pylist()[0]["segment_id"]
    [(_, values, _)] = drawn.reader.memory_tokens([first])
    stored = {row["slot"]: row["tokens"] for row in memories if row["segment_id"] == first}
    assert [stored[slot] for slot in range(len(values))] == [slot.tobytes() for slot in values]


@pytest.mark.parametrize("kept", [0, 50_000], ids=["looked up", "kept"])
def test_a_reader_knows_what_is_done_as_of_the_latest_commit(archive, kept, monkeypatch):
    monkeypatch.setattr(table_reader, "_COMPLETED_KEPT", kept)
    wanted = [segment(number) for number in range(4)]
    reader = ArchiveReader.open(archive.root)
    assert reader.completed_among(wanted) == set()
    index(archive, 0, 1)
    assert reader.completed_among(wanted) == set(wanted[:2])
    assert reader.completed_among(wanted[1:]) == {wanted[1]}
    assert reader.completed_among([]) == set()
    with archive.held():
        archive.replace_videos({video(0): [segment(1)]})
    index(archive, 2)
    assert reader.completed_among(wanted) == set(wanted[1:3])
    assert pickle.loads(pickle.dumps(reader)).completed_among(wanted) == set(wanted[1:3])  # noqa: S301
