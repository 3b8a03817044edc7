"""The examples run as they are, as a user would run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from malmm.model.demo.questions import description
from malmm.model.demo.videos import draw_video
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.ids import video_id

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_stage_of_ones_own_between_decode_and_encode(tmp_path: Path) -> None:
    scenes = draw_video(tmp_path / "drawn.mp4", seconds=20, seed=(9, 1))
    (tmp_path / "text.mp4").write_text("no video")
    files = [str(tmp_path / name) for name in ("drawn.mp4", "text.mp4")]
    archive = str(tmp_path / "archive")
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "own_stage.py"), archive, *files],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "RAY_DEDUP_LOGS": "0"},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith(f"{files[1]}: ") for line in lines)
    assert f"{video_id(files[0])} 0-20 s: {description(scenes)}" in lines
    assert ArchiveReader.open(archive).recipe.stages == "no dark frames, 1"


def test_the_example_of_a_pipeline_fits_a_screen() -> None:
    lines = (EXAMPLES / "own_stage.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 40
    assert [line for line in lines if "malmm." in line and "import" in line] == [
        "from malmm.pipeline import ArchiveReader, ArchiveSink, IndexConfig"
    ]
