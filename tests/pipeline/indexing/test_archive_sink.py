from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
from support import inline_dataset

from malmm.model.demo.videos import draw_video
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.cluster.resources import Node, choose_resources
from malmm.pipeline.indexing import archive_sink, graph
from malmm.pipeline.indexing.archive_sink import ArchiveSink
from malmm.pipeline.indexing.index import index
from malmm.pipeline.schema.cluster_use import ClusterUse
from malmm.pipeline.schema.config import IndexConfig
from malmm.pipeline.schema.errors import ConfigError, RecipeMismatch

STAGES = "every other frame, 1"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(2):
        draw_video(folder / f"{number}.mp4", seconds=8, seed=(3, number))
    return folder


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_sink, "from_blocks", inline_dataset.from_blocks)
    monkeypatch.setattr(archive_sink, "received", inline_dataset.received)
    monkeypatch.setattr(archive_sink, "ModelHosts", inline_dataset.InlineHosts)
    monkeypatch.setattr(graph, "through_hosts", inline_dataset.through_hosts)
    monkeypatch.setattr(
        archive_sink, "connected", lambda *_: contextlib.nullcontext(choose_resources([Node(2)]))
    )


def config(videos: Path, archive: Path, **options: Any) -> IndexConfig:
    return IndexConfig(
        sources=(str(videos),),
        archive=str(archive),
        model="debug",
        segment_s=4.0,
        max_new_tokens=4,
        **options,
    )


def every_other(frames: np.ndarray, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return frames[::2], times_s[::2]


def stored(sink: ArchiveSink, function: Any = every_other) -> Any:
    frames = sink.change_frames(sink.decode(sink.segments()), function)
    return sink.store(sink.describe(frames))


def contents(archive: Path) -> dict[str, Any]:
    reader = ArchiveReader.open(str(archive))
    segments = reader.segments().to_pylist()
    texts = reader.annotations().to_pylist()
    return {
        "segments": sorted((row["segment_id"], row["frame_count"]) for row in segments),
        "texts": sorted((row["annotation_id"], row["text"]) for row in texts),
        "slots": sorted(
            lance.dataset(f"{archive}/memories.lance").to_table(["memory_id"])["memory_id"].to_pylist()
        ),
        "videos": sorted(reader.completed_videos()),
    }


def test_its_datasets_keep_to_the_runs_part_of_a_cluster(videos: Path, tmp_path: Path) -> None:
    use = ClusterUse(labels=(("zone", "a"),))
    with ArchiveSink(config(videos, tmp_path / "archive", cluster=use), stages=STAGES) as sink:
        assert sink.segments().context.execution_options.label_selector == {"zone": "a"}


def test_rows_of_own_stages_are_stored_under_a_recipe_of_their_own(videos: Path, tmp_path: Path) -> None:
    place = tmp_path / "archive"
    with ArchiveSink(config(videos, place), stages=STAGES) as sink:
        assert sink.todo == 2
        report = stored(sink)
    assert (report.videos_indexed, report.segments_indexed, report.failures) == (2, 4, [])
    assert {count for _, count in contents(place)["segments"]} == {2}
    assert ArchiveReader.open(str(place)).recipe.stages == STAGES
    # Nothing is left to do, and nothing is done.
    with ArchiveSink(config(videos, place), stages=STAGES) as again:
        assert again.todo == 0
    for other in (
        lambda: ArchiveSink(config(videos, place), stages="another").__enter__(),
        lambda: index(config(videos, place)),
    ):
        with pytest.raises(RecipeMismatch, match="stages"):
            other()


@pytest.mark.parametrize("killed_after", [1, 3])
def test_what_a_killed_run_left_is_made_once(
    videos: Path, tmp_path: Path, killed_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, place = tmp_path / "whole", tmp_path / "killed"
    with ArchiveSink(config(videos, whole), stages=STAGES) as sink:
        stored(sink)

    def until_killed(dataset: inline_dataset.InlineDataset) -> Iterator[Any]:
        for number, block in enumerate(dataset):
            if "receipt" in block.column_names and number == killed_after:
                raise KeyboardInterrupt
            yield block

    with monkeypatch.context() as patch:
        patch.setattr(archive_sink, "received", until_killed)
        with pytest.raises(KeyboardInterrupt), ArchiveSink(config(videos, place), stages=STAGES) as sink:
            stored(sink)
    assert len(contents(place)["segments"]) == killed_after
    with ArchiveSink(config(videos, place), stages=STAGES) as sink:
        report = stored(sink)
    assert report.segments_indexed == 4 - killed_after
    assert contents(place) == contents(whole)


def test_what_fails_is_a_failure_and_the_rest_is_stored(videos: Path, tmp_path: Path) -> None:
    notes = tmp_path / "notes.mp4"
    notes.write_text("not a video")

    def not_at_the_end(frames: np.ndarray, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if times_s[0] >= 4:
            raise ZeroDivisionError("at the end")
        return frames, times_s

    settings = IndexConfig(
        **{**vars(config(videos, tmp_path / "archive")), "sources": (str(videos), str(notes))}
    )
    with ArchiveSink(settings, stages="fails at the end, 1") as sink:
        report = stored(sink, not_at_the_end)
    assert report.segments_indexed == 2
    assert sorted((failure.stage, failure.kind) for failure in report.failures) == [
        ("decode", "ZeroDivisionError"),
        ("decode", "ZeroDivisionError"),
        ("probe", "not_a_video"),
    ]
    assert ArchiveReader.open(str(tmp_path / "archive")).count("failures") == 3
    assert report.exit_code == 3


@pytest.mark.parametrize(
    ("stages", "options", "says"),
    [
        (" ", {}, "name your stages"),
        (STAGES, {"reindex": True}, "reindex"),
        (STAGES, {"dry_run": True, "prune": True}, "dry_run, prune"),
    ],
)
def test_what_a_sink_cannot_do_is_refused(
    stages: str, options: dict[str, bool], says: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=says):
        ArchiveSink(config(tmp_path, tmp_path / "archive", **options), stages=stages)
    assert list(tmp_path.iterdir()) == []
