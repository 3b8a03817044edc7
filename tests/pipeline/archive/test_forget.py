"""A forgotten video leaves its id alone: no row, no byte in any file, no version. No run takes it in again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
from lance.query import MatchQuery
from support.archive_contents import contents
from support.archive_rows import (
    RECIPE,
    VECTOR_SIZE,
    annotation,
    annotation_table,
    commit_rows,
    rows,
    video,
    video_table,
)
from support.processes import run_here

from malmm.pipeline.archive import forget as module
from malmm.pipeline.archive.forget import ForgetConfig, forget
from malmm.pipeline.archive.lease import Lease
from malmm.pipeline.archive.optimize import optimize
from malmm.pipeline.archive.passes import Pass
from malmm.pipeline.archive.purge import files_with, versions_with
from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.reviews import Review, add_reviews, newest_reviews
from malmm.pipeline.archive.run_history import RunRecord, read_runs, write_run
from malmm.pipeline.archive.tombstones import forgotten_videos
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.indexing.pending_work import PendingWork
from malmm.pipeline.schema.config import IndexConfig, OptimizeConfig
from malmm.pipeline.schema.errors import ArchiveBusy, ConfigError
from malmm.pipeline.schema.given_texts import GivenRows, GivenText, Track
from malmm.pipeline.schema.records import Failure

SECRET, PICTURE = "the passphrase is xylophone", b"\xff\xd8 only of the forgotten video " * 9
URI = "file:///videos/0.mp4"


def archive_of_two(archive: Archive) -> Archive:
    """Two videos in several versions of each table. Texts, pictures and failures of the first name a secret."""
    secret = rows(0)
    secret["memories"] = secret["memories"].set_column(
        secret["memories"].schema.get_field_index("thumbnail"),
        "thumbnail",
        pa.array([PICTURE] * 3, pa.binary()),
    )
    archive.commit(write_rows(archive.uri, secret))
    commit_rows(archive, 1)
    commit_rows(archive, 0, 1, of_video=1)
    archive.put_videos(video_table(0, 1))
    archive.set_metadata({video(0): json.dumps({"note": SECRET})})
    archive.add_annotations(annotation_table(annotation(None, mode="replay", subject="whole")))
    said = [
        (video(0), Track(origin=f"{URI}#1"), GivenText(1.0, 2.0, SECRET)),
        (video(1), Track(origin="1.srt"), GivenText(1.0, 2.0, "hello")),
    ]
    archive.put_given(GivenRows({video(0): "first", video(1): "first"}).of(said))
    archive.finish_passes([Pass(video(n), "first", "subtitle file", "1") for n in (0, 1)])
    archive.record_failures([Failure(video(0), None, URI, "decode", "damaged", SECRET)])
    about = {"start_s": 1.0, "end_s": 2.0, "prompt_name": "p", "prompt": "What?", "prompt_version": "v"}
    add_reviews(
        archive.root,
        [
            Review.of(
                about | {"annotation_id": "a", "video_id": video(n), "text": text}, "wrong", text, "ann"
            )
            for n, text in enumerate((SECRET, "hello"))
        ],
    )
    write_run(archive.root, RunRecord("index", ("index",), error=f"{URI} is broken"))
    archive.update_indexes(at_once=True)
    return archive


@pytest.fixture
def two(archive: Archive) -> Archive:
    return archive_of_two(archive)


NEEDLES = (SECRET.encode(), PICTURE, URI.encode(), b"xylophone", b"xylophon")


def held(archive: Archive) -> set[bytes]:
    """Which of the needles are in any file, each looked for alone."""
    return {needle for needle in NEEDLES if any(True for _ in files_with(archive.root, [needle]))}


def found(archive: Archive, word: str) -> set[str]:
    """Videos with a text that has the word, by the index of words."""
    asked = MatchQuery(word, "text")
    rows = archive.tables.dataset("annotations").to_table(columns=["video_id"], full_text_query=asked)
    return set(rows["video_id"].to_pylist())


def of_others(archive: Archive) -> dict[str, Any]:
    found = contents(archive)
    own = {key for key, row in found["segments"].items() if row["video_id"] == video(1)}
    tables = {
        name: {key: row for key, row in table.items() if row["video_id"] == video(1)}
        for name, table in found.items()
        if name != "tokens"
    }
    return tables | {"tokens": {key: value for key, value in found["tokens"].items() if key in own}}


def test_nothing_is_left_and_the_others_stay(two: Archive) -> None:
    assert held(two) >= {SECRET.encode(), PICTURE, URI.encode()}
    before = of_others(two)
    report = forget(ForgetConfig(two.root, (URI,), now=True))
    assert (report.exit_code, report.left, report.videos) == (0, [], [video(0)])
    assert report.rows == {
        "memories": 6, "annotations": 4, "segments": 2, "videos": 1, "failures": 1, "passes": 1, "reviews": 1,
    }  # fmt: skip
    assert held(two) == set()
    assert versions_with(two.tables, [video(0)]) == []
    assert contents(two) == before
    assert [review.text for review in newest_reviews(two).values()] == ["hello"]
    assert [run.error for run in read_runs(two.root)] == ["(forgotten) is broken"]
    # What is left can be searched, by words that the index has.
    assert found(two, "hello") == {video(1)}
    assert found(two, "xylophone") == set()


def test_without_now_rows_go_at_once_and_bytes_with_the_next_optimize(two: Archive) -> None:
    report = forget(ForgetConfig(two.root, (video(0),)))
    assert not report.purged
    assert two.count("annotations", f"video_id = '{video(0)}'") == 0
    assert SECRET.encode() in held(two)
    optimize(OptimizeConfig(two.root))
    assert held(two) == set()
    assert versions_with(two.tables, [video(0)]) == []


def test_killed_anywhere_it_goes_on(two: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for place in ("_pictures", "_scrub_runs", "_purge", "purge_tables", "versions_with"):
        with monkeypatch.context() as patch:
            patch.setattr(module, place, killed)
            with pytest.raises(KeyboardInterrupt):
                forget(ForgetConfig(two.root, (URI,), now=True))
        assert forgotten_videos(two.root) == {video(0)}
    # Its rows are gone, so that only its id names it now.
    assert forget(ForgetConfig(two.root, (URI,), now=True)).exit_code == 0
    assert held(two) == set()


def test_a_place_that_still_holds_something_is_named(two: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    (Path(two.root) / "copy.txt").write_text(f"notes: {SECRET}")
    done = run_here("forget", URI, "--archive", two.root, "--now")
    assert done.returncode == 1
    assert "Left: 1 places still hold something of them" in done.stdout
    assert "copy.txt" in done.stdout


def test_texts_that_another_video_shares_are_no_remains(two: Archive) -> None:
    shared = [(video(1), Track(origin="b.srt"), GivenText(1.0, 2.0, SECRET))]
    two.put_given(GivenRows({video(1): "first"}).of(shared))
    assert forget(ForgetConfig(two.root, (URI,), now=True)).left == []


def test_no_run_takes_it_in_again_until_it_may(two: Archive) -> None:
    from malmm.pipeline.sources.source_file import SourceFile

    class Listing:
        found = tuple(SourceFile(f"file:///videos/{n}.mp4", 1, "other") for n in (0, 2))
        ended = True

    def to_index() -> tuple[list[str], int]:
        config = IndexConfig(sources=("x",), archive=two.root)
        work = PendingWork(config, RECIPE, two, Listing())  # type: ignore[arg-type]
        work.look()
        return [file.uri for file in work.files], work.forgotten

    assert to_index()[0] == [URI, "file:///videos/2.mp4"]
    forget(ForgetConfig(two.root, (URI,)))
    assert to_index() == (["file:///videos/2.mp4"], 1)
    assert (
        run_here("forget", URI, "--archive", two.root, "--undo").stdout == "1 videos may be indexed again\n"
    )
    assert run_here("forget", URI, "other.mp4", "--archive", two.root, "--undo").returncode == 4
    assert to_index() == ([URI, "file:///videos/2.mp4"], 0)


def test_of_several_archives_each_forgets_also_one_that_never_had_the_video(
    two: Archive, tmp_path: Path
) -> None:
    other = Archive.create_or_open(str(tmp_path / "other"), RECIPE, VECTOR_SIZE)
    commit_rows(other, 0, of_video=1)
    other.put_videos(video_table(1))
    before = contents(other)
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(json.dumps({"archives": [two.root, other.root]}))
    assert run_here("forget", "talk.mp4", "--archive", catalog).returncode == 2
    done = run_here("forget", "0.mp4", "--archive", catalog, "--now", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["archives"]
    assert [(each["rows"]["videos"], each["purged"], each["left"]) for each in told] == [
        (1, True, []),
        (0, True, []),
    ]
    assert held(two) == set()
    assert contents(other) == before
    for archive in (two, other):
        assert forgotten_videos(archive.root) == {video(0)}
    undone = run_here("forget", URI, "--archive", two.root, "--archive", other.root, "--undo")
    assert undone.stdout == "1 videos may be indexed again\n"
    assert forgotten_videos(two.root) | forgotten_videos(other.root) == set()


def test_what_the_store_keeps_is_said_beside_the_proof(two: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "deleted_is_kept", lambda root: f"the store of {root} keeps it")
    later = run_here("forget", "0.mp4", "--archive", two.root)
    assert "But  " not in later.stdout
    done = run_here("forget", URI, "--archive", two.root, "--now")
    assert f"\nBut       the store of {two.root} keeps it\n" in done.stdout
    assert done.returncode == 0


def test_names_that_mean_no_video_change_nothing(two: Archive) -> None:
    with pytest.raises(ConfigError, match=r"no video 'talk\.mp4'"):
        forget(ForgetConfig(two.root, (URI, "talk.mp4"), now=True))
    assert forgotten_videos(two.root) == set()


def test_one_writer_at_a_time(two: Archive) -> None:
    with Lease.take(two.root), pytest.raises(ArchiveBusy):
        forget(ForgetConfig(two.root, (URI,)))
    assert video(0) in two.completed_videos()


def test_a_writer_that_was_overtaken_makes_no_later_table(archive: Archive) -> None:
    """A table that is created after the next writer has fenced all others is not fenced: the lease itself decides."""
    done = [Pass(video(0), "first", "subtitle file", "1")]
    with archive.held():
        # Another writer has taken over without this process noticing.
        lance.dataset(f"{archive.root}/writer.lance").update({"holder": f"'{24 * 'a'}'"})
        with pytest.raises(ArchiveBusy):
            archive.finish_passes(done)
    assert not archive.tables.has("passes") or archive.count("passes") == 0


@pytest.mark.parametrize(
    ("data", "found"), [(b"x" * 10 + b"needle", True), (b"need le", False), (b"", False)]
)
def test_files_are_searched_across_the_borders_of_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, found: bool
) -> None:
    monkeypatch.setattr("malmm.pipeline.archive.purge._PIECE_BYTES", 4)
    (tmp_path / "file").write_bytes(data)
    hits: Iterator[tuple[str, bytes]] = files_with(str(tmp_path), [b"needle", b"other"])
    assert [needle for _, needle in hits] == ([b"needle"] if found else [])
