"""The archive that version 0.1 wrote: three drawn videos of 20 s in six segments, indexed with the demo model."""

from __future__ import annotations

import tarfile
from pathlib import Path

PACKED = Path(__file__).parents[1] / "data" / "archive-0.1.tar.gz"


def unpacked(folder: Path) -> str:
    """Its address, in a folder of the test's own."""
    with tarfile.open(PACKED) as packed:
        packed.extractall(folder, filter="data")
    return str(folder / "archive")
