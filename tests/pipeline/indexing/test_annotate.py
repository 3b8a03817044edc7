from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.archive_contents import versions
from support.archive_rows import RECIPE, VECTOR_SIZE
from support.drawn_archive import Drawn
from support.inline_stages import InlineStages
from support.processes import run_here

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.indexing.annotate import annotate
from malmm.pipeline.schema.config import CAPTION, AnnotateConfig, Prompt
from malmm.pipeline.schema.errors import ArchiveError, ConfigError

FIRST = Prompt("first", "What appears first?")


@pytest.fixture(scope="module")
def copy(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An archive that may be written to."""
    place = tmp_path_factory.mktemp("copy") / "archive"
    shutil.copytree(drawn.place, place)
    return str(place)


def test_new_prompts_then_nothing_to_do(drawn: Drawn, copy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    InlineStages().install(monkeypatch)
    done = run_here("annotate", "--archive", copy, "--prompt", f"{FIRST.name}={FIRST.text}", "--quiet")
    assert done.returncode == 0, done.stderr
    assert "15 made" not in done.stdout
    archive = ArchiveReader.open(copy)
    made = [row for row in archive.annotations().to_pylist() if row["prompt_name"] == "first"]
    segments = archive.count("segments")
    assert len(made) == segments + len(drawn.scenes)
    assert f"{len(made)} made" in done.stdout
    assert {row["mode"] for row in made} == {"replay"}
    right = [
        row["text"] == " and ".join(f"a {thing.name}" for thing in drawn.scenes[row["video_id"]][0].objects)
        for row in made
        if row["segment_id"] is None
    ]
    assert sum(right) >= len(right) - 1
    before = versions(archive)
    again = annotate(AnnotateConfig(copy, (FIRST,)))
    assert (again.missing, again.texts, again.there) == (0, 0, len(made))
    assert versions(archive) == before


def test_labels_have_scores_that_sum_to_one(
    drawn: Drawn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    InlineStages().install(monkeypatch)
    place = shutil.copytree(drawn.place, tmp_path / "archive")
    archive = ArchiveReader.open(str(place))
    labels = ["--prompt", "kind=Is there a star?", "--labels", "yes,no", "--scope", "video", "--quiet"]
    done = run_here("annotate", "--archive", place, *labels)
    assert done.returncode == 0, done.stderr
    classified = [row for row in archive.annotations().to_pylist() if row["prompt_name"] == "kind"]
    assert len(classified) == len(drawn.scenes)
    for row in classified:
        scores = {each["label"]: each["score"] for each in row["label_scores"]}
        assert scores.keys() == {"yes", "no"}
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
        assert row["score"] == pytest.approx(scores[row["text"]])


def test_a_dry_run_counts_and_writes_nothing(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    InlineStages().install(monkeypatch)
    before = versions(drawn.reader)
    report = annotate(AnnotateConfig(drawn.place, (FIRST, CAPTION), dry_run=True))
    segments = drawn.reader.count("segments")
    assert report.missing == segments + len(drawn.scenes)
    assert report.there == segments + len(drawn.scenes)
    one = annotate(
        AnnotateConfig(drawn.place, (FIRST,), scopes=("video",), where="uri LIKE '%/0.mp4'", dry_run=True)
    )
    assert (one.videos, one.missing) == (1, 1)
    assert versions(drawn.reader) == before


def test_another_text_under_a_name_has_to_be_meant(drawn: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    InlineStages().install(monkeypatch)
    other = Prompt("caption", "Say what there is.", task="caption")
    with pytest.raises(ConfigError, match=r"'caption' has another text in the archive .*--new-version"):
        annotate(AnnotateConfig(drawn.place, (other,), dry_run=True))
    report = annotate(AnnotateConfig(drawn.place, (other,), new_versions=True, dry_run=True))
    assert report.missing == drawn.reader.count("segments") + len(drawn.scenes)


def test_what_cannot_be_annotated_is_said(drawn: Drawn, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a condition over videos"):
        annotate(AnnotateConfig(drawn.place, (FIRST,), where="colour = 1"))
    with pytest.raises(ArchiveError, match="there is no archive"):
        annotate(AnnotateConfig(str(tmp_path / "gone"), (FIRST,)))
    made = Archive.create_or_open(str(tmp_path / "empty"), RECIPE, VECTOR_SIZE)
    with pytest.raises(ArchiveError, match="is empty"):
        annotate(AnnotateConfig(made.root, (FIRST,)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"archive": ""}, "no archive"),
        ({"prompts": ()}, "no prompt"),
        ({"scopes": ("scene",)}, "--scope 'scene'"),
        ({"where": " "}, "--where is empty"),
        ({"prompts": (FIRST, Prompt("first", "Who?"))}, "given twice"),
        ({"batch_segments": 0}, "--batch-segments 0"),
    ],
)
def test_values_that_cannot_be(change: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        AnnotateConfig(**{"archive": "archive", "prompts": (FIRST,), **change})
