"""Copies found among planted ones, and the time that it takes to look for them.

    python benchmarks/duplicates.py DIR [--videos 16] [--minutes 3]      # drawn videos
    python benchmarks/duplicates.py DIR --real FILM.mp4 [--parts 4]      # parts of real ones
    python benchmarks/duplicates.py --slots 100000                       # made-up slots, for the time

Of some videos copies are made with ffmpeg: scaled, cut, encoded again with few bits, mirrored, sped up, with frames
dropped at random (a variable rate), put into another video, or several of these. All are indexed with the demo model,
and ``malmm duplicates`` says what is a copy of what. A run that it finds is right if both of its sides show the same
seconds of one source for at least half of their length. A pair of files that share at least ten seconds is found if
runs cover half of them. Seconds are counted too: those of right runs in all of runs, and those found of all that are
shared.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from synthetic_archive import SLOT_S, SLOTS_A_VIDEO, SyntheticArchive, unit

from malmm.model.demo.videos import draw_video
from malmm.pipeline import ArchiveReader
from malmm.pipeline.duplicates.copies import find_copies

LEAST_S = 10.0
FFMPEG = ["ffmpeg", "-nostdin", "-v", "error", "-y"]


@dataclass(frozen=True)
class Part:
    """Seconds of a file that show seconds of a source: source = from_s + rate * (seconds - start_s)."""

    start_s: float
    end_s: float
    source: str
    from_s: float
    rate: float = 1.0

    def shown(self, start_s: float, end_s: float) -> tuple[float, float]:
        """The seconds of the source that are shown in these of the file."""
        begin, end = max(start_s, self.start_s), min(end_s, self.end_s)
        return tuple(self.from_s + self.rate * (at - self.start_s) for at in (begin, max(begin, end)))  # type: ignore[return-value]


# Names of copies, ffmpeg's options for them, and their speed.
FORMS: dict[str, tuple[list[str], float]] = {
    "scaled": (["-vf", "scale=176:144"], 1.0),
    "few bits": (["-crf", "42"], 1.0),
    "mirrored": (["-vf", "hflip"], 1.0),
    "faster": (["-vf", "setpts=PTS/1.05"], 1.05),
    "slower": (["-vf", "setpts=PTS/0.95"], 0.95),
    "frames dropped": (["-vf", "select='gt(random(1),0.4)'", "-fps_mode", "vfr"], 1.0),
    "all at once": (["-vf", "hflip,scale=200:150,setpts=PTS/1.04", "-crf", "36"], 1.04),
}


def main() -> None:
    """Plant and find, or measure the time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", help="where videos and archive are kept, and found again"
    )
    parser.add_argument(
        "--videos", type=int, default=16, help="drawn, of which a half is copied (%(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=3, help="how long each (%(default)g)")
    parser.add_argument("--real", type=Path, nargs="+", help="cut these instead of drawing")
    parser.add_argument("--parts", type=int, default=2, help="of each real video (%(default)s)")
    parser.add_argument("--fps", type=float, default=1.0, help="sampled frames a second (%(default)g)")
    parser.add_argument("--slots", type=int, nargs="+", help="measure the time with so many made-up slots")
    parser.add_argument("--size", type=int, default=256, help="numbers a vector, with --slots (%(default)s)")
    parser.add_argument("--vectors", type=int, default=4, help="vectors a slot, with --slots (%(default)s)")
    options = parser.parse_args()
    if options.slots:
        for count in options.slots:
            timed(count, options)
        return
    videos = options.folder / "videos"
    truth_file = options.folder / "truth.json"
    if truth_file.exists():
        held = json.loads(truth_file.read_text())
        truth = {name: [Part(**part) for part in parts] for name, parts in held.items()}
    else:
        videos.mkdir(parents=True, exist_ok=True)
        truth = plant(videos, options)
        truth_file.write_text(json.dumps({name: [vars(p) for p in parts] for name, parts in truth.items()}))
    place = options.folder / "archive"
    malmm = [sys.executable, "-m", "malmm.jobs.cli"]
    subprocess.run(
        [
            *malmm,
            "index",
            str(videos),
            "--archive",
            str(place),
            "--model",
            "demo",
            "--quiet",
            "--fps",
            str(options.fps),
        ],
        check=True,
    )
    began = time.perf_counter()
    command = [*malmm, "duplicates", "--archive", place, "--json", "--quiet"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"{len(truth)} videos; looked for copies in {time.perf_counter() - began:.1f} s, all told\n")
    score(truth, [run for group in report["groups"] for run in group["runs"]])


def plant(videos: Path, options: argparse.Namespace) -> dict[str, list[Part]]:
    """Make sources and copies, and return what each file shows."""
    chance = random.Random(5)
    truth: dict[str, list[Part]] = {}
    sources = cut_real(videos, options) if options.real else drawn(videos, options)
    for name, length_s in sources.items():
        truth[name] = [Part(0.0, length_s, name, 0.0)]
    copied = list(sources)[::2] if not options.real else list(sources)
    for place, name in enumerate(copied):
        length_s = sources[name]
        for form in list(FORMS) if options.real else [list(FORMS)[(place + k) % len(FORMS)] for k in (0, 3)]:
            filters, rate = FORMS[form]
            made = f"{Path(name).stem}-{form.replace(' ', '-')}.mp4"
            ffmpeg("-i", videos / name, *filters, "-an", *encoded(filters), videos / made)
            truth[made] = [Part(0.0, length_s / rate, name, 0.0, rate)]
        # A cut that does not begin where a segment or a second does, also encoded again.
        begin, long_s = round(chance.uniform(0.1, 0.4) * length_s, 2), round(0.4 * length_s, 2)
        made = f"{Path(name).stem}-cut.mp4"
        ffmpeg("-ss", begin, "-i", videos / name, "-t", long_s, "-an", *encoded([]), videos / made)
        truth[made] = [Part(0.0, long_s, name, begin)]
    names = list(sources)
    for place, name in enumerate(copied[: max(2, len(copied) // 2)]):
        # A clip in the middle of another video.
        host = names[(2 * place + 1) % len(names)]
        if host == name:
            continue
        made, length_s, host_s = f"{Path(host).stem}-with-{Path(name).stem}.mp4", sources[name], sources[host]
        begin, long_s, half_s = round(0.3 * length_s, 2), round(0.35 * length_s, 2), round(host_s / 2, 2)
        one = "fps=12,scale=320:240,setsar=1,setpts=PTS-STARTPTS,format=yuv420p"
        parts = [
            f"[0:v]trim=0:{half_s},{one}[a]",
            f"[1:v]trim={begin}:{begin + long_s},{one}[b]",
            f"[0:v]trim={half_s},{one}[c]",
            "[a][b][c]concat=n=3:v=1[v]",
        ]
        inputs = ["-i", videos / host, "-i", videos / name]
        ffmpeg(*inputs, "-filter_complex", ";".join(parts), "-map", "[v]", *encoded([]), videos / made)
        truth[made] = [
            Part(0.0, half_s, host, 0.0),
            Part(half_s, half_s + long_s, name, begin),
            Part(half_s + long_s, host_s + long_s, host, half_s),
        ]
    if not options.real:
        # Scenes in which nothing moves, alike in several files, and pictures of one colour: no copies to speak of.
        for number in range(4):
            still = f"still-{number}.mp4"
            look = "color=c=black" if number < 2 else "color=c=0x305080"
            ffmpeg(
                "-f",
                "lavfi",
                "-i",
                f"{look}:s=320x240:r=10:d={60 + 20 * number}",
                *encoded([]),
                videos / still,
            )
            truth[still] = [Part(0.0, 60 + 20 * number, still, 0.0)]
    return truth


def drawn(videos: Path, options: argparse.Namespace) -> dict[str, float]:
    """Videos of unseen seeds: name to length."""
    made = {}
    for number in range(options.videos):
        name = f"drawn-{number:02d}.mp4"
        draw_video(videos / name, seconds=60 * options.minutes, seed=(71, number))
        made[name] = 60 * options.minutes
    return made


def cut_real(videos: Path, options: argparse.Namespace) -> dict[str, float]:
    """Parts of real videos, as videos of their own: name to length."""
    made = {}
    for film in options.real:
        shown = ["-show_entries", "format=duration", "-of", "csv=p=0"]
        said = subprocess.run(["ffprobe", "-v", "error", *shown, str(film)], check=True, capture_output=True)
        length_s = float(said.stdout) / options.parts
        for part in range(options.parts):
            name = f"{film.stem}-{part}.mp4"
            ffmpeg("-ss", part * length_s, "-i", film, "-t", length_s, "-an", *encoded([]), videos / name)
            made[name] = length_s
    return made


def encoded(filters: list[str]) -> list[str]:
    """Options of the encoder."""
    crf = [] if "-crf" in filters else ["-crf", "26"]
    return ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", *crf]


def ffmpeg(*arguments: object) -> None:
    """Run ffmpeg."""
    subprocess.run([*FFMPEG, *map(str, arguments)], check=True)


def score(truth: dict[str, list[Part]], runs: list[dict[str, object]]) -> None:
    """Print precision and recall, and what was wrong or missed."""
    found: dict[frozenset[str], float] = {}
    right_runs, right_s, all_s = 0, 0.0, 0.0
    for run in runs:
        sides = [run["first"], run["second"]]
        names = [Path(side["uri"]).name for side in sides]  # type: ignore[index]
        spans = [(side["start_s"], side["end_s"]) for side in sides]  # type: ignore[index]
        length_s = max(end - start for start, end in spans)
        shared_s = shared(truth[names[0]], spans[0], truth[names[1]], spans[1])
        all_s += length_s
        right_s += min(shared_s, length_s)
        right_runs += shared_s >= length_s / 2
        key = frozenset(names)
        found[key] = found.get(key, 0.0) + shared_s
        if shared_s < length_s / 2:
            print(f"wrong: {names} {spans} similarity {run['similarity']:.2f} moving {run['moving']:.2f}")
    wanted = {}
    for one, other in combinations(truth, 2):
        common_s = shared(truth[one], (0.0, 1e9), truth[other], (0.0, 1e9))
        if common_s >= LEAST_S:
            wanted[frozenset((one, other))] = common_s
    hit = {pair for pair, common_s in wanted.items() if found.get(pair, 0.0) >= common_s / 2}
    for pair in wanted.keys() - hit:
        print(f"missed: {sorted(pair)}: {found.get(pair, 0.0):.0f} of {wanted[pair]:.0f} s")
    found_s = sum(min(found.get(pair, 0.0), common_s) for pair, common_s in wanted.items())
    print("\n| | planted | found | recall | reported | right | precision |\n|---|---|---|---|---|---|---|")
    print(f"| runs, pairs of files | {len(wanted)} | {len(hit)} | {percent(len(hit), len(wanted))} ", end="")
    print(f"| {len(runs)} | {right_runs} | {percent(right_runs, len(runs))} |")
    planted_s = sum(wanted.values())
    print(f"| seconds | {planted_s:.0f} | {found_s:.0f} | {percent(found_s, planted_s)} ", end="")
    print(f"| {all_s:.0f} | {right_s:.0f} | {percent(right_s, all_s)} |")


def shared(
    parts: list[Part], span: tuple[float, float], others: list[Part], their_span: tuple[float, float]
) -> float:
    """Seconds of sources that are shown in both spans."""
    total = 0.0
    for part in parts:
        for other in others:
            if part.source == other.source:
                mine, theirs = part.shown(*span), other.shown(*their_span)
                total += max(0.0, min(mine[1], theirs[1]) - max(mine[0], theirs[0]))
    return total


def percent(part: float, whole: float) -> str:
    """Such as 95.6 %."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


class Walks(SyntheticArchive):
    """Slots of one video after the other as a random walk takes them, and in some videos a stretch of another's."""

    def __init__(self, place: str, count: int, options: argparse.Namespace) -> None:
        super().__init__(place, options.vectors, options.size, 10, np.random.default_rng(0))
        self._shape = (options.vectors, options.size)
        videos = max(2, count // SLOTS_A_VIDEO)
        chance = random.Random(3)
        chosen = chance.sample(range(videos), min(40, videos) // 2 * 2)
        #: Copy, source, slots, and where they begin in either.
        self.copies = [
            (copy, source, chance.choice((30, 100, 300)), chance.randrange(400), chance.randrange(400))
            for copy, source in zip(chosen[::2], chosen[1::2], strict=True)
        ]
        self._walks: dict[int, np.ndarray] = {}

    def vectors(self, numbers: range, looks: np.ndarray) -> np.ndarray:
        """Unit vectors [slots, vectors, size] of the slots with these numbers."""
        places = [divmod(number, SLOTS_A_VIDEO) for number in numbers]
        about = np.stack([self._walk(video)[place] for video, place in places])[:, None]
        noise = np.random.default_rng(numbers.start).standard_normal((len(places), *self._shape), np.float32)
        return unit(about + 0.15 * np.linalg.norm(about, axis=-1, keepdims=True) * unit(noise))

    def _walk(self, video: int) -> np.ndarray:
        if video not in self._walks:
            if len(self._walks) > 8:
                self._walks.clear()
            made = self._own(video)
            for copy, source, slots, here, there in self.copies:
                if copy == video:
                    made[here : here + slots] = self._own(source)[there : there + slots]
            self._walks[video] = made
        return self._walks[video]

    def _own(self, video: int) -> np.ndarray:
        chance = np.random.default_rng((9, video))
        steps = chance.standard_normal((SLOTS_A_VIDEO, self._shape[1]), np.float32)
        return np.cumsum(0.25 * steps, 0) + 2 * chance.standard_normal((1, self._shape[1]), np.float32)


def timed(count: int, options: argparse.Namespace) -> None:
    """Print how long it takes to find twenty planted copies among made-up slots, and what that needs."""
    with tempfile.TemporaryDirectory() as folder:
        made = Walks(f"{folder}/archive", count, options)
        made.grow(count)
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, began_cpu = time.perf_counter(), time.process_time()
        steps: list[tuple[str, float]] = []
        archive = ArchiveReader.open(f"{folder}/archive")
        found = find_copies([archive], tell=lambda doing: steps.append((doing, time.perf_counter())))
        ended = time.perf_counter()
        took = [
            f"{doing} {after - at:.1f} s"
            for (doing, at), (_, after) in zip(steps, [*steps[1:], ("", ended)], strict=True)
        ]
        hits = 0
        number = {int(video.video_id[1:], 16): place for place, video in enumerate(found.videos)}
        for copy, source, slots, here, there in made.copies:
            hits += any(
                {run.first, run.second} == {number[copy], number[source]}
                and run.length_s >= 0.9 * SLOT_S * slots
                and round((run.second_span[0] - run.first_span[0]) / SLOT_S)
                == (there - here) * (1 if run.first == number[copy] else -1)
                for run in found.between
            )
        after_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"{count} slots of {options.vectors} vectors of {options.size}: {ended - began:.0f} s, "
            f"{time.process_time() - began_cpu:.0f} s of CPU; {'; '.join(took)}; "
            f"{hits} of {len(made.copies)} copies found, "
            f"{len(found.runs)} runs; {(after_kb - before_kb) / 1e3:.0f} MB more memory at the peak",
            flush=True,
        )


if __name__ == "__main__":
    main()
