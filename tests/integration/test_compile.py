"""A run that is to compile its encoder, on a machine that cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.media import VideoSpec, make_video
from support.processes import run_cli


def test_without_a_compiler_a_run_says_so_and_begins_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    video = make_video(tmp_path, VideoSpec("video.mp4", duration_s=2.0))
    archive = tmp_path / "archive"
    done = run_cli("index", video, "--archive", archive, "--model", "debug", "--compile", "--quiet")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "--compile needs a C++ compiler, and " in done.stderr
    assert done.stderr.strip().endswith("or run without --compile")
    assert not archive.exists()
