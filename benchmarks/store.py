"""The store: speed of writing rows, storage of an hour of video, and the effect of fewer bits a token.

    python benchmarks/store.py ARCHIVE [--segments 30]

ARCHIVE was made by `malmm index` with a demo model, and is only read. Writing: memory rows of its segments are
written by `write_rows`, as workers do, into a scratch archive, and committed; the baseline writes and flushes the same
bytes to a plain file, in turns. Storage: bytes of each table's files, and of each part of a memory slot, for an hour of
video, and bytes on disk of the same slots in float16 and in 8 bits. The last table shows how many answers from 8 bits
(`--tokens int8`) equal those from the float16 tokens of ARCHIVE.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.decoding import Decoding
from malmm.model.families.family import Asked, Slots
from malmm.model.families.registry import family_of
from malmm.model.memory.settings import MemorySettings
from malmm.model.memory.slots import Memory
from malmm.pipeline import Archive, ArchiveReader
from malmm.pipeline.archive.receipts import write_rows
from malmm.pipeline.schema.config import TOKENS
from malmm.pipeline.schema.stored_tokens import dequantized, quantized

QUESTIONS = ("Describe the video.", "Which shape appears first in the video?", "Does a red circle appear?")
ROUNDS = 3


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive")
    parser.add_argument("--segments", type=int, default=30, help="for writing and answering (%(default)s)")
    options = parser.parse_args()
    archive = ArchiveReader.open(options.archive)
    ids = sorted(archive.completed_segments())
    writing(archive, ids[: options.segments])
    storage(archive)
    halves(archive, ids[: options.segments])
    answers(archive, ids[: options.segments])


def writing(archive: ArchiveReader, ids: list[str]) -> None:
    """Segments a second through the store's own way in."""
    segments = archive.segments()
    segments = segments.filter(pc.is_in(segments["segment_id"], pa.array(ids)))
    memories = memory_rows(archive, ids)
    texts = archive.annotations()
    texts = texts.filter(pc.is_in(texts["segment_id"], pa.array(ids)))
    payload = b"".join(buffer for column in memories.columns for buffer in buffers(column))
    ours: list[float] = []
    plain: list[float] = []
    size = memories.schema.field("vectors").type.value_type.list_size
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(ROUNDS):
            scratch = Archive.create_or_open(f"{folder}/{turn}", archive.recipe, size)
            began = time.perf_counter()
            receipts = []
            for segment in ids:
                one = {
                    name: rows.filter(pc.equal(rows["segment_id"], segment))
                    for name, rows in (("segments", segments), ("memories", memories), ("annotations", texts))
                }
                receipts += write_rows(scratch.uri, one)
            written_s = time.perf_counter() - began
            scratch.commit(receipts)
            ours.append(time.perf_counter() - began)
            began = time.perf_counter()
            with Path(folder, f"plain-{turn}").open("wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            plain.append(time.perf_counter() - began)
    took, base = statistics.median(ours), statistics.median(plain)
    mb = len(payload) / 1e6
    print(
        "| segments | slots | MB | slots/s | MB/s | plain file MB/s | of it committing |\n|---|---|---|---|---|---|---|"
    )
    print(
        f"| {len(ids)} | {memories.num_rows} | {mb:.0f} | {memories.num_rows / took:.0f} | {mb / took:.0f} | "
        f"{mb / base:.0f} | {1 - written_s / ours[-1]:.0%} |\n",
        flush=True,
    )


def memory_rows(archive: ArchiveReader, ids: list[str]) -> pa.Table:
    """Rows of ``memories`` as workers make them, tokens among them."""
    schema = archive.schema("memories")
    rows = archive.memory_rows(ids, [name for name in schema.names if name not in ("tokens", "token_scales")])
    tokens = [slot.tobytes() for _, slots, _ in archive.memory_tokens(ids) for slot in slots]
    at = schema.get_field_index("tokens")
    return rows.add_column(at, schema.field("tokens"), pa.array(tokens, schema.field("tokens").type))


def buffers(column: pa.ChunkedArray) -> list[bytes]:
    """A column's bytes."""
    return [
        buffer.to_pybytes() for chunk in column.chunks for buffer in chunk.buffers() if buffer is not None
    ]


def storage(archive: ArchiveReader) -> None:
    """Bytes an hour of video."""
    hours = sum(archive.videos()["duration_s"].to_pylist()) / 3600
    print(f"{hours:.2f} hours of video\n\n| what | MB an hour |\n|---|---|")
    for table in sorted(Path(archive.uri).glob("*.lance")):
        size = sum(file.stat().st_size for file in table.rglob("*") if file.is_file())
        print(f"| {table.stem}, all its files | {size / 1e6 / hours:.2f} |")
    ids = sorted(archive.completed_segments())
    rows = archive.memory_rows(ids, ("vectors", "thumbnail", "token_shape", "sizes"))
    pictures = pc.sum(pc.binary_length(rows["thumbnail"])).as_py()
    positions, channels = rows["token_shape"][0].as_py()
    flat = rows["vectors"].combine_chunks().flatten().flatten()
    for name, size in (
        ("tokens, float16", 2 * rows.num_rows * positions * channels),
        ("retrieval vectors, float16", 2 * len(flat)),
        ("thumbnails", pictures),
    ):
        print(f"| of memories: {name} | {size / 1e6 / hours:.2f} |")
    print(flush=True)


def halves(archive: ArchiveReader, ids: list[str]) -> None:
    """Bytes on disk of the table ``memories`` with the same slots in either type of tokens."""
    segments = archive.segments()
    segments = segments.filter(pc.is_in(segments["segment_id"], pa.array(ids)))
    schema = archive.schema("memories")
    rows = archive.memory_rows(ids, [name for name in schema.names if name not in ("tokens", "token_scales")])
    kept = [slot for _, slots, _ in archive.memory_tokens(ids) for slot in slots]
    size = schema.field("vectors").type.value_type.list_size
    print("| tokens | bytes on disk | a slot | of it tokens and scales |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind in TOKENS:
            recipe = replace(archive.recipe, tokens=kind)
            scratch = Archive.create_or_open(f"{folder}/{kind}", recipe, size)
            held = [quantized(slot) if kind == "int8" else (slot, None) for slot in kept]
            wanted = scratch.schema("memories")
            scales = [None if scales is None else scales.ravel() for _, scales in held]
            added = {"tokens": [numbers.tobytes() for numbers, _ in held], "token_scales": scales}
            table = rows
            for name, values in added.items():
                table = table.append_column(wanted.field(name), pa.array(values, wanted.field(name).type))
            scratch.commit(write_rows(scratch.uri, {"segments": segments, "memories": table}))
            files = [
                path for path in Path(scratch.uri, "memories.lance", "data").rglob("*") if path.is_file()
            ]
            on_disk = sum(path.stat().st_size for path in files)
            tokens = sum(
                numbers.nbytes + (0 if scales is None else scales.nbytes) for numbers, scales in held
            )
            print(f"| {kind} | {on_disk} | {on_disk / len(kept):.0f} | {tokens / len(kept):.0f} |")
    print(flush=True)


def answers(archive: ArchiveReader, ids: list[str]) -> None:
    """Answers from tokens of 8 bits that are those from 16."""
    recipe = archive.recipe
    checkpoint = open_models(recipe.model, NO_RETRIEVAL).checkpoint
    family = family_of(checkpoint)
    encoder = family.load_encoder(checkpoint, with_vision=False)
    language = family.load_language(checkpoint)
    settings = MemorySettings(recipe.bank_length, recipe.merge_policy)
    frames = archive.frame_counts(ids)
    slots = archive.memory_rows(ids, ("segment_id", "timestamp_s", "end_s")).to_pylist()
    same = dict.fromkeys(QUESTIONS, 0)
    for segment, tokens, sizes in archive.memory_tokens(ids):
        times = [slot["timestamp_s"] for slot in slots if slot["segment_id"] == segment]
        end_s = max(slot["end_s"] for slot in slots if slot["segment_id"] == segment)
        texts = []
        for kept in (tokens, dequantized(*quantized(tokens))):
            memory = Memory.stored(
                torch.from_numpy(kept.astype(np.float32)), torch.from_numpy(sizes.copy()), frames[segment]
            )
            [output] = encoder.replay([memory], [list(QUESTIONS)], settings)
            if output is None:
                read = Slots(memory.tokens.to(torch.float16), tuple(times), end_s)
                asked = [Asked(question, slots=read) for question in QUESTIONS]
            else:
                asked = [Asked(question, own) for question, own in zip(QUESTIONS, output, strict=True)]
            texts.append(language.generate_texts(asked, Decoding()))
        for question, a, b in zip(QUESTIONS, *texts, strict=True):
            same[question] += a == b
    print("| question | asked | same answer from 8 bits |\n|---|---|---|")
    for question, count in same.items():
        print(f"| {question} | {len(ids)} | {count / len(ids):.1%} |")


if __name__ == "__main__":
    main()
