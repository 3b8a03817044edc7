"""Decode a span with PyAV: one pass, which converts only the sampled frames."""

from __future__ import annotations

import bisect
import dataclasses
import functools
from fractions import Fraction

import numpy as np
from av.error import FFmpegError

from malmm.operators.media.duration import declared_end
from malmm.operators.media.encryption import encrypted_unreadable
from malmm.operators.media.file_cache import FileCache
from malmm.operators.media.files import MediaFile
from malmm.operators.media.frames import Damaged, Skipped, TimedFrame, frames_from
from malmm.operators.media.picture import ProportionalPictures, SquarePictures
from malmm.operators.media.sampling import Cells
from malmm.operators.media.scrambling import scrambled_in_part
from malmm.operators.media.span import DecodedSpan, SpanRequest
from malmm.operators.media.truncation import Wholeness, wholeness
from malmm.pipeline.schema.errors import MediaError

__all__ = ["decode_span_av"]

_Pictures = SquarePictures | ProportionalPictures

# A video may end this many seconds earlier than declared and still count as complete.
SLACK_S = Fraction(1, 10)


def decode_span_av(request: SpanRequest, cache: FileCache | None = None) -> DecodedSpan:
    """See ``malmm.operators.media.reader.decode_span``."""
    if request.keyframes:
        decoding = _Decoding(request, cache)
        decoding.run(1)
        if decoding.timestamps_s:
            return decoding.result()
        # No key frame in the span: sample its first frame, with one cell as long as the span.
        whole_fps = 1 / max(request.end_s - request.start_s, 1e-3)
        request = dataclasses.replace(request, keyframes=False, fps=whole_fps)
    decoding = _Decoding(request, cache)
    decoding.run(request.threads)
    if decoding.damaged and request.threads > 1:
        # Frame threads report an error some packets late and drop good frames: decode again with one thread.
        decoding = _Decoding(request, cache)
        decoding.run(1)
    return decoding.result()


class _Decoding:
    """One pass over the frames of a span, with its results."""

    def __init__(self, request: SpanRequest, cache: FileCache | None) -> None:
        self.request, self.cache = request, cache
        self.frames = np.empty((0, request.image_size, request.image_size, 3), np.uint8)
        self.count = 0
        self.timestamps_s: list[float] = []
        self.damaged: list[int] = []
        self.healed: int | None = None
        self.cells: Cells | None = None
        self.reached: Fraction | None = None
        self.declared: Fraction | None = None
        self.is_timed = True
        self.transport_id: int | None = None
        self.slack = SLACK_S
        self.passed_end = False
        self.clock_broke_at: Fraction | None = None
        self.shown: TimedFrame | None = None

    def run(self, threads: int) -> None:
        """Decode from the key frame before the span to its end, or to the end of the file."""
        request, file = self.request, MediaFile(self.request.uri, self.cache)
        size = request.image_size
        pictures: _Pictures = SquarePictures(size) if request.squash else ProportionalPictures(size)
        previous_cell = -1
        for item in frames_from(
            file, request.start_s, request.end_s, threads=threads, keyframes=request.keyframes
        ):
            if isinstance(item, Damaged):
                if item.tick not in self.damaged:
                    bisect.insort(self.damaged, item.tick)
                continue
            cells = self.cells or self._begin(item)
            if self.damaged and item.tick > self.damaged[-1] >= (self.healed or self.damaged[-1]):
                self.healed = item.tick
            if cells.is_past(item.tick):
                self.passed_end = True
                break
            self._follow_clock(item)
            if isinstance(item, Skipped):
                continue
            cell = cells.cell(item.tick)
            if request.cells is not None:
                self._pick(item, cell, pictures)
            elif cell is not None and cell > previous_cell and self._keep(item, pictures):
                previous_cell = cell
        if request.cells is not None:
            self._show(None, pictures)

    def _pick(self, item: TimedFrame, cell: int | None, pictures: _Pictures) -> None:
        """Keep a frame for the request's cells that it is shown in. Frames before the span have no cell."""
        if cell is not None:
            if self.shown is None:
                self.shown = item
            self._show(cell, pictures)
            if self._next_cell() == cell:
                self._keep(item, pictures)
        self.shown = item

    def _next_cell(self) -> int | None:
        """The first of the request's cells that has no frame yet."""
        wanted, found = self.request.cells or (), len(self.timestamps_s)
        return wanted[found] if found < len(wanted) else None

    def _show(self, cell: int | None, pictures: _Pictures) -> None:
        """Keep the frame that is still shown for the cells before ``cell``; None for all that are left."""
        while (wanted := self._next_cell()) is not None and (cell is None or wanted < cell):
            if self.shown is None or not self._keep(self.shown, pictures):
                return

    def _keep(self, item: TimedFrame, pictures: _Pictures) -> bool:
        """Keep a frame's picture. False if it cannot be converted."""
        try:
            picture = pictures.of(item.frame)
        except FFmpegError:
            # A damaged header can give a frame a colour format that cannot be converted.
            bisect.insort(self.damaged, item.tick)
            return False
        if not self.timestamps_s:
            self.frames = np.empty((self.count, *picture.shape), np.uint8)
        self.frames[len(self.timestamps_s)] = picture
        self.timestamps_s.append(float(item.tick * item.video.time_base))
        return True

    def _begin(self, first: TimedFrame | Skipped) -> Cells:
        video = first.video
        request = self.request
        self.cells = Cells.of(
            request.start_s, request.end_s, request.fps, video.time_base, is_last=request.is_last
        )
        self.count = self.cells.count if request.cells is None else len(request.cells)
        self.declared, self.is_timed, self.transport_id = declared_end(video), video.timed, video.transport_id
        self.slack = max(SLACK_S, 2 * video.period * video.time_base)
        return self.cells

    def _follow_clock(self, item: TimedFrame | Skipped) -> None:
        time = item.tick * item.video.time_base
        # Skipped frames come in the file's order, in which times are not monotonic.
        back = isinstance(item, TimedFrame) and self.reached is not None and time < self.reached - 1
        if back and self.clock_broke_at is None:
            self.clock_broke_at = self.reached
        end = time + item.length * item.video.time_base
        self.reached = end if self.reached is None else max(self.reached, end)

    @functools.cached_property
    def complete(self) -> bool:
        """Whether the span was decoded to its end. Read it once the span is decoded.

        A recording of an unchanged screen is one frame that is shown for long, and only some containers declare its
        duration. So if the file is not truncated and no packet is damaged, the span is complete.
        """
        if self.passed_end or (
            self.reached is not None and self.reached >= Fraction(self.request.end_s) - self.slack
        ):
            return True
        if self.reached is not None and not self.is_timed:
            # A raw stream says neither when it ends nor how many frames its decoder leaves out.
            return True
        if self.reached is None or self.damaged or self.declared is None:
            return False
        is_declared = self.declared >= Fraction(self.request.end_s) - self.slack
        return is_declared and wholeness(self.request.uri) is Wholeness.WHOLE

    def result(self) -> DecodedSpan:
        """The decoded span.

        Raises MediaError of kind ``no_frames`` if it has no frame, and ``encrypted`` if that, or a problem, comes from
        scrambled packets.
        """
        uri, start_s, end_s = self.request.uri, self.request.start_s, self.request.end_s
        count = len(self.timestamps_s)
        problem = self._problem()
        if problem is not None and self.transport_id is not None:
            known = scrambled_in_part(MediaFile(uri, self.cache), self.transport_id, start_s, end_s)
            if known is not None:
                raise known
        if count == 0:
            known = encrypted_unreadable(uri) if self.reached is None else None
            if known is not None:
                raise known
            why = (
                f"{problem}; copy it again from its source" if problem else "the one before it is still shown"
            )
            raise MediaError(
                f"{uri} begins no frame between {start_s:.1f} s and {end_s:.1f} s: {why}",
                uri=uri,
                kind="no_frames",
            )
        reached_s = end_s if self.complete else min(end_s, float(self.reached or start_s))
        return DecodedSpan(
            self.frames[:count], np.array(self.timestamps_s, dtype=np.float64), problem, reached_s
        )

    def _problem(self) -> str | None:
        found = []
        if not self.complete:
            whole_s = max(float(self.declared or 0), self.request.end_s)
            if self.reached is None:
                found.append("no frame could be decoded")
            else:
                found.append(f"the file ends at {float(self.reached):.1f} s of {whole_s:.1f} s")
        found.extend(self._damage())
        if self.clock_broke_at is not None:
            found.append(f"the file's clock goes back at {float(self.clock_broke_at):.1f} s")
        if self.passed_end and self.request.is_last:
            found.append(
                f"the file goes on after {self.request.end_s:.1f} s, where its header says that it ends"
            )
        return "; ".join(found) or None

    def _damage(self) -> list[str]:
        """Describe the damage in the span. Damage before the span belongs to the span before."""
        if self.cells is None or not self.damaged:
            return []
        start, time_base = self.cells.start, self.cells.time_base
        count = sum(tick * time_base >= start for tick in self.damaged)
        # The last damaged range ends with the first good frame after it.
        last = max(self.damaged[-1], self.healed or self.damaged[-1]) * time_base
        if count == 0 and last <= start:
            return []
        first = max(start, self.damaged[-max(count, 1)] * time_base)
        packets = f"{count} packets" if count > 1 else "1 packet"
        return [
            f"{packets} could not be decoded between {float(first):.1f} s and "
            f"{min(float(last), self.request.end_s):.1f} s"
        ]
