"""Peak resident memory of every process of an indexing run, for a short video against a long one.

    python benchmarks/memory.py VIDEO [--loops 51] [--index-option=--batch-segments=4 ...]

Indexes VIDEO, and then the same video repeated ``--loops`` times (by copying packets), each into a new archive with a
new Ray cluster, and prints the largest peak of each kind of process and the ratio. A peak is the kernel's high-water
mark (VmHWM), read twice a second. It includes pages of Ray's shared object store and of mapped files that the process
has touched; "own" is the memory that the process has allocated itself (RssAnon), the largest of the readings. Linux
only.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from pathlib import Path

_MARK = "MALMM_BENCHMARK_RUN"
Peak = tuple[float, float]


def main() -> None:
    """Run both and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path)
    parser.add_argument(
        "--loops", type=int, default=51, help="how many times the long video repeats it (%(default)s)"
    )
    parser.add_argument(
        "--index-option",
        action="append",
        default=[],
        help="passed on to `malmm index`, which has --model demo",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="malmm-memory-") as folder:
        long_video = Path(folder) / f"long{options.video.suffix}"
        _loop(options.video, long_video, options.loops)
        short, short_s = _peaks(options.video, Path(folder) / "short", options.index_option)
        long, long_s = _peaks(long_video, Path(folder) / "archive", options.index_option)
    print(f"{'':<28}{'':>10}{'peak MB':>23}{'':>8}{'own MB':>20}")
    print(
        f"{'process':<28}{'processes':>10}{'short':>12}{'long':>11}{'ratio':>8}{'short':>12}{'long':>8}{'ratio':>8}"
    )
    for kind in sorted(short.keys() | long.keys()):
        before, after = short.get(kind, {}), long.get(kind, {})
        print(f"{kind:<28}{len(before):>4} /{len(after):>4} ", end="")
        for part, width in ((0, 11), (1, 8)):
            a, b = (max((peak[part] for peak in each.values()), default=0.0) for each in (before, after))
            ratio = f"{b / a:8.2f}" if a and b else f"{'-':>8}"
            print(f"{a:11.0f}{b:{width}.0f}{ratio}", end=" ")
        print()
    print(f"took {short_s:.0f} s and {long_s:.0f} s")


def _loop(video: Path, target: Path, loops: int) -> None:
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        import imageio_ffmpeg

        ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    command = [ffmpeg, "-v", "error", "-stream_loop", str(loops - 1), "-i", str(video), "-c", "copy", "-an"]
    subprocess.run([*command, str(target)], check=True, stdin=subprocess.DEVNULL)


def _peaks(video: Path, archive: Path, options: list[str]) -> tuple[dict[str, dict[int, Peak]], float]:
    """Peak MB, in all and own, by kind of process and process id, and the run's seconds."""
    mark = uuid.uuid4().hex
    command = [
        sys.executable,
        "-m",
        "malmm.jobs.cli",
        "index",
        str(video),
        "--archive",
        str(archive),
        "--model",
        "demo",
        *options,
    ]
    began = time.monotonic()
    environment = os.environ | {_MARK: mark}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    peaks: dict[int, Peak] = {}
    kinds: dict[int, str] = {}
    while process.poll() is None:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and _is_ours(entry, mark):
                _note(entry, peaks, kinds)
        time.sleep(0.5)
    if process.returncode:
        sys.exit(f"`{' '.join(command)}` ended with {process.returncode}")
    by_kind: defaultdict[str, dict[int, Peak]] = defaultdict(dict)
    for pid, peak in peaks.items():
        by_kind[kinds[pid]][pid] = peak
    return dict(by_kind), time.monotonic() - began


def _is_ours(entry: Path, mark: str) -> bool:
    try:
        return f"{_MARK}={mark}".encode() in (entry / "environ").read_bytes()
    except OSError:  # it ended meanwhile, or is another user's
        return False


def _note(entry: Path, peaks: dict[int, Peak], kinds: dict[int, str]) -> None:
    try:
        status = (entry / "status").read_text()
        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return
    found = dict(re.findall(r"(VmHWM|RssAnon):\s+(\d+) kB", status))
    if not found:
        return
    pid = int(entry.name)
    own = max(int(found["RssAnon"]) / 1000, peaks.get(pid, (0.0, 0.0))[1])
    peaks[pid] = (int(found["VmHWM"]) / 1000, own)
    kind = _kind(command)
    # A Ray worker is called after what it runs, and idle between tasks: what it ran last is its kind.
    if pid not in kinds or not kind.startswith("ray::IDLE"):
        kinds[pid] = kind


def _kind(command: str) -> str:
    if "malmm.jobs.cli" in command:
        return "driver"
    if command.startswith("ray::"):
        inner = re.search(r"MapBatches\((\w+)\)", command)
        return f"ray::{inner[1]}" if inner else command.split()[0]
    program = Path(command.split()[0]).name if command else "?"
    script = re.search(r"(\w+)\.py\b", command)
    return script[1] if program.startswith("python") and script else program


if __name__ == "__main__":
    main()
