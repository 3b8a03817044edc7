"""Questions to several archives are answered from the memory of each, as by one archive that holds it all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.drawn_archive import Drawn
from support.split_rows import Library

from malmm.pipeline.archive.joined import members_of
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.searching.asker import Asker
from malmm.pipeline.searching.searcher import Searcher


@pytest.fixture(scope="module")
def halves(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two archives, each with some of the drawn videos."""
    folder = tmp_path_factory.mktemp("halves")
    videos = sorted(drawn.scenes)
    made = []
    for name, gone in (("first", videos[:1]), ("second", videos[1:])):
        shutil.copytree(drawn.place, folder / name)
        archive = Archive.open(str(folder / name))
        with archive.held():
            for video in gone:
                archive.remove_video(video)
        made.append(str(folder / name))
    return made


def test_answers_are_those_of_one_archive(drawn: Drawn, halves: list[str], tmp_path: Path) -> None:
    other = Library(videos=2, segments=1, slots=1).put(str(tmp_path / "other"), (0, 1))
    several, one = Asker(Searcher([*halves, other])), Asker(Searcher(drawn.place))
    members = members_of(several.archive)
    assert members is not None
    assert [each.name for each in members.left_out] == ["other"]
    for video in sorted(drawn.scenes):
        [name] = {thing.name for scene in drawn.scenes[video][:1] for thing in scene.objects[:1]}
        question = f"Which way does the {name} move?"
        expected = one.ask(question, video_ids=[video])
        found = several.ask(question, video_ids=[video])
        assert [answer.text for answer in found.answers] == [answer.text for answer in expected.answers]
        assert found.similarity == pytest.approx(expected.similarity, abs=1e-5)
        spread = several.ask(question, k=1, threshold=-1.0)
        assert [(a.segment_id, a.text) for a in spread.answers] == [
            (a.segment_id, a.text) for a in one.ask(question, k=1, threshold=-1.0).answers
        ]
