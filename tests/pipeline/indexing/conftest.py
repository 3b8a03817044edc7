"""Videos and runs in this process that the tests of indexing share."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.archive_contents import contents
from support.inline_runs import Clean, Go, index_into
from support.inline_stages import InlineStages
from support.media import VideoSpec, cut, make_video

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.indexing import run_loop


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Videos of 2 and 3 segments, one that is cut short, and a file that is not a video."""
    folder = tmp_path_factory.mktemp("videos")
    whole = make_video(folder, VideoSpec("whole.mkv", duration_s=9.0))
    made = {
        "two": make_video(folder, VideoSpec("two.mp4", duration_s=6.0)),
        "three": make_video(folder, VideoSpec("three.mp4", duration_s=8.0, source="smptebars")),
        "short": cut(whole, 0.6, "short.mkv"),
        "whole": whole,
        "none": folder / "none.mp4",
    }
    made["none"].write_text("not a video")
    return made


@pytest.fixture(scope="session")
def _shared_stages() -> InlineStages:
    """Models are loaded once."""
    return InlineStages()


@pytest.fixture
def stages(_shared_stages: InlineStages, monkeypatch: pytest.MonkeyPatch) -> InlineStages:
    _shared_stages.install(monkeypatch)
    monkeypatch.setattr(run_loop, "RETRY_PAUSES_S", (0.0, 0.0))
    _shared_stages.calls.clear()
    _shared_stages.mishap = lambda row: None
    _shared_stages.lost_files = set()
    _shared_stages.interrupt_after = None
    return _shared_stages


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "archive")


@pytest.fixture
def go(stages: InlineStages, place: str) -> Go:
    """Index sources into the test's archive."""
    return partial(index_into, place)


@pytest.fixture(scope="session")
def _clean_runs() -> dict[Any, dict[str, Any]]:
    return {}


@pytest.fixture
def clean(
    stages: InlineStages, _clean_runs: dict[Any, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Clean:
    """What one run without mishap stores. One over the same files with the same settings is made once."""

    def stored(*sources: Path, **changes: Any) -> dict[str, Any]:
        # Files of the tests' own, which may change, lie in folders of their own.
        key = (sources, tuple(sorted(changes.items())))
        if key not in _clean_runs:
            place = str(tmp_path_factory.mktemp("clean") / "archive")
            index_into(place, *sources, **changes)
            _clean_runs[key] = contents(ArchiveReader.open(place))
        return _clean_runs[key]

    return stored
