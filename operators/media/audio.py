"""Decode the sound of a span of a video: mono, 16,000 samples a second, placed on the video's own clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Discard

from malmm.operators.media.container import open_video
from malmm.operators.media.file_cache import FileCache
from malmm.operators.media.files import MediaFile
from malmm.pipeline.schema.errors import MediaError

__all__ = ["RATE", "Sound", "read_sound", "voiced_spans"]

RATE = 16_000
_PREROLL_S = 0.5
# Time stamps of coarse clocks are off by less; what is off by more is a gap.
_DRIFT_S = 0.05
_MOST_DAMAGED = 1000
# Sound below this is silence: -50 dB of full scale.
_SILENCE = 10 ** (-50 / 20)
_WINDOW_S, _PAUSE_S, _MARGIN_S = 0.1, 3.0, 0.3


@dataclass(frozen=True, eq=False)
class Sound:
    """Samples float32 [N] of a span, zero where there is no sound. ``problem`` says what could not be decoded.

    ``samples`` is empty for a video without a sound track.
    """

    samples: np.ndarray
    problem: str | None = None


def read_sound(uri: str, start_s: float, end_s: float, cache: FileCache | None = None) -> Sound:
    """The sound of [start_s, end_s) of a video. Raises MediaError with the kinds of ``open_video``.

    The first frame is placed by its time, and those after it by counting samples: clocks of milliseconds would leave
    gaps. A jump of more than 50 ms places the next frame by its time again.
    """
    with open_video(MediaFile(uri, cache)) as video:
        container = video.container
        stream = container.streams.best("audio")
        if stream is None:
            return Sound(np.empty(0, np.float32))
        if stream.codec_context is None:
            raise MediaError(
                f"{uri}: its sound is in a codec that this FFmpeg cannot decode: convert it, for instance to AAC",
                uri=uri,
                kind="decode_error",
            )
        for other in container.streams:
            other.discard = Discard.default if other.index == stream.index else Discard.all
        if start_s > 0 and stream.time_base is not None:
            try:
                container.seek(int((start_s - _PREROLL_S) / stream.time_base), stream=stream, backward=True)
            except FFmpegError:
                # Raw streams cannot be entered in the middle: they are read from their beginning.
                container.seek(0)
        video.reads_until(end_s)
        placing = _Placing(start_s, end_s)
        damaged = 0
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except FFmpegError:
                damaged += 1
                if damaged > _MOST_DAMAGED:
                    break
                continue
            if not all(placing.take(frame) for frame in frames):
                break
        placing.flush()
    problem = f"{uri}: {damaged} packets of its sound could not be decoded" if damaged else None
    return Sound(placing.samples, problem)


class _Placing:
    """Resampled frames at their place in a span."""

    def __init__(self, start_s: float, end_s: float) -> None:
        self.samples = np.zeros(max(0, round((end_s - start_s) * RATE)), np.float32)
        self._start_s, self._end_s = start_s, end_s
        self._resampler: Any = None
        self._at = 0
        self._expected_s: float | None = None

    def take(self, frame: Any) -> bool:
        """Place a frame. Returns False once it lies behind the span."""
        time_s = None if frame.pts is None else float(frame.pts * frame.time_base)
        if time_s is None:
            time_s = self._expected_s if self._expected_s is not None else self._start_s
        if time_s >= self._end_s + _DRIFT_S:
            return False
        jumps = self._expected_s is None or abs(time_s - self._expected_s) > _DRIFT_S
        if jumps:
            self.flush()
            self._resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
            self._at = round((time_s - self._start_s) * RATE)
            self._expected_s = time_s
        self._expected_s = (self._expected_s or 0.0) + frame.samples / frame.sample_rate
        frame.pts = None
        for made in self._resampler.resample(frame):
            self._put(made)
        return True

    def flush(self) -> None:
        """Place what the resampler still holds."""
        if self._resampler is not None:
            for made in self._resampler.resample(None):
                self._put(made)
            self._resampler = None

    def _put(self, frame: Any) -> None:
        sound = frame.to_ndarray().reshape(-1)
        low, high = max(self._at, 0), min(self._at + len(sound), len(self.samples))
        if high > low:
            self.samples[low:high] = sound[low - self._at : high - self._at]
        self._at += len(sound)


def voiced_spans(samples: np.ndarray) -> list[tuple[int, int]]:
    """Spans [begin, end) of samples that are not silent, with a short margin. Pauses below three seconds are kept."""
    window = round(_WINDOW_S * RATE)
    count = math.ceil(len(samples) / window)
    padded = np.zeros(count * window, np.float32)
    padded[: len(samples)] = samples
    loud = np.flatnonzero(np.sqrt(np.mean(padded.reshape(count, window) ** 2, axis=1)) > _SILENCE)
    if not len(loud):
        return []
    breaks = np.flatnonzero(np.diff(loud) * _WINDOW_S > _PAUSE_S)
    firsts, lasts = loud[np.r_[0, breaks + 1]], loud[np.r_[breaks, len(loud) - 1]]
    margin = round(_MARGIN_S * RATE)
    return [
        (max(0, int(first) * window - margin), min(len(samples), (int(last) + 1) * window + margin))
        for first, last in zip(firsts, lasts, strict=True)
    ]
