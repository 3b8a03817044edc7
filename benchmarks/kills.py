"""Kill and freeze runs at random instants, and check that they end with the rows of a clean run.

    python benchmarks/kills.py [--kills 40] [--freezes 20] [--seed 0] [--s3]

Draws four tiny videos and indexes them with the debug model through the command line. Then it indexes them into other
archives, kills the run's whole process group (SIGKILL) at a random instant, runs it again on the same archive, and so
on. Whenever a run reaches its end, its archive is compared row for row with the first one, and a new archive is begun.
``--freezes`` of the kills are freezes instead: the run's process group is stopped (SIGSTOP) for longer than its lease;
a second run, which cannot see its processes, as on another machine, takes the archive over and finishes; then the first
is continued (SIGCONT). The lease is short, so that a freeze need not last long.

The instants are spread over a run's whole life: each is drawn from one of a run's stages in turn, from the start of the
stage to as long after it as the stage took in the clean run. With ``--s3`` videos and archives are in the bucket of a
moto server, which is not killed. The exit code is 1 if a row was lost, changed or duplicated, if orphans were left, or
if a process still ran a minute after a kill. Linux only.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from archive_flaws import KEYS, Flaws, compared, count, rows_of

from malmm.pipeline import ArchiveReader

LENGTHS_S = (5, 3, 6, 4)
# One segment at a time, so that no batch depends on when its run was stopped.
OPTIONS = (
    *("--model", "debug", "--segment-s", "0.5", "--fps", "4", "--bank-length", "2", "--max-new-tokens", "4"),
    *("--batch-segments", "1", "--json"),
)
PROMPT = ("--prompt", "people=How many people are there?")
# The stage that begins when a run has committed its first segments; other stages have the command line's names.
COMMITTING = "Committing"
# The command line with a short lease, and the same on what seems to be another machine.
LEASE_S = 12.0
_HERE = f"""
from malmm.pipeline.archive import lease, lease_renewal, lease_table
lease_renewal.PATIENCE_S, lease_renewal.BEAT_S, lease._POLL_S = {LEASE_S}, {LEASE_S / 6}, 0.2
"""
_ELSEWHERE = _HERE + "lease.place = lease_table.place = lambda: 'another machine'\n"
_MAIN = "import sys; from malmm.jobs.cli import main; sys.exit(main(sys.argv[1:]))\n"
# A Ray worker that was just starting looks for its cluster for about 25 s before it ends.
_LEAVING_S, _TRIES = 60.0, 3


def main() -> None:
    """Run, kill, compare and print. Exits with 1 if there is a flaw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=40, help="kills and freezes together")
    parser.add_argument("--freezes", type=int, default=20, help="how many of them are freezes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--s3", action="store_true", help="videos and archives in an object store")
    options = parser.parse_args()
    os.environ.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryDirectory(prefix="malmm-kills-") as name:
        folder = Path(name)
        _draw(folder / "videos")
        if not options.s3:
            flaws = _measure(str(folder / "videos"), str(folder), options, folder)
        else:
            with _object_store(folder / "videos") as bucket:
                flaws = _measure(f"{bucket}/videos", bucket, options, folder)
    sys.exit(int(flaws.any))


def _measure(videos: str, archives: str, options: argparse.Namespace, folder: Path) -> Flaws:
    chance = random.Random(options.seed)
    clean = _Run(videos, f"{archives}/clean", folder)
    if not clean.finished():
        sys.exit(f"`malmm index` ended with {clean.process.returncode}: {clean.errors.read_text()[-2000:]}")
    expected = rows_of(ArchiveReader.open(clean.archive))
    segments, rows = len(expected["segments"]), sum(expected[name].total() for name in KEYS)
    stages = clean.stages
    lengths_s = {
        stage: end_s - begin_s
        for (stage, begin_s), end_s in zip(
            stages.items(), [*list(stages.values())[1:], clean.elapsed_s], strict=True
        )
    }
    shown = ", ".join(f"{_shown(stage)} {length_s:.0f}" for stage, length_s in lengths_s.items())
    print(f"a clean run: {segments} segments, {rows} rows; {clean.elapsed_s:.0f} s: {shown}\n", flush=True)
    print(
        "| kill | after s | it said last | segments before | then | videos | ended |\n|---|---|---|---|---|---|---|"
    )

    # Three times as many instants in the stage that makes most commits.
    turns = [stage for stage in stages for _ in range(3 if stage == COMMITTING else 1)]
    instants = []
    for number in range(options.kills):
        stage = turns[number % len(turns)]
        instants.append((stage, chance.uniform(0.0, lengths_s[stage])))
    chance.shuffle(instants)
    freezes = set(chance.sample(range(options.kills), min(options.freezes, options.kills)))
    flaws, killed, ended, frozen = Flaws(), 0, 0, 0
    while killed < options.kills:
        place = f"{archives}/archive-{ended}"
        run = _Run(videos, place, folder)
        if killed in freezes and run.stopped_in(*instants[killed]):
            other = _Run(videos, place, folder, is_elsewhere=True)
            other.finished()
            stored, whole = count(place, "segments"), count(place, "videos")
            run.go_on()
            left = run.leave()
            flaws += Flaws(left=len(left))
            killed, frozen = killed + 1, frozen + 1
            fate = "was told" if "taken over" in run.errors.read_text() else f"{run.process.returncode}"
            print(
                f"| {killed}, frozen | {run.elapsed_s:.1f} | {_shown(run.stage_then)} | {run.before} | {stored} | "
                f"{whole} | {fate}{', left: ' + ', '.join(left) if left else ''} |",
                flush=True,
            )
            run = other
        elif killed not in freezes and run.killed_in(*instants[killed]):
            left = run.leave()
            flaws += Flaws(left=len(left))
            killed += 1
            stored, whole = count(place, "segments"), count(place, "videos")
            print(
                f"| {killed} | {run.elapsed_s:.1f} | {_shown(run.stage())} | {run.before} | {stored} | {whole} | "
                f"killed{', left: ' + ', '.join(left) if left else ''} |",
                flush=True,
            )
            if killed < options.kills:
                continue
            run = _Run(videos, place, folder)
        else:
            # The run ended first, faster than the clean run or without that stage: draw another instant.
            stage = chance.choice(turns)
            instants[killed] = (stage, chance.uniform(0.0, lengths_s[stage]))
        tries = 1
        while not run.finished():
            # On a busy machine Ray may not start in time.
            said = run.errors.read_text()
            last = said.splitlines()[-1] if said.strip() else f"code {run.process.returncode}, without a word"
            print(f"| | | ended: {last} | | | | |", flush=True)
            if tries == _TRIES:
                sys.exit(f"`malmm index` ended {tries} times with {run.process.returncode}: {said[-2000:]}")
            run = _Run(videos, place, folder)
            tries += 1
        found = compared(rows_of(ArchiveReader.open(place)), expected)
        print(f"| | | compared | | | | {found if found.any else 'as the clean run'} |", flush=True)
        flaws += found
        ended += 1
    print(
        f"\n{killed - frozen} kills, {frozen} freezes, {ended} archives that reached their end, of {rows} rows each"
    )
    print(
        f"rows lost {flaws.lost}, twice {flaws.twice}, changed {flaws.changed}, of no clean run {flaws.strange}"
    )
    print(f"orphans {flaws.orphans}; processes that a kill left {flaws.left}")
    return flaws


class _Run:
    """``malmm index`` as a process group of its own."""

    def __init__(self, videos: str, archive: str, folder: Path, *, is_elsewhere: bool = False) -> None:
        self.archive = archive
        name = "other" if is_elsewhere else "run"
        self.output, self.errors = folder / f"{name}-stdout.txt", folder / f"{name}-stderr.txt"
        self.before = count(archive, "segments")
        self.stage_then = ""
        script = (_ELSEWHERE if is_elsewhere else _HERE) + _MAIN
        command = [sys.executable, "-c", script, "index", videos, "--archive", archive]
        self.began = time.monotonic()
        with self.output.open("w") as output, self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [*command, *OPTIONS, *PROMPT],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        self.elapsed_s = 0.0
        self.stages = {"": 0.0}
        self.committing = False

    def finished(self) -> bool:
        """Wait for the end of the run. Returns whether it did all its work."""
        self._watch()
        self.leave()
        return self.process.returncode == 0

    def killed_in(self, stage: str, after_s: float) -> bool:
        """Kill the run ``after_s`` seconds after a stage began. Returns False if it had ended before."""
        self._watch(until=stage)
        try:
            self.process.wait(after_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.elapsed_s = time.monotonic() - self.began
        return self.process.wait() == -signal.SIGKILL

    def stopped_in(self, stage: str, after_s: float) -> bool:
        """Stop the run ``after_s`` seconds after a stage began. Returns False if it had ended before."""
        self._watch(until=stage)
        try:
            self.process.wait(after_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGSTOP)
            self.stage_then = self.stage()
        self.elapsed_s = time.monotonic() - self.began
        return self.process.returncode is None

    def go_on(self) -> None:
        """Continue a stopped run and wait for its end. Kills it if it does not end, as when its cluster is gone."""
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            self.process.wait(_LEAVING_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stage(self) -> str:
        """The run's current stage, from its own output; ``COMMITTING`` once it has committed a segment."""
        lines = self.errors.read_text().splitlines()
        said = lines[-1].split(",")[0] if lines else ""
        if said != "Indexing":
            return said
        self.committing = self.committing or count(self.archive, "segments") > self.before
        return COMMITTING if self.committing else said

    def _watch(self, until: str | None = None) -> None:
        while self.process.poll() is None:
            stage = self.stage()
            self.stages.setdefault(stage, time.monotonic() - self.began)
            if stage == until:
                break
            time.sleep(0.05)
        self.elapsed_s = time.monotonic() - self.began

    def leave(self) -> list[str]:
        """Wait for all processes of its session to end. Kills those that do not, and returns their names."""
        until = time.monotonic() + _LEAVING_S
        while (left := self._members()) and time.monotonic() < until:
            time.sleep(0.1)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return list(left.values())

    def _members(self) -> dict[int, str]:
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
                except OSError:  # it ended meanwhile
                    continue
                state, _, _, session = rest.split()[:4]
                if int(session) == self.process.pid and state != "Z":
                    found[int(entry.name)] = name
        return found


def _shown(stage: str) -> str:
    return stage.lower() or "starting"


def _draw(folder: Path) -> None:
    folder.mkdir()
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        import imageio_ffmpeg

        ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    for number, length_s in enumerate(LENGTHS_S):
        source = f"{('testsrc2', 'smptebars', 'testsrc')[number % 3]}=size=64x48:rate=12:duration={length_s}"
        command = [
            ffmpeg,
            "-v",
            "error",
            "-f",
            "lavfi",
            "-i",
            source,
            "-c:v",
            "libx264",
            "-pix_fmt",
            "yuv420p",
        ]
        subprocess.run(
            [*command, "-g", "12", str(folder / f"{number}.mp4")], check=True, stdin=subprocess.DEVNULL
        )


@contextmanager
def _object_store(videos: Path) -> Iterator[str]:
    """A bucket with a copy of the videos. Sets the environment variables by which processes find it."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
    }
    try:
        client = boto3.client("s3")
        client.create_bucket(Bucket="kills")
        for path in videos.iterdir():
            client.upload_file(str(path), "kills", f"videos/{path.name}")
        client.close()
        yield "s3://kills"
    finally:
        server.stop()


if __name__ == "__main__":
    main()
