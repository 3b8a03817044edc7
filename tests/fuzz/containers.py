"""A fuzz target for the reading of containers: small real files, mutated, are probed and decoded.

    python tests/fuzz/containers.py [--seconds 60] [--seed 1] [--keep FOLDER] [FILE ...]

Every outcome must be frames or a documented failure kind, and the caller must live: anything else is kept in the
folder, with its seed, and the exit status is 1. Files that crash or hang the sandbox's process are kept too, though
they are no fault here. Without files it takes those of tests/data/media and some that it makes with ffmpeg.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from support.media import VideoSpec, make_video

from malmm.operators.media.sandbox.client import Sandbox
from malmm.operators.media.span import DecodedSpan, SpanRequest
from malmm.pipeline.schema.errors import MediaError

DATA = Path(__file__).parents[1] / "data" / "media"
KINDS = frozenset(
    (
        *("not_a_video", "no_video_stream", "no_frames", "encrypted", "truncated", "decode_error"),
        *("empty_file", "crashed", "timed_out", "too_large"),
    )
)
ODD = frozenset(("crashed", "timed_out"))
LIMIT_S, SIZE = 30.0, 16
MADE = (
    VideoSpec("a.mp4", duration_s=2.0, b_frames=2),
    VideoSpec("front.mp4", duration_s=2.0, faststart=True, rotation=90),
    VideoSpec("a.mkv", duration_s=2.0, b_frames=2, open_gop=True),
    VideoSpec("a.webm", duration_s=2.0, codec="libvpx"),
    VideoSpec("a.ts", duration_s=2.0),
    VideoSpec("a.flv", duration_s=2.0),
    VideoSpec("a.avi", duration_s=2.0, codec="mpeg4"),
    VideoSpec("a.mpg", rate="25", duration_s=2.0, codec="mpeg2video"),
    VideoSpec("a.ogv", duration_s=2.0, codec="libtheora"),
)
NUMBERS = tuple(
    value.to_bytes(4, order)
    for value in (0, 1, 7, 8, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
    for order in ("big", "little")
)


def truncated(data: bytearray, chance: random.Random) -> bytearray:
    return data[: chance.randrange(1, len(data))]


def overwritten(data: bytearray, chance: random.Random) -> bytearray:
    at, count = chance.randrange(len(data)), chance.randrange(1, 400)
    data[at : at + count] = chance.randbytes(min(count, len(data) - at))
    return data


def flipped(data: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.randrange(1, 30)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def miscounted(data: bytearray, chance: random.Random) -> bytearray:
    """A number in the head or the rear, where indexes lie, becomes an extreme one."""
    near = chance.randrange(min(len(data), 4000))
    at = near if chance.random() < 0.6 else max(0, len(data) - 4 - near)
    data[at : at + 4] = chance.choice(NUMBERS)
    return data


def blanked(data: bytearray, chance: random.Random) -> bytearray:
    at = chance.randrange(len(data))
    count = min(chance.randrange(1, 5000), len(data) - at)
    data[at : at + count] = bytes(count)
    return data


def removed(data: bytearray, chance: random.Random) -> bytearray:
    at = chance.randrange(len(data))
    del data[at : at + chance.randrange(1, 300)]
    return data or bytearray(1)


def repeated(data: bytearray, chance: random.Random) -> bytearray:
    at = chance.randrange(len(data))
    piece = data[at : at + chance.randrange(1, 3000)]
    place = chance.randrange(len(data))
    return data[:place] + piece + data[place:]


MUTATIONS: tuple[Callable[[bytearray, random.Random], bytearray], ...] = (
    truncated,
    overwritten,
    flipped,
    miscounted,
    blanked,
    removed,
    repeated,
)


@dataclass(frozen=True)
class Finding:
    """A mutated file that a person should look at. ``is_fault`` if it breaks the rule."""

    name: str
    what: str
    is_fault: bool


class Fuzzer:
    """Mutates files and reads them; ``outcomes`` counts what came of it."""

    def __init__(self, files: list[Path], folder: Path, sandbox: Sandbox) -> None:
        self.sources = {path: path.read_bytes() for path in files}
        self.folder, self.sandbox = folder, sandbox
        self.outcomes: Counter[str] = Counter()
        self.findings: list[Finding] = []

    def once(self, seed: int) -> str:
        """Read one mutated file; what came of it, for a seed always the same."""
        chance = random.Random(seed)
        source = chance.choice(sorted(self.sources))
        data = bytearray(self.sources[source])
        for _ in range(chance.randrange(1, 4)):
            data = chance.choice(MUTATIONS)(data, chance)
        path = self.folder / f"{seed}-{source.name}"
        path.write_bytes(data)
        try:
            outcome, is_fault = self._read(path, chance), False
        except Exception as error:  # noqa: BLE001 - any exception but the documented one is a finding
            outcome, is_fault = f"{type(error).__name__}: {error}", True
        self.outcomes["fault" if is_fault else outcome] += 1
        if is_fault or outcome in ODD:
            self.findings.append(Finding(path.name, outcome, is_fault))
        else:
            path.unlink()
        return outcome

    def _read(self, path: Path, chance: random.Random) -> str:
        try:
            info = self.sandbox.probe(str(path), limit_s=LIMIT_S)
            length_s = min(info.duration_s, 20.0)
            start_s = info.start_s + chance.random() * length_s
            keyframes = chance.random() < 0.3
            request = SpanRequest(str(path), start_s, start_s + 2.0, 2.0, SIZE, keyframes=keyframes)
            check(self.sandbox.decode(request, limit_s=LIMIT_S), request)
        except MediaError as error:
            if error.kind not in KINDS:
                raise ValueError(f"undocumented kind {error.kind}: {error}") from error
            if str(path) not in str(error):
                raise ValueError(f"a message that does not name the file: {error}") from error
            return error.kind
        return "frames"


def check(span: DecodedSpan, request: SpanRequest) -> None:
    """Raises ValueError unless the frames are of the span, in order and no more than were asked for."""
    times_s = span.timestamps_s
    if not len(times_s) or len(times_s) > (request.end_s - request.start_s) * request.fps + 1:
        raise ValueError(f"{len(times_s)} frames")
    if np.any(np.diff(times_s) <= 0) or times_s[0] < request.start_s - 1e-6 or times_s[-1] > request.end_s:
        raise ValueError(f"times {times_s} in {request}")


def seeds(folder: Path) -> list[Path]:
    """The files to mutate: those of other projects, and one of each container that ffmpeg makes."""
    made = [make_video(folder, spec) for spec in MADE]
    return [path for path in DATA.iterdir() if path.suffix != ".md"] + made


def main() -> int:
    """Run until the time is up and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz-containers"))
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    end, seed = time.monotonic() + options.seconds, options.seed
    with tempfile.TemporaryDirectory() as folder, Sandbox() as sandbox:
        fuzzer = Fuzzer(options.files or seeds(Path(folder)), options.keep, sandbox)
        while time.monotonic() < end:
            fuzzer.once(seed)
            seed += 1
    print(f"{seed - options.seed} files, seeds {options.seed} to {seed - 1}")
    for outcome, count in fuzzer.outcomes.most_common():
        print(f"{count:8} {outcome}")
    for finding in fuzzer.findings:
        print(f"{'FAULT' if finding.is_fault else 'odd'}: {options.keep / finding.name}: {finding.what}")
    return int(any(finding.is_fault for finding in fuzzer.findings))


if __name__ == "__main__":
    sys.exit(main())
