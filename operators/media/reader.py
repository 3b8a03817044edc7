"""Decoding one span of a video to the model's pictures."""

from __future__ import annotations

import math

from malmm.operators.media.reader_av import decode_span_av
from malmm.operators.media.span import DecodedSpan
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["DecodedSpan", "decode_span"]


def decode_span(
    path: str,
    start_s: float,
    end_s: float,
    fps: float,
    image_size: int,
    decoder: str = "av",
    threads: int = 1,
    is_last: bool = False,
    keyframes: bool = False,
) -> DecodedSpan:
    """Decode the sampled frames of [start_s, end_s), at ``fps`` a second, each squashed to a square.

    With ``keyframes`` only key frames are decoded, several times faster; a span that has none gives its first frame.
    ``is_last`` closes the span at its end, where the last frame of a video may lie. A file that is cut
    short or damaged gives what can be decoded, with ``problem`` set. Raises ConfigError for arguments that
    cannot be, and MediaError with the kinds of ``malmm.operators.media.probe`` when there is no frame.
    """
    if not (math.isfinite(start_s) and math.isfinite(end_s) and end_s >= start_s):
        raise ConfigError(f"cannot decode from {start_s} s to {end_s} s")
    if not (math.isfinite(fps) and fps > 0):
        raise ConfigError(f"cannot sample {fps} frames a second: use a rate above 0")
    if image_size < 1 or threads < 1:
        raise ConfigError(f"cannot decode to pictures of {image_size} pixels with {threads} threads")
    if decoder == "av":
        return decode_span_av(
            path, start_s, end_s, fps, image_size, threads=threads, is_last=is_last, keyframes=keyframes
        )
    if decoder == "decord":
        if keyframes:
            raise ConfigError("--keyframes needs --decoder av: decord cannot decode key frames alone")
        # Loading decord costs memory and time that a run with PyAV need not spend.
        from malmm.operators.media.reader_decord import decode_span_decord

        return decode_span_decord(path, start_s, end_s, fps, image_size, threads=threads, is_last=is_last)
    raise ConfigError(f"--decoder {decoder!r}: av or decord")
