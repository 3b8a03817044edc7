"""Test videos, encoded for real from a description, and an oracle for the times of their frames."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg


@dataclass(frozen=True)
class VideoSpec:
    """A test video. ``name`` is the file's name, whose extension says the container."""

    name: str = "video.mp4"
    rate: str = "24"
    duration_s: float = 6.0
    width: int = 96
    height: int = 64
    codec: str = "libx264"
    b_frames: int = 0
    gop: int = 12
    open_gop: bool = False
    # ffmpeg's select expression: dropping frames makes the rate variable.
    keep: str | None = None
    offset_s: float = 0.0
    # Clockwise turn for display, in the container's metadata.
    rotation: int = 0
    faststart: bool = False
    source: str = "testsrc2"
    sound_s: float = 0.0


def ffmpeg() -> str:
    return shutil.which("ffmpeg") or imageio_ffmpeg.get_ffmpeg_exe()


def run_ffmpeg(*arguments: str | Path) -> None:
    """Run ffmpeg, overwriting its output; its complaint is the failure."""
    command = [ffmpeg(), "-nostdin", "-v", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")


def make_video(folder: Path, spec: VideoSpec) -> Path:
    """Encode the video into the folder and return its path."""
    path = folder / spec.name
    arguments: list[str] = ["-f", "lavfi", "-i", _source(spec)]
    if spec.sound_s:
        arguments += ["-f", "lavfi", "-i", f"sine=d={spec.sound_s}"]
    if spec.keep:
        # Frames keep their own times.
        arguments += ["-vf", f"select='{spec.keep}'", "-fps_mode", "vfr"]
    arguments += ["-c:v", spec.codec, "-pix_fmt", "yuv420p", "-threads", "1"]
    if spec.codec == "libx264":
        x264 = f"keyint={spec.gop}:min-keyint={spec.gop}:scenecut=0:bframes={spec.b_frames}:b-adapt=0"
        arguments += ["-preset", "ultrafast", "-x264-params", f"{x264}:open-gop={int(spec.open_gop)}"]
    else:
        arguments += ["-g", str(spec.gop), "-bf", str(spec.b_frames)]
    if spec.offset_s:
        arguments += ["-output_ts_offset", str(spec.offset_s)]
    if spec.faststart:
        arguments += ["-movflags", "faststart"]
    run_ffmpeg(*arguments, path)
    if spec.rotation:
        turn(path, spec.rotation)
    return path


def _source(spec: VideoSpec) -> str:
    return f"{spec.source}=size={spec.width}x{spec.height}:rate={spec.rate}:duration={spec.duration_s}"


def turn(path: Path, degrees: int) -> None:
    """Write a clockwise rotation into an MP4's track header, as phones do; the pictures stay."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    one, minus = (0x00010000).to_bytes(4, "big"), (-0x00010000).to_bytes(4, "big", signed=True)
    zero, w = bytes(4), (0x40000000).to_bytes(4, "big")
    a, b, c, d = {
        90: (zero, one, minus, zero),
        180: (minus, zero, zero, minus),
        270: (zero, minus, one, zero),
    }[degrees]
    # A version 0 track header has 40 bytes before its matrix, one of version 1 has 52.
    matrix_at = at + (52 if data[at] == 1 else 40)
    data[matrix_at : matrix_at + 36] = b"".join((a, b, zero, c, d, zero, zero, zero, w))
    path.write_bytes(bytes(data))


def cut(path: Path, share: float, name: str) -> Path:
    """A copy of which only the first ``share`` of the bytes is left."""
    data = path.read_bytes()
    short = path.with_name(name)
    short.write_bytes(data[: int(len(data) * share)])
    return short


def damage(path: Path, share: float, count: int, name: str) -> Path:
    """A copy with ``count`` bytes overwritten from ``share`` of its length on."""
    data = bytearray(path.read_bytes())
    at = int(len(data) * share)
    noise = b"".join(hashlib.sha256(f"{name}{index}".encode()).digest() for index in range(count // 32 + 1))
    data[at : at + count] = noise[:count]
    hurt = path.with_name(name)
    hurt.write_bytes(bytes(data))
    return hurt


def frame_times(path: Path) -> list[float]:
    """When each frame of the video is shown, in seconds: what ffprobe prints as pts_time.

    Without ffprobe, what ffmpeg's showinfo prints.
    """
    ffprobe = shutil.which("ffprobe")
    if ffprobe:
        shown = "frame=pts_time,duration_time,pkt_duration_time"
        options = ["-v", "error", "-select_streams", "v:0", "-show_entries", shown, "-of", "json"]
        done = subprocess.run([ffprobe, *options, str(path)], capture_output=True, text=True, check=True)
        times: list[float] = []
        for frame in json.loads(done.stdout)["frames"]:
            if "pts_time" in frame:
                times.append(float(frame["pts_time"]))
            else:
                # Version 5 leaves out times in MPEG program streams: such a frame follows the one before.
                times.append(times[-1] + float(frame.get("duration_time", frame.get("pkt_duration_time"))))
        return times
    options = ["-copyts", "-i", str(path), "-map", "0:v:0", "-vf", "showinfo", "-fps_mode", "passthrough"]
    done = subprocess.run(
        [ffmpeg(), "-nostdin", *options, "-f", "null", "-"], capture_output=True, text=True, check=True
    )
    return [float(time) for time in re.findall(r"pts_time:\s*(-?[\d.]+)", done.stderr)]
