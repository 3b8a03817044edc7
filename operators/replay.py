"""Replay: answer new prompts from the stored memory of a segment or a whole video. One row in, one row out."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch

from malmm.model.batch_limit import BatchLimit, Mishap
from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.families.registry import family_of
from malmm.model.memory.settings import MemorySettings
from malmm.model.memory.slots import Memory, Part
from malmm.operators.device import choose_device
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.config import Prompt
from malmm.pipeline.schema.errors import MalmmError
from malmm.pipeline.schema.rows import REPLAYED, Carried, carried, rows_table, with_arrays

__all__ = ["ReplayPrompts"]

_SPAN = ("segment_id", "slot", "start_s", "end_s", "timestamp_s", "frame_count", "spans")


class ReplayPrompts:
    """An actor with the Q-Former alone: ``TO_REPLAY`` to ``REPLAYED``, reading memory from the archive.

    The slots of several segments are compressed together to the bank's length, in time order, first.
    """

    def __init__(
        self,
        *,
        archive: str,
        model: str,
        settings: MemorySettings,
        prompts: tuple[Prompt, ...],
        device: str | None = None,
    ) -> None:
        checkpoint = open_models(model, NO_RETRIEVAL).checkpoint
        family = family_of(checkpoint)
        chosen = choose_device(device)
        self.encoder = family.load_encoder(checkpoint, device=chosen, with_vision=False)
        self.steps_of_several = family.frames_per_step > 1
        self.archive = ArchiveReader.open(archive)
        self.settings = settings
        self.prompts = prompts
        self.batches = BatchLimit(chosen)

    @property
    def device_lost(self) -> bool:
        """Whether the GPU stopped answering, so that nothing more can be done in this process."""
        return self.batches.device_lost

    def for_prompts(self, prompts: tuple[Prompt, ...]) -> Self:
        """A copy of this operator for other prompts, which shares the Q-Former."""
        other = copy.copy(self)
        other.prompts = prompts
        return other

    def for_archive(self, archive: ArchiveReader) -> Self:
        """A copy of this operator that reads another archive of the same model, which shares the Q-Former."""
        if archive.root == self.archive.root:
            return self
        recipe = archive.recipe
        other = copy.copy(self)
        other.archive = archive
        other.settings = MemorySettings(length=recipe.bank_length, policy=recipe.merge_policy)
        return other

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Replay each row's prompts on its memory. Rows with the same number of prompts run in one batch."""
        held = carried(rows)
        results: list[dict[str, Any]] = [row.columns() for row in held]
        prompts = {index: rows["prompts"][index].as_py() for index in range(len(held))}
        together: defaultdict[int, dict[int, _Stored]] = defaultdict(dict)
        for index, row in enumerate(held):
            if row.failure is None:
                try:
                    stored = self._stored(rows["segment_ids"][index].as_py())
                except (ValueError, MalmmError) as error:
                    results[index] = _failed(row, error)
                else:
                    together[len(prompts[index])][index] = stored
        for of_rows in together.values():
            indices = list(of_rows)
            for index, output in zip(indices, self._replay(of_rows, prompts), strict=True):
                row = held[index]
                if isinstance(output, Mishap):
                    results[index] = row.failed("replay", *astuple(output)).columns()
                    continue
                columns = row.columns() | {"prompts": prompts[index]}
                stored = of_rows[index]
                columns["slots"] = stored.slots
                if output is not None:
                    results[index] = with_arrays(columns, query_output=output.to(torch.float32).cpu().numpy())
                else:
                    # As online: the language model reads tokens of the type that is stored.
                    tokens = stored.memory.tokens.to(torch.float16).cpu().numpy()
                    results[index] = with_arrays(columns, tokens=tokens)
        return rows_table(results, REPLAYED)

    def _stored(self, segment_ids: list[str]) -> _Stored:
        """The memory of a segment, or that of a video's segments merged into one."""
        frames = self.archive.frame_counts(segment_ids)
        spans: dict[str, list[dict[str, Any]]] = {segment: [] for segment in frames}
        for span in self.archive.memory_rows(frames, _SPAN).to_pylist():
            spans[span["segment_id"]].append(span)
        places: list[float] = []
        times: list[float] = []
        runs: list[tuple[int, int, float, float]] = []

        def memories() -> Iterator[Memory]:
            before = 0
            for segment, tokens, sizes in self.archive.memory_tokens(frames):
                memory = Memory.stored(
                    torch.from_numpy(tokens.astype(np.float32)),
                    torch.from_numpy(sizes.copy()),
                    frames[segment],
                    _parts(spans[segment]),
                )
                places.extend(before + place for place in memory.middles(between=self.steps_of_several))
                times.extend(span["timestamp_s"] for span in spans[segment])
                runs.extend(_frames_and_times(spans[segment], before + memory.appended))
                before += memory.appended
                yield memory

        if len(frames) > 1:
            merged = self.encoder.merge(memories(), self.settings, frame_counts=list(frames.values()))
            said = np.interp(merged.middles(between=self.steps_of_several), places, times).tolist()
            slots = [
                {"start_s": start_s, "end_s": end_s, "timestamp_s": time_s}
                for (start_s, end_s), time_s in zip(_hulls(merged, runs), said, strict=True)
            ]
            return _Stored(merged, slots)
        memory = next(memories(), None)
        if memory is None:
            raise ValueError("the archive holds no memory of it")
        return _Stored(memory, next(iter(spans.values())))

    def _replay(
        self, stored: Mapping[int, _Stored], prompts: Mapping[int, list[int]]
    ) -> list[torch.Tensor | Mishap | None]:
        """Query outputs of these rows, None for families that read slots."""

        def replay(indices: Sequence[int]) -> Sequence[torch.Tensor | None]:
            texts = [[self.prompts[prompt].text for prompt in prompts[index]] for index in indices]
            return self.encoder.replay([stored[index].memory for index in indices], texts, self.settings)

        return self.batches.results(list(stored), replay)


@dataclass(frozen=True)
class _Stored:
    """Memory from the archive, and the spans of its slots."""

    memory: Memory
    slots: list[dict[str, Any]]


def _frames_and_times(slots: list[dict[str, Any]], end: int) -> list[tuple[int, int, float, float]]:
    """The unbroken runs of frames that slots cover, of which ``end`` is behind the last, and their seconds.

    Frames are counted from the first of the whole video.
    """
    parts = sorted(
        (part["start_s"], part["end_s"], part["frame_count"])
        for slot in slots
        for part in slot["spans"] or [slot]
    )
    # Frames that were forgotten are the oldest.
    ends = end - sum(count for *_, count in parts) + np.cumsum([count for *_, count in parts])
    return [
        (int(last) - count, int(last), start_s, end_s)
        for last, (start_s, end_s, count) in zip(ends, parts, strict=True)
    ]


def _hulls(merged: Memory, runs: Sequence[tuple[int, int, float, float]]) -> list[tuple[float, float]]:
    """Begin and end of each slot of a merged memory in seconds. Within a stored slot time passes evenly."""
    firsts, ends, start_s, end_s = (np.array(column, np.float64) for column in zip(*runs, strict=True))
    slots = merged.runs()
    begins_s = np.interp([own[0][0] for own in slots], [*firsts, ends[-1]], [*start_s, end_s[-1]])
    ends_s = np.interp([own[-1][1] for own in slots], [firsts[0], *ends], [start_s[0], *end_s])
    return list(zip(begins_s.tolist(), ends_s.tolist(), strict=True))


def _parts(slots: list[dict[str, Any]]) -> list[list[Part]] | None:
    """The unbroken runs that each slot covers; None where slots join neighbours only."""
    if any(slot["spans"] is None for slot in slots):
        return None
    return [[Part(**span) for span in slot["spans"]] for slot in slots]


def _failed(row: Carried, error: Exception) -> dict[str, Any]:
    reason = " ".join(str(error).split())[:500]
    return row.failed("replay", type(error).__name__, reason).columns()
