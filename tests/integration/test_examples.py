"""The examples run as they are, as a user would run them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from malmm.model.demo.questions import description
from malmm.model.demo.videos import draw_video

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_a_stage_of_ones_own_between_decode_and_encode(tmp_path: Path) -> None:
    scenes = draw_video(tmp_path / "drawn.mp4", seconds=20, seed=(9, 1))
    (tmp_path / "text.mp4").write_text("no video")
    files = [str(tmp_path / name) for name in ("drawn.mp4", "text.mp4")]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "own_stage.py"), *files],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "RAY_DEDUP_LOGS": "0"},
    )
    assert done.returncode == 0, done.stderr
    # Which of the two comes first is the cluster's affair.
    assert f"{files[0]} 0-20 s: {description(scenes)}" in done.stdout.splitlines()
