"""Videos through a Ray Data pipeline with a stage of your own, into an archive, exactly once.

    python examples/own_stage.py archive video.mp4 ...

Frames that are nearly black are dropped before they are encoded. Kill it anywhere and run it again: it goes on with the
segments that are missing, and stores none twice. Other stages, or another version of these, need another archive.
"""

from __future__ import annotations

import sys

import numpy as np

from malmm.pipeline import ArchiveReader, ArchiveSink, IndexConfig


def only_bright(frames: np.ndarray, times_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames [T, H, W, 3] whose mean is below 16 go, unless all would."""
    bright = frames.mean(axis=(1, 2, 3)) >= 16
    return (frames[bright], times_s[bright]) if bright.any() else (frames, times_s)


def main(archive: str, *videos: str) -> None:
    """Store what is new, and print a line a segment."""
    config = IndexConfig(sources=videos, archive=archive, model="demo")
    with ArchiveSink(config, stages="no dark frames, 1") as sink:
        if sink.todo:
            frames = sink.change_frames(sink.decode(sink.segments()), only_bright)
            for failure in sink.store(sink.describe(frames)).failures:
                print(f"{failure.uri}: {failure.message}")
    for row in ArchiveReader.open(archive).annotations().to_pylist():
        print(f"{row['video_id']} {row['start_s']:.0f}-{row['end_s']:.0f} s: {row['text']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
