from __future__ import annotations

import subprocess
import sys

import pytest
from support.drawn_archive import Drawn

from malmm.pipeline.archive.ray_dataset import dataset
from malmm.pipeline.schema.errors import ArchiveError


def test_rows_on_workers_are_those_of_the_archive(drawn: Drawn) -> None:
    script = (
        "import ray; from malmm.pipeline import dataset\n"
        "ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)\n"
        f"texts = dataset({drawn.place!r}, 'annotations', columns=['text'], where='segment_id IS NULL')\n"
        "print(sorted(row['text'] for row in texts.take_all()))\n"
        f"print(dataset({drawn.place!r}, 'memories').count())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    whole = [row["text"] for row in drawn.reader.annotations().to_pylist() if row["segment_id"] is None]
    assert done.stdout.splitlines()[-2:] == [str(sorted(whole)), str(drawn.reader.count("memories"))]


def test_a_table_that_is_not_there_is_said(drawn: Drawn) -> None:
    with pytest.raises(ArchiveError, match="no table 'songs'"):
        dataset(drawn.reader, "songs")
