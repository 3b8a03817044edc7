"""A disk that is full, and clocks that jump: nothing is lost, nothing is there twice, nobody is shut out for ever."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.archive_contents import contents
from support.archive_rows import RECIPE, VECTOR_SIZE
from support.inline_stages import InlineStages
from support.media import VideoSpec, make_video
from support.processes import run_here
from support.small_runs import SETTINGS as SMALL
from support.small_runs import committed, options

from malmm.pipeline.archive import lease as leases
from malmm.pipeline.archive import lease_renewal, lease_table
from malmm.pipeline.archive.lease import Lease
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.indexing import replay_commits, segment_commits
from malmm.pipeline.indexing.index import index
from malmm.pipeline.schema.config import IndexConfig
from malmm.pipeline.schema.errors import ArchiveBusy
from malmm.pipeline.schema.rows import Carried

# Small files for a small disk.
SETTINGS = SMALL | {"segment_s": 0.5}
LENGTHS_S = (10.0, 6.0)
SEGMENTS = 32
YEAR_S = 365 * 86_400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("videos")
    for number, duration_s in enumerate(LENGTHS_S):
        make_video(made, VideoSpec(f"{number}.mp4", rate="12", duration_s=duration_s, width=64, height=48))
    return made


@pytest.fixture(scope="module")
def clean(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run without mishap stores."""
    return indexed_here(folder, tmp_path_factory.mktemp("clean") / "archive")


def indexed_here(folder: Path, place: Path) -> dict[str, Any]:
    """Run to the end, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        InlineStages().install(patch)
        report = index(IndexConfig(sources=(str(folder),), archive=str(place), **SETTINGS))
    assert report.exit_code == 0
    assert report.failures == []
    return contents(ArchiveReader.open(str(place)))


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A file system of its own, which nobody else sees by name and which is gone with the process that holds it."""
    script = f"mount -t tmpfs -o size={megabytes}m none /mnt && echo mounted && exec sleep 3600"
    process = subprocess.Popen(
        ["unshare", "-Urm", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() == "mounted"
        yield Path(f"/proc/{process.pid}/root/mnt")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def fill(disk: Path) -> Path:
    """A file that takes all that is left."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    assert shutil.disk_usage(disk).free == 0
    return ballast


@pytest.mark.needs("small disk")
def test_a_full_disk_costs_a_rerun_and_nothing_else(
    folder: Path, clean: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (replay_commits, segment_commits):
        monkeypatch.setattr(module, "COMMIT_EVERY_S", 0.0)
    stages, ballast = InlineStages(), list[Path]()
    stages.install(monkeypatch)
    with small_disk(megabytes=64) as disk:
        place = disk / "archive"

        def fill_in_the_middle(row: Carried) -> None:
            if not ballast and committed(place):
                ballast.append(fill(disk))

        stages.mishap = fill_in_the_middle
        done = run_here(*options(folder, place, **SETTINGS))
        assert done.returncode in (1, 3)
        assert "Traceback" not in done.stderr
        assert "No space left on device" in done.stderr + done.stdout
        assert 0 < committed(place) < SEGMENTS
        [file] = ballast
        file.unlink()
        assert indexed_here(folder, place) == clean


# The wall's clock alone, for everything in a process that asks the C library, Rust's included.
SHIFTED_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long *shift_s;
__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("SHIFT_FILE"), O_RDONLY);
    shift_s = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    close(file);
}
int clock_gettime(clockid_t id, struct timespec *at) {
    int result = syscall(SYS_clock_gettime, id, at);
    if (!result && shift_s && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += *shift_s;
    return result;
}
int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""

# A writer that commits again and again, with beats as quick as the test's own patience is short.
WRITER = """
import sys, time
from support.archive_rows import RECIPE, VECTOR_SIZE, rows
from malmm.pipeline.archive import lease_renewal as lease
from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.archive.writer import Archive
lease.BEAT_S, lease.PATIENCE_S, lease._BEATS_A_CLEANING = 0.2, 4.0, 3
archive = Archive.create_or_open(sys.argv[1], RECIPE, VECTOR_SIZE)
with archive.held():
    archive.sweep()
    for number in range(int(sys.argv[2])):
        archive.commit(write_rows(archive.uri, rows(number)))
        archive.compact()
        print(number, int(time.time()), flush=True)
        sys.stdin.readline()
"""


class Clock:
    """The clock on the wall of the processes that are given ``environment``."""

    def __init__(self, folder: Path) -> None:
        source, library, self._shift = folder / "clock.c", folder / "clock.so", folder / "shift"
        source.write_text(SHIFTED_CLOCK)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        self._shift.write_bytes(struct.pack("@l", 0))
        self.environment = {"LD_PRELOAD": str(library), "SHIFT_FILE": str(self._shift)}

    def set(self, shift_s: int) -> None:
        """Put it forward, or with a negative number back, against the machine's."""
        with self._shift.open("r+b") as file:
            file.write(struct.pack("@l", shift_s))


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def on_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is not where the writers are, and its patience is short."""
    for module in (leases, lease_table):
        monkeypatch.setattr(module, "place", lambda: "another machine")
    monkeypatch.setattr(lease_renewal, "BEAT_S", 0.2)
    monkeypatch.setattr(lease_renewal, "PATIENCE_S", 2.0)
    monkeypatch.setattr(leases, "_POLL_S", 0.1)


@contextmanager
def writer(place: Path, clock: Clock, commits: int) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | clock.environment | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", WRITER, str(place), str(commits)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def next_commit(process: subprocess.Popen[str]) -> int:
    """What its clock says after its next commit."""
    assert process.stdout is not None
    return int(process.stdout.readline().split()[1])


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.needs("clock")
@pytest.mark.usefixtures("on_another_machine")
def test_a_writer_whose_clock_jumps_keeps_the_archive_to_itself(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A writer is refused at the holder's first beat; on a busy machine that may take long.
    monkeypatch.setattr(lease_renewal, "PATIENCE_S", 600.0)
    place, shifts = tmp_path / "archive", (0, YEAR_S, -YEAR_S, 3600)
    with writer(place, clock, len(shifts)) as process:
        for shift_s in shifts:
            clock.set(shift_s)
            assert next_commit(process) == pytest.approx(time.time() + shift_s, abs=60)
            with pytest.raises(ArchiveBusy):
                Lease.take(str(place))
            if shift_s != shifts[-1]:
                # What it does next, it does by the clock that has jumped.
                clock.set(shifts[shifts.index(shift_s) + 1])
            go_on(process)
        assert process.wait(60) == 0
    Lease.take(str(place)).give_back()
    archive = ArchiveReader.open(str(place))
    counts = [archive.count(name) for name in ("segments", "memories", "annotations")]
    assert counts == [len(shifts), 3 * len(shifts), len(shifts)]
    assert len(list(archive.memory_tokens(archive.completed_segments()))) == len(shifts)


@pytest.mark.needs("clock")
@pytest.mark.usefixtures("on_another_machine")
@pytest.mark.parametrize("shift_s", [YEAR_S, -YEAR_S], ids=["ahead", "behind"])
def test_a_writer_whose_clock_is_off_shuts_nobody_out_once_it_is_dead(
    tmp_path: Path, clock: Clock, shift_s: int
) -> None:
    place = tmp_path / "archive"
    clock.set(shift_s)
    with writer(place, clock, 2) as process:
        next_commit(process)
        process.kill()
        process.wait()
    written = ArchiveReader.open(str(place)).table("segments").to_lance().versions()[-1]["timestamp"]
    assert written.timestamp() == pytest.approx(time.time() + shift_s, abs=300)
    began = time.monotonic()
    archive = Archive.create_or_open(str(place), RECIPE, VECTOR_SIZE)
    with archive.held():
        assert 2.0 <= time.monotonic() - began < 60
        # The tables go on from versions that seem to be of another year.
        archive.sweep()
    clock.set(0)
    with writer(place, clock, 2) as process:
        for _ in range(2):
            next_commit(process)
            go_on(process)
        assert process.wait(60) == 0
    assert ArchiveReader.open(str(place)).count("memories") == 6
