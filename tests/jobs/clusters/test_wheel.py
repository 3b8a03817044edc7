from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from malmm.jobs.clusters.wheel import write_wheel


def test_the_wheel_is_what_runs_here_and_needs_nothing(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path)
    target = tmp_path / "target"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-compile",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(pip, check=True, capture_output=True)
    script = "import malmm.jobs.cli, malmm.model.demo as d; print(malmm.jobs.cli.__file__, d.__path__)"
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(target)}, cwd=tmp_path,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.count(str(target)) == 2
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
    assert {
        "malmm/jobs/files/tree.py",
        "malmm/pipeline/py.typed",
        "malmm/operators/media/__init__.py",
    } <= names
    for folder in ("weights", "smolvlm_weights"):
        assert any(name.startswith(f"malmm/model/demo/{folder}/") for name in names)
    assert not any("__pycache__" in name for name in names)


def test_the_same_package_makes_the_same_wheel(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert write_wheel(tmp_path / "a").read_bytes() == write_wheel(tmp_path / "b").read_bytes()
