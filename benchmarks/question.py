"""What one new question of stored memory costs, against indexing the videos again.

    python benchmarks/question.py VIDEO [VIDEO ...] [--model demo] [--segment-s 100]

Indexes the videos with `malmm index`, then puts a question to every segment: with `malmm annotate` as people do, and
then in this process, where both ways take turns and nothing but their work is timed: decoding,
encoding and generating against replaying and generating. The last row is without generating, which costs both the same.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import pyarrow as pa

from malmm.model.qformer import MemorySettings
from malmm.operators.decode import decode_segments
from malmm.operators.encode import EncodeSegments
from malmm.operators.generate import GenerateTexts
from malmm.operators.plan import plan_segments
from malmm.operators.replay import ReplayPrompts
from malmm.pipeline import ArchiveReader
from malmm.pipeline.config import Prompt
from malmm.pipeline.flow import TO_PLAN, TO_REPLAY, Carried, carried, rows_table
from malmm.pipeline.records import Video

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
            rows_table([Carried(video, None, None).columns() | {"done": []}], TO_PLAN),
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
                fps=recipe.fps,
                sampling=recipe.sampling,
                segment_s=recipe.segment_s,
                image_size=recipe.image_size,
                decoder="av",
                threads=1,
                limit_s=600.0,
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
