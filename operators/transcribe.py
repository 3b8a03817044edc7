"""Transcribe: sound to what is said in it. One row a span in, one row out. Runs on GPUs, or on CPUs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from malmm.model.batch_limit import BatchLimit, Mishap
from malmm.model.speech.checkpoints import open_whisper
from malmm.model.speech.whisper import Recogniser, Utterance
from malmm.operators.device import choose_device
from malmm.operators.media.audio import RATE, voiced_spans
from malmm.pipeline.schema.rows import TRANSCRIBED, array_at, carried, rows_table

__all__ = ["TranscribeSpans"]

_FULL_SCALE = 32767


class TranscribeSpans:
    """An actor with a Whisper model: ``AUDIBLE`` to ``TRANSCRIBED``. Silence is skipped.

    Times of what is said are on the video's clock. Without a ``language`` the model finds that of each stretch of
    sound.
    """

    def __init__(self, *, model: str, language: str = "", device: str | None = None) -> None:
        chosen = choose_device(device)
        self.recogniser = Recogniser(open_whisper(model), chosen)
        self.language = language
        self.batches = BatchLimit(chosen)

    @property
    def device_lost(self) -> bool:
        """Whether the GPU stopped answering, so that nothing more can be done in this process."""
        return self.batches.device_lost

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Recognise what is said in each row's sound."""
        results = []
        for index, row in enumerate(carried(rows)):
            if row.failure is not None or row.segment is None:
                results.append(row.columns())
                continue
            samples = array_at(rows, "sound", index, np.int16).astype(np.float32) / _FULL_SCALE
            said: list[dict[str, Any]] = []
            failed: Mishap | None = None
            for begin, end in voiced_spans(samples):
                [found] = self.batches.results([samples[begin:end]], self._recognise)
                if isinstance(found, Mishap):
                    failed = found
                    break
                first_s = row.segment.start_s + begin / RATE
                said += [
                    vars(each) | {"start_s": first_s + each.start_s, "end_s": first_s + each.end_s}
                    for each in found
                ]
            if failed is not None:
                results.append(row.failed("transcribe", failed.kind, failed.message, failed.trace).columns())
                continue
            results.append(row.columns() | {"utterances": said, "problem": rows["problem"][index].as_py()})
        return rows_table(results, TRANSCRIBED)

    def _recognise(self, sounds: Any) -> list[list[Utterance]]:
        return [self.recogniser.recognise(sound, self.language) for sound in sounds]
