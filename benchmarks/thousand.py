"""A thousand short videos with fifty hostile files among them: time, memory, and the cost of a rerun.

    python benchmarks/thousand.py [--videos 1000] [--hostile 50]

Encodes a dozen videos of one to two seconds, 64x48, and copies them under other names, each with some different bytes
appended. The hostile files are text, empty files, random bytes, only a header, only audio, a file truncated before its
index, an AVI whose header declares 32,000 by 32,000, and others. Indexes all with the debug model through the command
line, then again. The exit code is 1 unless every good video is indexed, every hostile file has its reason in
``failures`` (exit code 3), and the rerun decodes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malmm.pipeline import ArchiveReader

OPTIONS = (
    *("--model", "debug", "--fps", "2", "--segment-s", "4", "--bank-length", "2", "--max-new-tokens", "4"),
    *("--quiet", "--json"),
)
TEMPLATES = 12


@dataclass(frozen=True)
class _Ended:
    code: int
    report: dict[str, Any]
    elapsed_s: float
    peak_mb: float


def main() -> None:
    """Make the files, index them twice and print the results. The exit code is 0 if all results are right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=1000, help="files in all (%(default)s)")
    parser.add_argument("--hostile", type=int, default=50, help="how many of them (%(default)s)")
    options = parser.parse_args()
    good = options.videos - options.hostile
    os.environ.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryDirectory(prefix="malmm-thousand-") as name:
        folder, archive = Path(name) / "videos", Path(name) / "archive"
        folder.mkdir()
        hostile = _make(folder, good, options.hostile)
        first = _index(folder, archive)
        failed = {row["uri"]: row["kind"] for row in ArchiveReader.open(str(archive)).failures().to_pylist()}
        again = _index(folder, archive)
        report, rerun = first.report, again.report
        print("| | first run | rerun |\n|---|---|---|")
        for shown in ("videos_indexed", "videos_unchanged", "videos_given_up", "segments_indexed", "frames"):
            print(f"| {shown.replace('_', ' ')} | {report[shown]} | {rerun[shown]} |")
        print(f"| failures | {len(report['failures'])} | {len(rerun['failures'])} |")
        print(f"| exit code | {first.code} | {again.code} |")
        print(f"| s in all | {first.elapsed_s:.1f} | {again.elapsed_s:.1f} |")
        print(f"| of them indexing | {report['indexing_s']:.1f} | {rerun['indexing_s']:.1f} |")
        print(f"| videos a second in all | {options.videos / first.elapsed_s:.1f} | - |")
        print(f"| driver's peak MB | {first.peak_mb:.0f} | {again.peak_mb:.0f} |")
        print(
            "\nfailures: " + ", ".join(f"{count} {kind}" for kind, count in Counter(failed.values()).items())
        )
        well = (
            (first.code, report["videos_indexed"], set(failed)) == (3, good, hostile)
            and (again.code, rerun["segments_indexed"], rerun["frames"]) == (3, 0, 0)
            and (rerun["videos_unchanged"], rerun["videos_given_up"]) == (good, options.hostile)
        )
        if not well:
            missing, surplus = sorted(hostile - set(failed)), sorted(set(failed) - hostile)
            print(f"not as it has to be: without a failure {missing}, with one {surplus}")
    sys.exit(int(not well))


def _index(folder: Path, archive: Path) -> _Ended:
    command = [sys.executable, "-m", "malmm.jobs.cli", "index", str(folder), "--archive", str(archive)]
    began, peak_mb = time.monotonic(), 0.0
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([*command, *OPTIONS], stdin=subprocess.DEVNULL, stdout=output)
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:  # it ended meanwhile
                continue
            found = re.search(r"VmHWM:\s+(\d+) kB", status)
            peak_mb = max(peak_mb, int(found[1]) / 1000 if found else 0.0)
            time.sleep(0.2)
        elapsed_s = time.monotonic() - began
        output.seek(0)
        text = output.read()
    if not text:
        sys.exit(f"`malmm index` ended with {process.returncode} and no report")
    return _Ended(process.returncode, json.loads(text), elapsed_s, peak_mb)


def _make(folder: Path, good: int, hostile: int) -> set[str]:
    """Write the files; return the addresses of those that hold no video."""
    beside = folder.parent / "templates"
    beside.mkdir()
    templates = []
    for number in range(TEMPLATES):
        source = ("testsrc2", "smptebars", "testsrc", "rgbtestsrc")[number % 4]
        path = beside / f"{number}.mp4"
        length_s = 1 + number / (TEMPLATES - 1)
        _ffmpeg(
            f"{source}=size=64x48:rate=12:duration={length_s}", "-c:v", "libx264", "-pix_fmt", "yuv420p", path
        )
        templates.append(path.read_bytes())
    for number in range(good):
        # A box that players skip: no two files are equal.
        own = struct.pack(">I4sQ", 16, b"free", number)
        (folder / f"{number:04}.mp4").write_bytes(templates[number % TEMPLATES] + own)
    kinds = _spoilt(beside, templates)
    names = set()
    for number in range(hostile):
        name, make = kinds[number % len(kinds)]
        path = folder / f"{number:04}-{name}"
        path.write_bytes(make(number))
        names.add(str(path))
    return names


def _spoilt(beside: Path, templates: list[bytes]) -> list[tuple[str, Callable[[int], bytes]]]:
    """Kinds of files that hold no video: a name's end, and the bytes of each by its number."""
    sound, raw = beside / "sound.mp4", beside / "raw.avi"
    _ffmpeg("sine=d=2", sound)
    _ffmpeg("testsrc2=size=64x48:rate=5:duration=1", "-c:v", "rawvideo", "-pix_fmt", "bgr24", raw)
    huge = bytearray(raw.read_bytes())
    struct.pack_into("<ii", huge, huge.index(b"strf") + 12, 32_000, 32_000)
    page = b"<html><body>404 Not Found</body></html>\n"

    def whole(number: int) -> bytes:
        return templates[number % len(templates)]

    def without_index(number: int) -> bytes:
        return whole(number)[: whole(number).index(b"moov") - 4]

    def noise(number: int) -> bytes:
        return random.Random(number).randbytes(20_000)

    return [
        ("web-page.mp4", lambda number: page * (number + 10)),
        ("empty.mp4", lambda number: b""),
        ("cut-before-its-index.mp4", without_index),
        ("sound.mp4", lambda number: sound.read_bytes()),
        ("noise.mkv", noise),
        ("header-only.mp4", lambda number: whole(number)[:32]),
        ("huge-in-the-header.avi", lambda number: bytes(huge)),
        ("zeros.mov", lambda number: bytes(10_000 + number)),
        ("noise-behind-a-header.mp4", lambda number: whole(number)[:32] + noise(number)),
        ("json.webm", lambda number: json.dumps({"number": number}).encode()),
    ]


def _ffmpeg(source: str, *arguments: str | Path) -> None:
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        import imageio_ffmpeg

        ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    command = [ffmpeg, "-v", "error", "-f", "lavfi", "-i", source, *map(str, arguments)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
