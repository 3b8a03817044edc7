"""Cost of one new question to stored memory, against indexing the videos again.

    python benchmarks/question.py VIDEO [VIDEO ...] [--model demo] [--segment-s 100] [--paper-frames 100]

Indexes the videos with `malmm index`, then asks a question of every segment: with `malmm annotate`, and then in this
process, where both ways take turns and only their work is timed (decoding, encoding and generating, against replaying
and generating). The last row is without generating, which costs the same in both.

With ``--paper-frames``, so many frames of the first video are also encoded at paper size (ViT-g/14 and the Q-Former,
random weights, float32), and a question is replayed on their memory, which is not read from an archive; both without
generating. Takes some minutes on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import torch
from torch import nn
from transformers import (
    InstructBlipQFormerConfig,
    InstructBlipQFormerModel,
    InstructBlipVisionConfig,
    InstructBlipVisionModel,
)

from malmm.model.checkpoints.resolve import NO_RETRIEVAL, open_models
from malmm.model.families.instructblip.encoder import Encoder
from malmm.model.families.instructblip.qformer import MemorySettings, OnlineQFormer
from malmm.model.families.instructblip.vision import VisionEncoder
from malmm.model.memory.slots import Memory
from malmm.operators.decode import DecodeSettings, decode_segments
from malmm.operators.encode import EncodeSegments
from malmm.operators.generate import GenerateTexts
from malmm.operators.media.reader import SpanRequest, decode_span
from malmm.operators.plan_segments import plan_segments
from malmm.operators.replay import ReplayPrompts
from malmm.pipeline import ArchiveReader
from malmm.pipeline.schema.config import Prompt
from malmm.pipeline.schema.records import Video
from malmm.pipeline.schema.rows import PROBED, TO_REPLAY, Carried, carried, rows_table

# As `malmm index` and `malmm annotate` have it.
BATCH = 4
QUESTION = Prompt("count", "How many objects appear in the video?")


def main() -> None:
    """Index, ask, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    parser.add_argument("--model", default="demo", help="(%(default)s)")
    parser.add_argument("--segment-s", type=float, default=100.0, help="(%(default)g)")
    parser.add_argument("--paper-frames", type=int, default=0, help="none unless told")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="malmm-question-") as folder:
        place = f"{folder}/archive"
        paths = [str(path.resolve()) for path in options.videos]
        model = ["--model", options.model, "--segment-s", str(options.segment_s)]
        index_s = command("index", *paths, "--archive", place, *model)
        asked = ["--prompt", f"{QUESTION.name}={QUESTION.text}", "--scope", "segment"]
        annotate_s = command("annotate", "--archive", place, *asked)
        archive = ArchiveReader.open(place)
        took, segments = in_turns(archive, options.model)
        hours = sum(archive.videos()["duration_s"].to_pylist()) / 3600
    print(f"{segments} segments, {hours:.2f} hours of video; seconds an hour of video\n")
    print("| | indexing again | one new question | ratio |\n|---|---|---|---|")
    rows = [
        ("commands, with starting Ray and loading models", index_s, annotate_s),
        (
            "work alone",
            took["decode"] + took["encode"] + took["generate"],
            took["replay"] + took["generate anew"],
        ),
        ("work without generating", took["decode"] + took["encode"], took["replay"]),
    ]
    for name, again_s, question_s in rows:
        print(f"| {name} | {again_s / hours:.1f} | {question_s / hours:.1f} | {again_s / question_s:.1f} |")
    print("\nOf the work, seconds an hour: " + ", ".join(f"{n} {s / hours:.1f}" for n, s in took.items()))
    if options.paper_frames:
        at_paper_size(options.videos[0], options.paper_frames)


@torch.inference_mode()
def at_paper_size(path: Path, frames: int) -> None:
    """Print what encoding a segment of so many frames takes, and what replaying its memory."""
    torch.manual_seed(0)
    config = InstructBlipQFormerConfig(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    online = OnlineQFormer(
        InstructBlipQFormerModel(config).eval(), nn.Parameter(torch.randn(1, 32, config.hidden_size))
    )
    vision = VisionEncoder(InstructBlipVisionModel(InstructBlipVisionConfig()), (0.5,) * 3, (0.5,) * 3).eval()
    tokenizer = open_models("demo", NO_RETRIEVAL).instructblip.tokenizer("qformer_tokenizer")
    encoder = Encoder(vision, online, tokenizer)
    settings, prompts = MemorySettings(20, "token"), [[QUESTION.text]]
    began = time.perf_counter()
    decoded = decode_span(SpanRequest(str(path), 0.0, float(frames), 1.0, vision.image_size))
    decode_s = time.perf_counter() - began
    began = time.perf_counter()
    encoded = encoder.encode([decoded.frames], prompts, settings)[0]
    encode_s = time.perf_counter() - began
    tokens = encoded.memory.tokens.half().float()  # as an archive has them
    memory = Memory.stored(tokens, encoded.memory.sizes, len(decoded.frames))
    encoder.replay([memory], prompts, settings)  # to warm up
    times_s = []
    for _ in range(3):
        began = time.perf_counter()
        encoder.replay([memory], prompts, settings)
        times_s.append(time.perf_counter() - began)
    replay_s = statistics.median(times_s)
    print(f"\nAt paper size, {len(decoded.frames)} frames, without generating:\n")
    print("| decode s | encode s | one new question s | ratio |\n|---|---|---|---|")
    print(f"| {decode_s:.1f} | {encode_s:.1f} | {replay_s:.2f} | {(decode_s + encode_s) / replay_s:.0f} |")


def command(*arguments: str) -> float:
    """Seconds that a command takes."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "malmm.jobs.cli", *arguments, "--quiet"], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - began


def in_turns(archive: ArchiveReader, model: str) -> tuple[dict[str, float], int]:
    """Seconds of each kind of work, and for how many segments."""
    recipe, prompts = archive.recipe, (QUESTION,)
    settings = MemorySettings(recipe.bank_length, recipe.merge_policy)
    encode = EncodeSegments(
        model=model, retrieval_model=None, settings=settings, prompts=prompts, check_vision=False
    )
    replay = ReplayPrompts(archive=archive.root, model=model, settings=settings, prompts=prompts)
    generate = GenerateTexts(model=model, prompts=prompts, max_new_tokens=40)
    took: defaultdict[str, float] = defaultdict(float)
    segments = first = 0

    def timed(name: str, work: object, rows: pa.Table, **how: object) -> pa.Table:
        began = time.perf_counter()
        made = work(rows, **how)  # type: ignore[operator]
        if not isinstance(made, pa.Table):
            made = pa.concat_tables(made)
        if segments:  # the first is there to warm up
            took[name] += time.perf_counter() - began
        return made

    fields = list(Video.__dataclass_fields__)
    for row in archive.videos().select(fields).to_pylist():
        video = Video(**row)
        planned = plan_segments(
            rows_table([Carried(video, None, None).columns()], PROBED),
            recipe_id=recipe.recipe_id,
            segment_s=recipe.segment_s,
            fps=recipe.fps,
        )
        for at in range(0, planned.num_rows, BATCH):
            some = planned.slice(at, BATCH)
            decoded = timed(
                "decode",
                decode_segments,
                some,
                settings=DecodeSettings(
                    fps=recipe.fps,
                    sampling=recipe.sampling,
                    segment_s=recipe.segment_s,
                    image_size=recipe.image_size,
                    decoder="av",
                    threads=1,
                ),
            )
            timed("generate", generate, timed("encode", encode, decoded))
            to_replay = [
                row.columns() | {"segment_ids": [row.segment.segment_id], "prompts": [0]}
                for row in carried(some)
                if row.segment is not None
            ]
            replayed = timed("replay", replay, rows_table(to_replay, TO_REPLAY))
            assert carried(replayed)[0].failure is None, carried(replayed)[0].failure
            timed("generate anew", generate, replayed)
            segments += some.num_rows
            first = first or segments
    scale = segments / (segments - first)
    return {name: s * scale for name, s in took.items()}, segments


if __name__ == "__main__":
    main()
