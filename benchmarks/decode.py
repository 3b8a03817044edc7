"""Speed of decoding a video to sampled frames, against ffmpeg writing the same frames to /dev/null.

    python benchmarks/decode.py VIDEO [--segment-s 100] [--fps 1] [--threads 1 2] [--repeats 3]

Every measurement runs in a new process, to measure its peak memory. Rounds are interleaved, and the best of each way
counts. Ratios are to ffmpeg with the same number of threads, which reads the whole file in one pass; the readers open
it again for every span, as workers do. ``keyframes`` decodes only key frames. The import of Python modules is not
counted; the start of ffmpeg is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# This process imports nothing heavy: a child inherits its parent's peak memory in the system's accounts.


@dataclass(frozen=True)
class Cost:
    """What decoding the video cost."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    frames: int


def main() -> None:
    """Measure every way and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video")
    parser.add_argument("--fps", type=float, default=1.0)
    parser.add_argument("--segment-s", type=float, default=100.0)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--decoders", nargs="+", default=["av", "decord", "keyframes"])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(_child(options)))
        return

    best: dict[tuple[str, int], Cost] = {}
    for _ in range(options.repeats):
        for threads in options.threads:
            for name in ["ffmpeg", *options.decoders]:
                cost = _ffmpeg(options, threads) if name == "ffmpeg" else _reader(options, name, threads)
                if (name, threads) not in best or cost.wall_s < best[name, threads].wall_s:
                    best[name, threads] = cost
    about, _, _ = _run(_child_command(options, "probe", 1))
    print(
        f"{json.loads(about)['text']}; spans of {options.segment_s:g} s, {options.fps:g} frames a second, "
        f"{options.image_size} pixels; {os.cpu_count()} cores\n"
    )
    print("| decoder | threads | frames | seconds | CPU seconds | ratio to ffmpeg | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for (name, threads), cost in best.items():
        ratio = cost.wall_s / best["ffmpeg", threads].wall_s
        print(
            f"| {name} | {threads} | {cost.frames} | {cost.wall_s:.2f} | {cost.cpu_s:.2f} | {ratio:.2f} "
            f"| {cost.peak_mb:.0f} |"
        )


def _child(options: argparse.Namespace) -> dict[str, Any]:
    """What runs in a process of its own: probing, or decoding the video span by span."""
    from malmm.operators.media.probe import probe
    from malmm.operators.media.reader import SpanRequest, decode_span
    from malmm.operators.media.sampling import plan_spans

    info = probe(options.video)
    if options.child == "probe":
        size = f"{info.width}x{info.height} {info.codec} at {info.fps:.2f} fps"
        return {"text": f"{Path(options.video).name}: {info.duration_s:.1f} s, {size}"}
    if options.child == "decord":
        import decord  # noqa: F401
    frames = 0
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    spans = plan_spans(info.start_s, info.duration_s, options.segment_s, options.fps)
    for index, (start_s, end_s) in enumerate(spans):
        decoded = decode_span(
            SpanRequest(
                options.video,
                start_s,
                end_s,
                options.fps,
                options.image_size,
                decoder="av" if options.child == "keyframes" else options.child,
                keyframes=options.child == "keyframes",
                threads=options.threads[0],
                is_last=index == len(spans) - 1,
            )
        )
        frames += len(decoded.frames)
    wall_s, cpu_s = time.perf_counter() - begun_s, time.process_time() - begun_cpu_s
    return {"wall_s": wall_s, "cpu_s": cpu_s, "frames": frames}


def _child_command(options: argparse.Namespace, child: str, threads: int) -> list[str]:
    told = {
        "--child": child,
        "--fps": options.fps,
        "--segment-s": options.segment_s,
        "--image-size": options.image_size,
        "--threads": threads,
    }
    return [sys.executable, __file__, options.video, *(str(part) for pair in told.items() for part in pair)]


def _reader(options: argparse.Namespace, name: str, threads: int) -> Cost:
    output, usage, _ = _run(_child_command(options, name, threads))
    told = json.loads(output)
    return Cost(told["wall_s"], told["cpu_s"], usage.ru_maxrss / 1024, told["frames"])


def _ffmpeg(options: argparse.Namespace, threads: int) -> Cost:
    program = shutil.which("ffmpeg")
    if program is None:
        import imageio_ffmpeg

        program = imageio_ffmpeg.get_ffmpeg_exe()
    # The first frame of every cell, squashed to RGB: what the readers give.
    cell = f"floor({{}}*{options.fps})"
    chosen = f"isnan(prev_selected_t)+gt({cell.format('t')}\\,{cell.format('prev_selected_t')})"
    scaled = f"scale={options.image_size}:{options.image_size}:flags=bicubic+accurate_rnd+full_chroma_int"
    command = [
        program, "-nostdin", "-v", "error", "-threads", str(threads), "-filter_threads", "1",
        "-i", options.video, "-map", "0:v:0", "-vf", f"select='{chosen}',{scaled},format=rgb24",
        "-fps_mode", "passthrough", "-progress", "pipe:1", "-f", "rawvideo", "-y", os.devnull,
    ]  # fmt: skip
    output, usage, wall_s = _run(command)
    frames = [int(line.partition("=")[2]) for line in output.splitlines() if line.startswith("frame=")]
    return Cost(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, frames[-1])


def _run(command: list[str]) -> tuple[str, Any, float]:
    """Standard output, resource usage and seconds of a command that must succeed."""
    begun_s = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - begun_s
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"failed with status {process.returncode}: {' '.join(command)}")
    return output, usage, wall_s


if __name__ == "__main__":
    main()
