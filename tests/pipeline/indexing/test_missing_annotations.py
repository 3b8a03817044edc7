"""Which texts are owed, on a real archive."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from support.archive_rows import RECIPE, VECTOR_SIZE, rows, segment, video, video_table

from malmm.operators.write import Answer, annotation_rows
from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.indexing.missing_annotations import missing_annotations, something_missing
from malmm.pipeline.schema.config import CAPTION, Prompt
from malmm.pipeline.schema.ids import ONLINE, REPLAY
from malmm.pipeline.schema.records import Segment, Video
from malmm.pipeline.schema.rows import TO_REPLAY, Carried, carried
from malmm.pipeline.schema.tables import ANNOTATIONS

PEOPLE = Prompt("people", "How many people are there?")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE)


def carried_row(of_video: int, number: int | None) -> Carried:
    """A segment of a video, or the whole video, as a run has it."""
    row = video_table(of_video).to_pylist()[0]
    about = Video(**{name: row[name] for name in Video.__dataclass_fields__})
    if number is None:
        return Carried(about, None, None)
    key = segment(number, of_video=of_video)
    span = Segment(key, about.video_id, about.uri, number, 100.0 * number, 100.0 * number + 100, False)
    return Carried(about, span, None)


def texts(row: Carried, prompts: list[Prompt], mode: str) -> pa.Table:
    answers = [Answer(prompt, "a text") for prompt in prompts]
    end_s = row.segment.end_s if row.segment else 300.0
    made = annotation_rows(row, answers, RECIPE, mode=mode, end_s=end_s)
    return pa.Table.from_pylist(made, schema=ANNOTATIONS)


def store(
    archive: Archive, of_video: int, numbers: range, prompts: list[Prompt], *, finished: bool = True
) -> None:
    """Segments with online texts for the prompts, as an indexing run commits them."""
    tables = rows(*numbers, of_video=of_video)
    tables["annotations"] = pa.concat_tables(
        [texts(carried_row(of_video, number), prompts, ONLINE) for number in numbers]
    )
    archive.commit(write_rows(archive.uri, tables))
    if finished:
        archive.put_videos(video_table(of_video))


def wanted(archive: Archive, *prompts: Prompt) -> dict[tuple[str, str | None], list[str]]:
    """(video, segment or None) to the names of the prompts that are to be replayed."""
    found = {}
    for block in missing_annotations(archive, prompts, RECIPE):
        assert block.schema == TO_REPLAY
        for row, names, ids in zip(
            carried(block), block["prompts"].to_pylist(), block["segment_ids"].to_pylist(), strict=True
        ):
            assert row.video is not None
            if row.segment is not None:
                assert ids == [row.segment.segment_id]
            key = (row.video.video_id, row.segment.segment_id if row.segment else None)
            assert key not in found
            found[key] = [prompts[place].name for place in names]
    return found


def test_an_empty_archive_owes_nothing(archive: Archive) -> None:
    assert not something_missing(archive, [CAPTION])
    assert missing_annotations(archive, [CAPTION], RECIPE) == []


def test_a_freshly_indexed_video_owes_its_whole(archive: Archive) -> None:
    store(archive, 0, range(3), [CAPTION, PEOPLE])
    assert something_missing(archive, [CAPTION, PEOPLE])
    assert wanted(archive, CAPTION, PEOPLE) == {(video(0), None): ["caption", "people"]}


def test_a_whole_video_is_all_its_segments_in_time_order(archive: Archive) -> None:
    for number in (2, 0, 1):
        store(archive, 0, range(number, number + 1), [CAPTION])
    [block] = missing_annotations(archive, [CAPTION], RECIPE)
    assert block["segment_ids"].to_pylist() == [[segment(number) for number in range(3)]]


def test_a_new_prompt_is_owed_to_segments_too(archive: Archive) -> None:
    store(archive, 0, range(2), [CAPTION])
    archive.add_annotations(texts(carried_row(0, None), [CAPTION], REPLAY))
    assert not something_missing(archive, [CAPTION])
    assert wanted(archive, CAPTION) == {}
    assert something_missing(archive, [CAPTION, PEOPLE])
    assert wanted(archive, CAPTION, PEOPLE) == {
        (video(0), None): ["people"],
        (video(0), segment(0)): ["people"],
        (video(0), segment(1)): ["people"],
    }


def test_only_what_is_missing_is_owed(archive: Archive) -> None:
    store(archive, 0, range(2), [CAPTION])
    archive.add_annotations(texts(carried_row(0, None), [CAPTION, PEOPLE], REPLAY))
    archive.add_annotations(texts(carried_row(0, 1), [PEOPLE], REPLAY))
    assert wanted(archive, CAPTION, PEOPLE) == {(video(0), segment(0)): ["people"]}


def test_another_wording_is_another_prompt(archive: Archive) -> None:
    store(archive, 0, range(1), [CAPTION])
    archive.add_annotations(texts(carried_row(0, None), [CAPTION], REPLAY))
    reworded = Prompt("caption", "Describe the video.", task="caption")
    assert something_missing(archive, [reworded])
    assert len(wanted(archive, reworded)) == 2


def test_a_video_that_is_not_finished_has_to_wait(archive: Archive) -> None:
    store(archive, 0, range(2), [CAPTION], finished=False)
    store(archive, 1, range(1), [CAPTION])
    assert set(wanted(archive, CAPTION, PEOPLE)) == {(video(1), None), (video(1), segment(0, of_video=1))}


def test_a_changed_video_is_asked_anew_as_a_whole(archive: Archive) -> None:
    store(archive, 0, range(1), [CAPTION])
    archive.add_annotations(texts(carried_row(0, None), [CAPTION], REPLAY))
    archive.commit(write_rows(archive.uri, rows(0, fingerprint="second")))
    assert wanted(archive, CAPTION) == {}, "as long as its new content is not all there, it is the old video"
    archive.put_videos(video_table(0, fingerprint="second"))
    assert set(wanted(archive, CAPTION)) == {(video(0), None), (video(0), segment(0, fingerprint="second"))}


def test_what_is_owed_comes_in_small_blocks_and_leaves_nothing_owed(archive: Archive) -> None:
    prompts = [CAPTION, PEOPLE]
    for number in range(5):
        store(archive, number, range(4), [CAPTION])
    blocks = missing_annotations(archive, prompts, RECIPE)
    assert sum(block.num_rows for block in blocks) == 5 * (1 + 4)
    assert max(block.num_rows for block in blocks) <= 16
    for block in blocks:
        for row, places in zip(carried(block), block["prompts"].to_pylist(), strict=True):
            archive.add_annotations(texts(row, [prompts[place] for place in places], REPLAY))
    assert not something_missing(archive, prompts)
    assert missing_annotations(archive, prompts, RECIPE) == []
