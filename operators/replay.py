"""Replay: new prompts on stored memory, of a segment or of a whole video. One row in, one row out."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.model.memory.slots import Memory
from malmm.operators.device import choose_device
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.config import Prompt
from malmm.pipeline.schema.errors import MalmmError
from malmm.pipeline.schema.rows import REPLAYED, Carried, carried, rows_table, with_arrays

__all__ = ["ReplayPrompts"]


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
        checkpoint = open_models(model, NO_RETRIEVAL).instructblip
        self.encoder = Encoder.load(checkpoint, device=choose_device(device), with_vision=False)
        self.archive = ArchiveReader.open(archive)
        self.settings = settings
        self.prompts = prompts

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Replay each row's prompts on its memory, rows with as many prompts in lock step."""
        held = carried(rows)
        results: list[dict[str, Any]] = [row.columns() for row in held]
        prompts = {index: rows["prompts"][index].as_py() for index in range(len(held))}
        together: defaultdict[int, dict[int, Memory]] = defaultdict(dict)
        for index, row in enumerate(held):
            if row.failure is None:
                try:
                    memory = self._memory(rows["segment_ids"][index].as_py())
                except (RuntimeError, ValueError, MalmmError) as error:
                    results[index] = _failed(row, error)
                else:
                    together[len(prompts[index])][index] = memory
        for memories in together.values():
            for index, output in self._replay(memories, prompts).items():
                row = held[index]
                if isinstance(output, Exception):
                    results[index] = _failed(row, output)
                else:
                    results[index] = with_arrays(
                        row.columns() | {"prompts": prompts[index]},
                        query_output=output.to(torch.float32).cpu().numpy(),
                    )
        return rows_table(results, REPLAYED)

    def _memory(self, segment_ids: list[str]) -> Memory:
        """The memory of a segment, or of a video's segments as one."""
        frames = self.archive.frame_counts(segment_ids)
        memories = (
            Memory.stored(
                torch.from_numpy(tokens.astype(np.float32)), torch.from_numpy(sizes.copy()), frames[segment]
            )
            for segment, tokens, sizes in self.archive.memory_tokens(frames)
        )
        if len(frames) > 1:
            return self.encoder.merge(memories, self.settings, frame_counts=list(frames.values()))
        memory = next(memories, None)
        if memory is None:
            raise ValueError("the archive holds no memory of it")
        return memory

    def _replay(
        self, memories: dict[int, Memory], prompts: dict[int, list[int]]
    ) -> dict[int, torch.Tensor | Exception]:
        """Query outputs by row; what fails together is tried alone."""
        texts = [[self.prompts[prompt].text for prompt in prompts[index]] for index in memories]
        try:
            outputs = self.encoder.replay(list(memories.values()), texts, self.settings)
        except (RuntimeError, ValueError) as error:  # out of memory is a RuntimeError
            if len(memories) == 1:
                return dict.fromkeys(memories, error)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            return {
                index: output
                for one in memories
                for index, output in self._replay({one: memories[one]}, prompts).items()
            }
        return dict(zip(memories, outputs, strict=True))


def _failed(row: Carried, error: Exception) -> dict[str, Any]:
    reason = " ".join(str(error).split())[:500]
    return row.failed("replay", type(error).__name__, reason).columns()
