"""An archive that version 0.1 wrote is read, searched, asked, exported and extended; its rows stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.archive_contents import contents
from support.inline_stages import InlineStages
from support.old_archive import unpacked

from malmm.model.demo.videos import draw_video
from malmm.pipeline.archive.export import export
from malmm.pipeline.archive.optimize import optimize
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.run_history import read_runs
from malmm.pipeline.archive.status import status
from malmm.pipeline.indexing.annotate import annotate
from malmm.pipeline.indexing.index import index
from malmm.pipeline.schema.config import AnnotateConfig, ExportConfig, IndexConfig, OptimizeConfig, Prompt
from malmm.pipeline.searching.asker import Asker
from malmm.pipeline.searching.searcher import Searcher

# As tests/data/README.md says that it was made.
RECIPE_ID = "6ce59c7f28432055d9d9ddab"
CAPTIONS = {
    "/videos/0.mp4": "a white cross moving down, then a red circle moving up",
    "/videos/1.mp4": "a yellow square moving down, then a green star and a purple square moving down",
    "/videos/2.mp4": "a white cross moving up, then a yellow star moving up and a yellow cross moving up",
}
FIRST = Prompt("first", "What appears first?")
COLOUR = Prompt("colour", "Which colours appear?")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The archive, for tests that only read."""
    return unpacked(tmp_path_factory.mktemp("of-0.1"))


@pytest.fixture(scope="module")
def searcher(place: str) -> Searcher:
    return Searcher(place)


def test_it_opens_with_its_rows(place: str) -> None:
    reader = ArchiveReader.open(place)
    assert reader.recipe.recipe_id == RECIPE_ID
    assert {row["uri"] for row in reader.videos().to_pylist()} == set(CAPTIONS)
    found = contents(reader)
    assert {name: len(rows) for name, rows in found.items()} == {
        "videos": 3,
        "segments": 6,
        "memories": 36,
        "annotations": 27,
        "tokens": 6,
    }
    assert [(row["uri"], row["kind"]) for row in reader.failures().to_pylist()] == [
        ("/videos/notes.mp4", "not_a_video")
    ]
    now = status(reader)
    assert (now.indexed, now.pending, now.failed, now.running) == (3, 0, 1, None)
    assert [(run.job, run.status) for run in read_runs(place)] == [
        ("annotate", "done"),
        ("index", "some_failed"),
    ]


@pytest.mark.parametrize(
    ("text", "uri", "from_s", "to_s"),
    [
        ("a yellow square", "/videos/1.mp4", 0.0, 13.0),
        ("a red circle", "/videos/0.mp4", 17.0, 20.0),
        ("a green star", "/videos/1.mp4", 13.0, 20.0),
    ],
)
def test_it_is_searched(searcher: Searcher, text: str, uri: str, from_s: float, to_s: float) -> None:
    best = searcher.search(text, k=1)[0]
    assert best.uri == uri
    assert best.start_s < to_s
    assert best.end_s > from_s
    assert best.thumbnail is not None


def test_it_is_asked(place: str, searcher: Searcher) -> None:
    videos = {row["uri"]: row["video_id"] for row in ArchiveReader.open(place).videos().to_pylist()}
    asker = Asker(searcher)
    whole = asker.ask(FIRST.text, video_ids=[videos["/videos/1.mp4"]])
    assert [answer.text for answer in whole.answers] == ["a yellow square"]
    reply = asker.ask("Which way does the red circle move?", k=1)
    assert [(answer.video_id, answer.text) for answer in reply.answers] == [(videos["/videos/0.mp4"], "up")]


def test_it_is_exported(place: str) -> None:
    told = export(ExportConfig(place, "jsonl", prompts=("caption",)))
    assert told.texts == 9
    for uri, caption in CAPTIONS.items():
        assert uri in (told.text or "")
        assert caption in (told.text or "")


def test_it_is_extended_and_what_was_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = unpacked(tmp_path)
    before = contents(ArchiveReader.open(place))
    draw_video(tmp_path / "more.mp4", seconds=12.0, seed=(1, 3))
    InlineStages().install(monkeypatch)
    config = IndexConfig(
        sources=(str(tmp_path / "more.mp4"),), archive=place, segment_s=10.0, bank_length=6, prompts=(FIRST,)
    )
    report = index(config)
    assert (report.exit_code, report.videos_indexed, report.segments_indexed) == (0, 1, 2)
    told = annotate(AnnotateConfig(place, (COLOUR,)))
    assert (told.there, told.texts) == (9, 3)
    optimize(OptimizeConfig(place))

    reader = ArchiveReader.open(place)
    assert "text_grams" in reader.schema("annotations").names
    after = contents(reader)
    assert reader.recipe.recipe_id == RECIPE_ID
    added: dict[str, dict[str, Any]] = {}
    for name, rows in before.items():
        assert rows.items() <= after[name].items(), name
        added[name] = {key: row for key, row in after[name].items() if key not in rows}
    [video] = added["videos"]
    for name in ("segments", "memories", "annotations"):
        assert {row["video_id"] for row in added[name].values()} == {video}
    assert {row["recipe_id"] for row in after["segments"].values()} == {RECIPE_ID}
    # The second segment has two frames, so two slots. Three prompts for two segments and the whole.
    assert {name: len(rows) for name, rows in added.items()} == {
        "videos": 1,
        "segments": 2,
        "memories": 8,
        "annotations": 9,
        "tokens": 2,
    }
    now = status(reader)
    assert (now.indexed, now.pending, now.failed) == (4, 0, 1)
    assert sum(each.rows_unindexed for each in now.indexes) == 0
    found = Searcher(place).search("a shape that moves", k=100)
    assert {each.video_id for each in found} == set(after["videos"])
