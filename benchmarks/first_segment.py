"""Time to the first committed segment of a folder with many small files.

    python benchmarks/first_segment.py [--files 2000] [--model debug]

A folder has hard links to one drawn video of some seconds. It is indexed through the public API until the first segment
is committed; then the run is interrupted, as by Ctrl-C. Prints the seconds from the call to that commit, and how many
files had been listed, probed and planned by then.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

import imageio_ffmpeg

import malmm.pipeline as malmm


def main() -> None:
    """Index until the first commit and print a line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=2000, help="(%(default)s)")
    parser.add_argument("--model", default="debug", help="(%(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="malmm-first-") as folder:
        videos = Path(folder) / "videos"
        videos.mkdir()
        draw(videos / "000000.mp4")
        for number in range(1, options.files):
            os.link(videos / "000000.mp4", videos / f"{number:06d}.mp4")
        reached: list[tuple[str, float]] = []
        done: list[int] = []
        began = time.monotonic()

        def watch(progress: malmm.Progress) -> None:
            if not reached or reached[-1][0] != progress.stage:
                reached.append((progress.stage, time.monotonic() - began))
            if progress.segments_done and not done:
                done.append(progress.segments_done)
                print(
                    f"{options.files} files: first segment committed after {time.monotonic() - began:.1f} s; by then "
                    f"{progress.segments_total} segments of {progress.videos_total} videos were known",
                    flush=True,
                )
                raise KeyboardInterrupt

        config = malmm.IndexConfig(
            (str(videos),), f"{folder}/archive", model=options.model, fps=1.0, segment_s=4.0
        )
        report = malmm.index(config, on_progress=watch)
        assert report.interrupted
        print("; ".join(f"{stage} from {at_s:.1f} s" for stage, at_s in reached))


def draw(path: Path) -> None:
    """A small video of four seconds."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i"]
    command += ["testsrc2=size=64x48:rate=8:duration=4", "-c:v", "libx264", "-pix_fmt", "yuv420p", str(path)]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
