"""The plan of a dry run that would answer prompts from stored memory: what it reads, writes, and how long it takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from malmm.pipeline.archive.run_history import RunRecord
from malmm.pipeline.indexing.estimate import A100_FLOPS, Estimate, by_pace

if TYPE_CHECKING:
    from malmm.model.checkpoints.checkpoint import Checkpoint
    from malmm.pipeline.archive.reader import ArchiveReader

__all__ = ["AnnotationPlan", "bytes_a_text", "gpu_s_a_text", "slots_read", "time_of_texts"]

# NVIDIA's data sheet: memory of an A100 with 80 GB. Each token of a batch reads all weights (docs/cost.md).
_A100_BYTES_A_S = 2e12
_PROMPT_TOKENS = 32
_TEXTS_MEASURED = 1000
# Of an archive without texts: a token is about four letters, and a row has ids, times and the prompt's name.
_LETTERS_A_TOKEN, _ROW_BYTES = 4, 300


@dataclass(frozen=True)
class AnnotationPlan:
    """What a run would read of stored memory, and write as texts. ``bytes_written`` is an estimate.

    ``hours`` and ``gpu_hours`` are None where they cannot be estimated. ``basis`` names what they were estimated from.
    """

    bytes_read: int
    bytes_written: int
    hours: float | None
    gpu_hours: float | None
    basis: str


def slots_read(archive: ArchiveReader, work: Sequence[pa.Table]) -> int:
    """Memory slots that are read, at most, for these blocks of ``TO_REPLAY``: each row reads its segments once."""
    of_rows = [ids for block in work for ids in block["segment_ids"].to_pylist()]
    frames = archive.frame_counts({segment for ids in of_rows for segment in ids})
    most = archive.recipe.bank_length
    return sum(min(most, frames.get(segment, 0)) for ids in of_rows for segment in ids)


def bytes_a_text(archive: ArchiveReader, max_new_tokens: int) -> float:
    """Bytes of a stored text, not compressed: those of this archive's own texts, else those of the longest."""
    texts = archive.tables.dataset("annotations").to_table(limit=_TEXTS_MEASURED)
    if texts.num_rows:
        return float(texts.nbytes / texts.num_rows)
    return _LETTERS_A_TOKEN * max_new_tokens + _ROW_BYTES


def gpu_s_a_text(checkpoint: Checkpoint, *, bank_length: int, max_new_tokens: int, together: int) -> float:
    """Seconds of an A100 for a text of full length, by the language model's operations and its weights.

    What it is given is bound by operations. Each token that it writes reads all weights, once for the texts that are
    made ``together``. Loads torch. Raises CheckpointError.
    """
    from malmm.model.families.registry import row_of, token_shape
    from malmm.model.footprint import footprints_of

    rows = footprints_of(checkpoint)
    parameters = sum(row.parameters for row in rows if row.part == "language model")
    tokens, *_ = token_shape(checkpoint)
    # A Q-Former hands on as many tokens as it has queries, for any number of slots.
    seen = bank_length * tokens if row_of(checkpoint).reads_slots else _PROMPT_TOKENS
    read_s = 2 * parameters * (seen + _PROMPT_TOKENS) / A100_FLOPS
    written_s = max_new_tokens * 2 * parameters / _A100_BYTES_A_S / together
    return read_s + written_s


def time_of_texts(
    texts: int, gpu_s: float, *, workers: int, on_gpus: bool, runs: Iterable[RunRecord]
) -> Estimate:
    """Estimate the time of so many ``texts`` on so many ``workers``, each with a GPU if they are ``on_gpus``.

    If ``runs`` that wrote texts from memory on workers of that kind are known, their pace is taken: seconds of all
    workers for each text, those in which they had their models. Otherwise ``gpu_s`` seconds of an A100 for each, which
    says nothing about workers without a GPU.
    """
    # Reports of several steps are summed, and an export counts its texts too.
    alone = (run for run in runs if run.kinds.count("annotate") == 1 and "export" not in run.kinds)
    known = by_pace(texts, "texts", "generator_s", workers=workers, on_gpus=on_gpus, runs=alone)
    if known is not None:
        return known
    if not on_gpus:
        said = "no earlier run of this archive that put prompts to memory on such workers is recorded"
        return Estimate(None, None, said)
    gpu_hours = texts * gpu_s / 3600
    basis = (
        "the language model's operations and weights on A100s for texts of full length, a guess, as no earlier run of "
        "this archive that put prompts to memory is recorded"
    )
    return Estimate(gpu_hours / max(1, workers), gpu_hours, basis)
