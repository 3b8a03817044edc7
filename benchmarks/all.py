"""Run all benchmarks, one after the other, and write their output to one file.

    python benchmarks/all.py FOLDER [--only qformer decode ...] [--list]

Draws the videos that some of them need and keeps them in FOLDER, with an archive of them. The output of each goes to
FOLDER/NAME.txt and, with the date and the machine, to FOLDER/benchmarks.md. Takes some hours on two cores, on a machine
that does nothing else. The exit code is 1 if one failed; the others are run nevertheless.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

HERE = Path(__file__).parent
MALMM = [sys.executable, "-m", "malmm.jobs.cli"]


def commands(folder: Path) -> dict[str, list[str]]:
    """What is run, by name: the benchmark's own name, and its arguments."""
    videos = [str(folder / "videos" / f"drawn-0-{number}.mp4") for number in range(4)]
    return {
        "qformer": ["--rounds", "1"],
        "vision": [],
        "language": [],
        "generation": [],
        "decode": videos[:1],
        "throughput": videos,
        "plain": [],
        "question": [*videos, "--paper-frames", "100"],
        "store": [str(folder / "archive")],
        "search": [],
        "page": [str(folder / "page"), "--slots", "100000"],
        "memory": [videos[0], "--loops", "12"],
        "ranges": videos[:1],
        "driver": [],
        "ray_driver": [],
        "nodes": ["--segments-a-node", "40"],
        "placement": [],
        "simulation": [],
        "thousand": [],
        "kills": [],
        "retrieval": [str(folder / "retrieval")],
        "demo_model": [str(folder / "scored")],
        "demo_weak_spots": [str(folder / "scored")],
        "finetune": [str(folder / "taught")],
    }


def main() -> None:
    """Prepare, run, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/bench"))
    parser.add_argument("--only", nargs="+", help="names of benchmarks", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    options = parser.parse_args()
    wanted = commands(options.folder)
    if unknown := sorted(set(options.only or ()) - set(wanted)):
        parser.error(f"no benchmark {unknown[0]!r}: one of {', '.join(wanted)}")
    if options.list:
        for name, arguments in wanted.items():
            print(" ".join(["python", f"benchmarks/{name}.py", *arguments]))
        return
    chosen = [name for name in wanted if not options.only or name in options.only]
    options.folder.mkdir(parents=True, exist_ok=True)
    prepare(options.folder, chosen)
    page = options.folder / "benchmarks.md"
    page.write_text(f"# Benchmarks, {datetime.now(UTC):%Y-%m-%d}\n\n{machine()}\n")
    failed = []
    for name in chosen:
        print(f"{name} …", flush=True)
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, str(HERE / f"{name}.py"), *wanted[name]], capture_output=True, text=True
        )
        (options.folder / f"{name}.txt").write_text(done.stdout + done.stderr)
        if done.returncode:
            failed.append(name)
        shown = " ".join(["python", f"benchmarks/{name}.py", *wanted[name]])
        with page.open("a") as file:
            file.write(f"\n## {name}, {time.monotonic() - began:.0f} s\n\n    {shown}\n\n{done.stdout}")
            if done.returncode:
                file.write(f"\nIt failed ({done.returncode}): {done.stderr.strip()[-500:]}\n")
        print(done.stdout, flush=True)
    print(f"{page} has the tables" + (f"; failed: {', '.join(failed)}" if failed else ""))
    sys.exit(1 if failed else 0)


def prepare(folder: Path, chosen: list[str]) -> None:
    """The videos and the archive that some of them need, unless they are there."""
    videos = folder / "videos"
    if not (videos / "drawn-0-3.mp4").exists():
        subprocess.run([*MALMM, "demo-videos", str(videos), "--count", "4", "--minutes", "5"], check=True)
    if "store" in chosen:
        subprocess.run(
            [
                *MALMM,
                "index",
                str(videos),
                "--archive",
                str(folder / "archive"),
                "--model",
                "demo",
                "--quiet",
            ],
            check=True,
            stdout=subprocess.DEVNULL,
        )


def machine() -> str:
    """What they ran on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, {gpu}; Python {platform.python_version()}, "
        f"torch {torch.__version__}."
    )


if __name__ == "__main__":
    main()
