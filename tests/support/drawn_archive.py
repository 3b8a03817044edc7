"""A real archive of drawn videos, indexed by the demo model in this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from malmm.model.demo.videos import draw_video
from malmm.model.demo.world import Scene
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.indexing.index import index
from malmm.pipeline.schema.config import IndexConfig
from support.inline_stages import InlineStages

SEED = 31


@dataclass(frozen=True)
class Drawn:
    """The archive's address, and the scenes of each video by its id."""

    place: str
    scenes: dict[str, list[Scene]]

    @property
    def reader(self) -> ArchiveReader:
        return ArchiveReader.open(self.place)

    def showing(self, colour: str, shape: str) -> list[tuple[str, Scene]]:
        """Where an object is seen."""
        return [
            (video, scene)
            for video, scenes in self.scenes.items()
            for scene in scenes
            if any((thing.colour, thing.shape) == (colour, shape) for thing in scene.objects)
        ]

    def only_once(self) -> list[tuple[str, str, Scene]]:
        """Objects that are seen in one scene: what they are called, where."""
        names = {thing.name for scenes in self.scenes.values() for scene in scenes for thing in scene.objects}
        found = [(name, self.showing(*name.split())) for name in sorted(names)]
        return [(name, *places[0]) for name, places in found if len(places) == 1]


def make_archive(
    folder: Path, *, videos: int = 3, seconds: float = 40.0, model: str = "demo", **options: object
) -> Drawn:
    """Draw videos and index them."""
    sources = folder / "videos"
    sources.mkdir(parents=True)
    drawn = {
        str(sources / f"{number}.mp4"): draw_video(
            sources / f"{number}.mp4", seconds=seconds, seed=(SEED, number)
        )
        for number in range(videos)
    }
    place = str(folder / "archive")
    with pytest.MonkeyPatch.context() as patch:
        InlineStages().install(patch)
        config = IndexConfig(sources=(str(sources / "*.mp4"),), archive=place, model=model, **options)  # type: ignore[arg-type]
        assert index(config).exit_code == 0
    rows = ArchiveReader.open(place).videos().to_pylist()
    return Drawn(place, {row["video_id"]: drawn[row["uri"]] for row in rows})
