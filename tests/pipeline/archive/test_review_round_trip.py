"""From reviews and label tools to what trains: exports, and what comes back of them."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
from support.old_archive import unpacked

from malmm.pipeline.archive.export import export
from malmm.pipeline.archive.import_annotations import ImportConfig, import_annotations
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.review_queue import review_queue
from malmm.pipeline.archive.reviews import Review, add_reviews, newest_reviews
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.schema.config import ExportConfig
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.tables import ANNOTATIONS


@pytest.fixture
def place(tmp_path: Path) -> str:
    return unpacked(tmp_path)


def exported(place: str, format: str) -> str:
    return export(ExportConfig(place, format, prompts=("caption",))).text or ""


def trained(place: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(exported(place, "reviewed-csv"))))


def test_only_what_people_said_is_right_is_for_training(place: str) -> None:
    reader = ArchiveReader.open(place)
    one, two, three, *_ = [each.row for each in review_queue(reader, prompt="caption")]
    add_reviews(
        place,
        [
            Review.of(one, "right", None, "ann"),
            Review.of(two, "wrong", "a whale", "ann"),
            Review.of(three, "wrong", None, "ann"),
        ],
    )
    rows = trained(place)
    assert list(rows[0]) == ["video", "start_s", "end_s", "prompt", "answer"]
    answers = {(row["video"], float(row["start_s"]), float(row["end_s"])): row["answer"] for row in rows}
    uris = reader.addresses()
    assert answers == {
        (uris[row["video_id"]], row["start_s"], row["end_s"]): answer
        for row, answer in ((one, one["text"]), (two, "a whale"))
    }
    assert {row["prompt"] for row in rows} == {one["prompt"]}


def label_studio(content: str) -> list[dict[str, Any]]:
    """What Label Studio exports once people have made annotations from the predictions."""
    tasks = json.loads(content)
    for task in tasks:
        results = task.pop("predictions")[0]["result"]
        task["annotations"] = [{"completed_by": {"email": "ann@example.org"}, "result": results}]
    return tasks


def corrected(tasks: list[dict[str, Any]], *, new_ids: bool) -> str:
    """The first text is corrected, and a region is added."""
    results = tasks[0]["annotations"][0]["result"]
    first = next(each for each in results if each["type"] == "textarea")
    first["value"]["text"] = ["a whale"]
    if new_ids:
        for result in results:
            result["id"] = "x" + result["id"][:9]
    added = {"id": "new1", "to_name": "video", "from_name": "timeline", "type": "timelinelabels"}
    results.append(added | {"value": {"ranges": [{"start": 1, "end": 30}], "timelinelabels": ["boat"]}})
    return json.dumps(tasks)


@pytest.mark.parametrize("new_ids", [False, True])
def test_label_studio_and_back(place: str, tmp_path: Path, new_ids: bool) -> None:
    tasks = label_studio(exported(place, "label-studio"))
    count = sum(len(task["annotations"][0]["result"]) for task in tasks) // 2
    back = tmp_path / "back.json"
    back.write_text(corrected(tasks, new_ids=new_ids))
    report = import_annotations(ImportConfig(place, str(back)))
    assert (report.rows, report.reviews, report.new, report.left_out) == (count + 1, count, 1, 0)
    reviews = newest_reviews(ArchiveReader.open(place))
    assert len(reviews) == count
    assert [review.correction for review in reviews.values() if review.verdict == "wrong"] == ["a whale"]
    assert {review.reviewer for review in reviews.values()} == {"label-studio ann@example.org"}
    assert len(trained(place)) == count
    again = import_annotations(ImportConfig(place, str(back)))
    assert (again.reviews, again.new, again.unchanged) == (count, 0, 1)
    assert len(newest_reviews(ArchiveReader.open(place))) == count


def test_texts_that_are_alike_are_one_to_a_person(place: str, tmp_path: Path) -> None:
    archive = Archive.open(place)
    [text, *_] = [
        row for row in archive.tables.dataset("annotations").to_table().to_pylist() if row["segment_id"]
    ]
    # As what is said of a whole video of one segment.
    twin = text | {"annotation_id": "f" * 24, "segment_id": None}
    dataset = archive.tables.dataset("annotations")
    lance.write_dataset(pa.Table.from_pylist([twin], schema=dataset.schema), dataset, mode="append")
    name = text["prompt_name"]
    [tasks, labels] = [
        json.loads(export(ExportConfig(place, format, prompts=(name,))).text or "")
        for format in ("label-studio", "fiftyone")
    ]
    said = [label["label"] for some in labels["labels"].values() for label in some]
    assert said.count(text["text"]) == 1
    assert sum(text["text"] in str(task["predictions"]) for task in tasks) == 1
    # Exports of releases before this one have both.
    [back] = [task for task in label_studio(json.dumps(tasks)) if text["text"] in str(task)]
    results = back["annotations"][0]["result"]
    own = [each for each in results if each["id"] in (text["annotation_id"], twin["annotation_id"])]
    results += [each | {"id": twin["annotation_id"]} for each in own if each["id"] == text["annotation_id"]]
    next(each for each in own if each["type"] == "textarea")["value"] = {
        "ranges": [{"start": 1, "end": 2}],
        "text": ["a whale"],
    }
    path = tmp_path / "back.json"
    path.write_text(json.dumps([back]))
    import_annotations(ImportConfig(place, str(path)))
    assert [each.correction for each in newest_reviews(ArchiveReader.open(place)).values()].count(
        "a whale"
    ) == 1


def test_fiftyone_and_back(place: str, tmp_path: Path) -> None:
    content = json.loads(exported(place, "fiftyone"))
    [first, *_] = content["labels"].values()
    first[0]["label"] = "a whale"
    name = next(iter(content["labels"]))
    content["labels"][name].append({"label": "boat", "timestamps": [0.5, 2.0], "confidence": 0.5})
    content["labels"]["nobody"] = [{"label": "boat", "timestamps": [0, 1]}]
    content["labels"][name].append({"label": "boat", "support": [1, 30]})
    back = tmp_path / "labels.json"
    back.write_text(json.dumps(content))
    report = import_annotations(ImportConfig(place, str(back)))
    count = sum(len(labels) for labels in content["labels"].values()) - 3
    assert (report.reviews, report.new, report.left_out) == (count, 1, 2)
    assert any("no timestamps" in problem for problem in report.problems)
    assert any("holds no video 'nobody'" in problem for problem in report.problems)
    wrong = [each for each in newest_reviews(ArchiveReader.open(place)).values() if each.verdict == "wrong"]
    assert [each.correction for each in wrong] == ["a whale"]


def test_shards_hold_texts_and_pictures(place: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        report = export(ExportConfig(place, "webdataset", str(tmp_path / name), prompts=("caption",)))
    [path] = report.files
    assert Path(path).read_bytes() == (tmp_path / "a" / Path(path).name).read_bytes()
    with tarfile.open(path) as shard:
        members = shard.getnames()
        keys = list(dict.fromkeys(member.split(".")[0] for member in members))
        assert len(keys) == report.texts
        for key in keys:
            own = [member.split(".", 1)[1] for member in members if member.startswith(key)]
            assert own[:2] == ["txt", "json"]
            assert own[2] == "0000.jpg"
            picture = shard.extractfile(f"{key}.0000.jpg")
            assert picture is not None
            assert picture.read(2) == b"\xff\xd8"


def test_shards_of_a_longer_export_are_not_left_beside_those_of_the_next(place: str, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in (0, 1, 7):
        (shards / f"texts-{number:06d}.tar").write_bytes(b"of another export")
    (shards / "texts-mine.tar").touch()
    report = export(ExportConfig(place, "webdataset", str(shards), prompts=("caption",)))
    assert [Path(path).name for path in report.files] == ["texts-000000.tar"]
    assert sorted(path.name for path in shards.iterdir()) == ["texts-000000.tar", "texts-mine.tar"]
    assert tarfile.is_tarfile(report.files[0])


@pytest.mark.parametrize(
    ("text", "said"),
    [("{", "is not JSON"), ("{}", "is neither an export of Label Studio"), ("3", "is neither an export")],
)
def test_other_json_is_refused(place: str, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        import_annotations(ImportConfig(place, str(tmp_path / "x.json")))


def test_broken_tasks_cost_a_sentence_each(place: str, tmp_path: Path) -> None:
    ranges = {"type": "timelinelabels", "value": {"ranges": [{"start": 1}], "timelinelabels": ["boat"]}}
    tasks = [
        1,
        {"data": {"video": "0.mp4"}, "annotations": [{"result": [{"id": "a", **ranges}]}]},
        {"data": {"video": "0.mp4", "fps": 25}, "annotations": [{"result": [{"id": "a", **ranges}]}]},
        {
            "data": {"video": "0.mp4"},
            "annotations": [{"was_cancelled": True, "result": [{"id": "a", **ranges}]}],
        },
        {
            "data": {"video": "0.mp4"},
            "annotations": [
                {
                    "result": [
                        {"id": "a", "type": "labels", "value": {"start": 1, "end": 2, "labels": ["boat"]}}
                    ]
                }
            ],
        },
    ]
    (tmp_path / "x.json").write_text(json.dumps(tasks))
    report = import_annotations(ImportConfig(place, str(tmp_path / "x.json")))
    assert (report.rows, report.new, report.left_out) == (4, 1, 3)
    assert [said.split(": ", 1)[1][:20] for said in report.problems] == [
        "it is no task of Lab",
        "its times are frames",
        "its ranges [{'start'",
    ]


def test_a_correction_of_a_typed_answer_is_json(place: str, tmp_path: Path) -> None:
    archive = Archive.open(place)
    template = archive.tables.rows("annotations").slice(0, 1).to_pylist()[0]
    typed = {name: template.get(name) for name in ANNOTATIONS.names} | {
        "annotation_id": "e" * 24,
        "task": "record",
        "prompt_name": "event",
        "prompt_version": "e" * 24,
        "text": '{"kind":"goal"}',
    }
    archive.add_annotations(pa.Table.from_pylist([typed], schema=ANNOTATIONS))
    label = {
        "timestamps": [0.0, 1.0],
        "attributes": {
            "prompt": "event",
            "annotation_id": typed["annotation_id"],
            "video_id": typed["video_id"],
        },
    }
    back = tmp_path / "labels.json"
    said = [label | {"label": text} for text in ("a foul", '{"kind":"foul"}')]
    back.write_text(json.dumps({"classes": None, "labels": {"0": said}}))
    report = import_annotations(ImportConfig(place, str(back)))
    assert (report.rows, report.reviews, report.left_out) == (2, 1, 1)
    assert report.problems[0].startswith(
        f"{back}, 0, label 1: the correction of a typed answer is JSON, as the answer is: {typed['text']}"
    )
    assert [review.correction for review in newest_reviews(archive).values()] == ['{"kind":"foul"}']
