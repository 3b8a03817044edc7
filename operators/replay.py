"""Replay: new prompts on stored memory, of a segment or of a whole video. One row in, one row out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from malmm.model.encoder import Encoder
from malmm.model.memory import Memory
from malmm.model.qformer import MemorySettings
from malmm.model.resolve import NO_RETRIEVAL, open_models
from malmm.operators.device import choose_device
from malmm.pipeline.config import Prompt
from malmm.pipeline.errors import MalmmError
from malmm.pipeline.flow import REPLAYED, Carried, carried, rows_table, with_arrays
from malmm.pipeline.reading import ArchiveReader

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
        """Replay each row's prompts on its memory."""
        return rows_table(
            [
                self._replay(row, rows["segment_ids"][index].as_py(), rows["prompts"][index].as_py())
                for index, row in enumerate(carried(rows))
            ],
            REPLAYED,
        )

    def _replay(self, row: Carried, segment_ids: list[str], prompts: list[int]) -> dict[str, Any]:
        if row.failure is not None:
            return row.columns()
        try:
            frames = self.archive.frame_counts(segment_ids)
            memories = [
                Memory.stored(
                    torch.from_numpy(tokens.astype(np.float32)),
                    torch.from_numpy(sizes.copy()),
                    frames[segment],
                )
                for segment, tokens, sizes in self.archive.memory_tokens(frames)
            ]
            if not memories:
                raise ValueError("the archive holds no memory of it")
            memory = memories[0] if len(memories) == 1 else self.encoder.merge(memories, self.settings)
            output = self.encoder.replay(
                [memory], [[self.prompts[prompt].text for prompt in prompts]], self.settings
            )[0]
        except (RuntimeError, ValueError, MalmmError) as error:
            reason = " ".join(str(error).split())[:500]
            return row.failed("replay", type(error).__name__, reason).columns()
        return with_arrays(
            row.columns() | {"prompts": prompts}, query_output=output.to(torch.float32).cpu().numpy()
        )
