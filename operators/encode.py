"""Encode: frames through the vision encoder and the Q-Former's memory banks. One row in, one row out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from malmm.model.batch_limit import BatchLimit, Mishap
from malmm.model.checkpoints.resolve import open_models
from malmm.model.families.family import Encoded
from malmm.model.families.registry import family_of
from malmm.model.memory.settings import MemorySettings
from malmm.model.memory.slots import SlotSpan
from malmm.model.towers.registry import tower_of
from malmm.operators.device import choose_device
from malmm.operators.metering import IdleMeter, told_to_ray
from malmm.pipeline.schema.config import Prompt
from malmm.pipeline.schema.records import Video
from malmm.pipeline.schema.rows import DECODED, ENCODED, Carried, array_at, carried, rows_table, with_arrays
from malmm.pipeline.schema.stored_tokens import quantized

__all__ = ["EncodeSegments"]

_JPEG_QUALITY = 85


class EncodeSegments:
    """An actor that holds the vision encoder, the Q-Former and the retrieval model's image side, and no language model.

    ``DECODED`` to ``ENCODED``, all segments of a batch in lock step. Nothing carries over between batches.
    ``tokens`` is the type of stored tokens, to which rows are rounded: ``float16`` or ``int8``.
    ``check_vision=False`` is for a driver that has called ``malmm.model.checkpoints.verification_record.verify_once``.
    ``compile_vision`` compiles the vision encoder; where that cannot be done the actor does not start.
    """

    def __init__(
        self,
        *,
        model: str,
        retrieval_model: str | None,
        settings: MemorySettings,
        tokens: str = "float16",
        prompts: tuple[Prompt, ...],
        check_vision: bool = True,
        compile_vision: bool = False,
        device: str | None = None,
    ) -> None:
        chosen = choose_device(device)
        models = open_models(model, retrieval_model)
        family = family_of(models.checkpoint)
        self.encoder = family.load_encoder(models.checkpoint, device=chosen, compile_vision=compile_vision)
        self.steps_of_several = family.frames_per_step > 1
        self.retrieval = None
        if models.retrieval is not None:
            self.retrieval = tower_of(models.retrieval).load_slots(
                models.retrieval, model=models.checkpoint, check_vision=check_vision, device=chosen
            )
        self.settings = settings
        self.tokens = tokens
        self.prompts = prompts
        self.batches = BatchLimit(chosen)
        self._meter = IdleMeter(told_to_ray("encode"))

    @property
    def device_lost(self) -> bool:
        """Whether the GPU stopped answering, so that nothing more can be done in this process."""
        return self.batches.device_lost

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Encode a batch. A segment that cannot be encoded fails alone. Batches are as large as memory allows."""
        return self._meter.measured(self._encoded, rows)

    def _encoded(self, rows: pa.Table) -> pa.Table:
        rows = rows.select(DECODED.names)
        held = carried(rows)
        results: list[dict[str, Any]] = [row.columns() for row in held]
        good = [index for index, row in enumerate(held) if row.failure is None]
        frames = {index: array_at(rows, "frames", index, np.uint8) for index in good}
        texts = [prompt.text for prompt in self.prompts]

        def encode(indices: Sequence[int]) -> list[Encoded]:
            pictures = [frames[index] for index in indices]
            return self.encoder.encode(pictures, [texts] * len(indices), self.settings)

        def columns(encoded: Sequence[tuple[int, Encoded]]) -> list[dict[str, Any]]:
            return [self._row(rows, index, held[index], frames[index], one) for index, one in encoded]

        encoded = dict(zip(good, self.batches.results(good, encode), strict=True))
        whole = [(index, one) for index, one in encoded.items() if not isinstance(one, Mishap)]
        made = dict(zip([index for index, _ in whole], self.batches.results(whole, columns), strict=True))
        for index, one in encoded.items():
            result = one if isinstance(one, Mishap) else made[index]
            if isinstance(result, Mishap):
                results[index] = held[index].failed("encode", *astuple(result)).columns()
            else:
                results[index] = held[index].columns() | result
        return rows_table(results, ENCODED)

    def _row(
        self, rows: pa.Table, index: int, row: Carried, frames: np.ndarray, encoded: Encoded
    ) -> dict[str, Any]:
        if row.segment is None or row.video is None:
            raise ValueError("a row without a failure has a video and a segment")
        end_s = rows["decoded_end_s"][index].as_py()
        spans = encoded.memory.spans(rows["timestamps_s"][index].as_py(), row.segment.start_s, end_s)
        columns: dict[str, Any] = {
            "frame_count": len(frames),
            "decoded_end_s": end_s,
            "problem": rows["problem"][index].as_py(),
            "slots": [_slot(span, frames, row.video, self.steps_of_several) for span in spans],
            "prompts": list(range(len(self.prompts))),
        }
        arrays = {
            **self._stored(encoded.memory.tokens),
            "sizes": encoded.memory.sizes.to(torch.int32).cpu().numpy(),
        }
        if encoded.query_output is not None:
            arrays["query_output"] = encoded.query_output.to(torch.float32).cpu().numpy()
        if self.retrieval is not None:
            shape = (row.video.width, row.video.height)
            vectors = self.retrieval.of_slots(encoded.memory, frames, shape)
            arrays["vectors"] = vectors.to(torch.float16).cpu().numpy()
        return with_arrays(columns, **arrays)

    def _stored(self, tokens: torch.Tensor) -> dict[str, np.ndarray]:
        """Tokens in the type that the archive stores, with their scales in 8 bits."""
        if self.tokens == "float16":
            return {"tokens": tokens.to(torch.float16).cpu().numpy()}
        numbers, scales = quantized(tokens.to(torch.float32).cpu().numpy())
        return {"tokens": numbers, "token_scales": scales}


def _slot(span: SlotSpan, frames: np.ndarray, video: Video, centred: bool) -> dict[str, Any]:
    return {
        "start_s": span.start_s,
        "end_s": span.end_s,
        # Families that take two frames at a time say the time between them.
        "timestamp_s": span.centre_s if centred else span.timestamp_s,
        "frame_count": span.frame_count,
        "spans": None if span.parts is None else [vars(part) for part in span.parts],
        "thumbnail": _thumbnail(frames[span.middle], video),
    }


def _thumbnail(frame: np.ndarray, video: Video) -> bytes:
    """The frame as a JPEG with the video's aspect ratio: the model's frames are squashed to a square."""
    side = frame.shape[0]
    width, height = max(1, video.width), max(1, video.height)
    scale = side / max(width, height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    written = io.BytesIO()
    Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC).save(
        written, format="JPEG", quality=_JPEG_QUALITY
    )
    return written.getvalue()
