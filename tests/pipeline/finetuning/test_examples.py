"""Tables of examples: what is read, and one sentence for each thing that is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.drawn_lessons import SECONDS, write_table

from malmm.pipeline.finetuning.examples import read_examples
from malmm.pipeline.schema.errors import ConfigError, DataSetError

ASKED, TOLD = "What appears first?", "a star"
GOOD = ("drawn0.mp4", "", "", ASKED, TOLD, "train")


def test_a_table_is_read_with_spans_splits_and_names(lessons: Path, tmp_path: Path) -> None:
    rows = [
        GOOD,
        ("drawn0", "1", "3", ASKED, TOLD, ""),
        (str(lessons.parent / "drawn1.mp4"), "", "", "Q?", "no", "val"),
        ("drawn2.mp4", "", "", ASKED, TOLD, "test"),
    ]
    found = read_examples(str(write_table(tmp_path / "t.csv", rows)), str(lessons.parent))
    assert [(each.first, each.last, each.end_s) for each in found.train] == [(0, 39, 4.0), (10, 29, 3.0)]
    assert [(each.prompt, each.answer, each.last) for each in found.val] == [
        ("Q?", "no", 10 * (SECONDS + 1) - 1)
    ]
    assert (found.test, found.videos) == (1, 1)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_other_kinds_of_table_and_other_names_of_columns(lessons: Path, tmp_path: Path, kind: str) -> None:
    rows = [{"Video": "drawn0.mp4", "end_s": 2.0, "question": ASKED, "text": TOLD}]
    path = tmp_path / f"t.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    [example] = read_examples(str(path), str(lessons.parent)).train
    assert (example.prompt, example.answer, example.last) == (ASKED, TOLD, 19)


WRONG = {
    "split": (("drawn0.mp4", "", "", ASKED, TOLD, "holdout"), "row 2: its split is 'holdout': one of train, val"),
    "video": (("", "", "", ASKED, TOLD, ""), "row 2: its video is empty"),
    "prompt": (("drawn0.mp4", "", "", " ", TOLD, ""), "row 2: its prompt is empty"),
    "answer": (("drawn0.mp4", "", "", ASKED, "", ""), "row 2: its answer is empty"),
    "words": (("drawn0.mp4", "soon", "", ASKED, TOLD, ""), "start_s is 'soon', not a number of seconds"),
    "nan": (("drawn0.mp4", "", "nan", ASKED, TOLD, ""), "end_s is 'nan'"),
    "backwards": (("drawn0.mp4", "3", "2", ASKED, TOLD, ""), "its span is from 3 s to 2 s"),
    "missing": (("gone.mp4", "", "", ASKED, TOLD, ""), "there is no video 'gone.mp4' below"),
    "beyond": (("drawn0.mp4", "", "9", ASKED, TOLD, ""), "ends at 4.0 s, and the span is from 0 s to 9 s"),
    "behind": (("drawn0.mp4", "5", "", ASKED, TOLD, ""), "and the span is from 5 s to its end"),
    "held back only": (("drawn0.mp4", "", "", ASKED, TOLD, "val"), "no row of it is in training"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_row_is_one_sentence(case: str, lessons: Path, tmp_path: Path) -> None:
    row, said = WRONG[case]
    table = write_table(tmp_path / "t.csv", [row])
    with pytest.raises(DataSetError) as caught:
        read_examples(str(table), str(lessons.parent))
    assert said in str(caught.value)
    assert str(table) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_video_in_two_splits_is_refused(split: str, lessons: Path, tmp_path: Path) -> None:
    # By another name, it is the same video.
    rows = [GOOD, ("drawn0", "1", "2", ASKED, TOLD, split)]
    with pytest.raises(DataSetError, match=f"row 3: drawn0 is in training and in {split}"):
        read_examples(str(write_table(tmp_path / "t.csv", rows)), str(lessons.parent))


def test_a_table_of_another_form_is_refused(lessons: Path, tmp_path: Path) -> None:
    other = write_table(tmp_path / "t.csv", [("a", "b")], ("file", "caption"))
    with pytest.raises(DataSetError, match="it has no column 'video': video, prompt and answer are needed"):
        read_examples(str(other), str(lessons.parent))
    with pytest.raises(DataSetError, match="it has no rows"):
        read_examples(str(write_table(tmp_path / "empty.csv", [])), str(lessons.parent))
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_examples(str(tmp_path / "none.csv"), None)
    with pytest.raises(ConfigError, match="is of no kind that can be imported"):
        read_examples(str(lessons.parent / "drawn0.mp4"), None)


def test_what_is_no_video_is_named_with_its_row(lessons: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    table = write_table(tmp_path / "t.csv", [("text.mp4", "", "", ASKED, TOLD, "")])
    with pytest.raises(DataSetError, match=r"row 2: .*text\.mp4"):
        read_examples(str(table), None)
