"""Throughput from file to committed rows, against a bare loop without Ray.

    python benchmarks/throughput.py VIDEO [VIDEO ...] [--model demo] [--segment-s 100] [--copies 8] [--rounds 1]

Both index the same segments with the same operators, model and threads into separate archives, in turns. The bare loop
calls one operator after another in this process, a segment at a time, and commits every three seconds; the pipeline is
what `malmm index` runs on this machine. Frames are counted from a quarter of the segments to three quarters, which
excludes starting Ray, loading models, and the start and end of the pipeline. Then it prints where the bare loop's time
goes, and how many bytes a frame pass from stage to stage, which in the pipeline go through Ray's object store.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from malmm.model.checkpoints.resolve import open_models
from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.model.towers.blip2 import RetrievalModel
from malmm.operators.decode import DecodeSettings, decode_segments
from malmm.operators.encode import EncodeSegments
from malmm.operators.generate import GenerateTexts
from malmm.operators.plan_segments import plan_segments
from malmm.operators.probe import probe_files
from malmm.operators.write import write_segments
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster.connection import connected
from malmm.pipeline.indexing.block_stream import received
from malmm.pipeline.indexing.graph import Wiring, indexing, planned_before
from malmm.pipeline.indexing.model_hosts import ModelHosts
from malmm.pipeline.schema.config import IndexConfig, Recipe
from malmm.pipeline.schema.receipt_type import Receipt
from malmm.pipeline.schema.rows import FILES, PROBED, carried, rows_table

COMMIT_EVERY_S = 3.0


class Committer:
    """Takes receipts and commits them as a run does; knows when each frame was done."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.waiting: list[Receipt] = []
        self.last_commit = time.perf_counter()
        self.done: list[tuple[float, int]] = []

    def take(self, block: pa.Table) -> None:
        """Rows of ``RECEIPTS``."""
        for index, row in enumerate(carried(block)):
            assert row.failure is None, row.failure
            receipt = Receipt(**block["receipt"][index].as_py())
            self.waiting.append(receipt)
            self.done.append((time.perf_counter(), receipt.segment_rows()["frame_count"][0].as_py()))
        if time.perf_counter() - self.last_commit >= COMMIT_EVERY_S:
            self.commit()

    def commit(self) -> None:
        """Commit what is waiting."""
        self.archive.commit(self.waiting)
        self.waiting.clear()
        self.last_commit = time.perf_counter()

    def rate(self) -> float:
        """Frames a second, from a quarter of the segments to three quarters."""
        self.commit()
        first, last = len(self.done) // 4, 3 * len(self.done) // 4
        frames = sum(count for _, count in self.done[first + 1 : last + 1])
        return frames / (self.done[last][0] - self.done[first][0])


class BareLoop:
    """The operators, one after another."""

    def __init__(self, config: IndexConfig, recipe: Recipe) -> None:
        self.config, self.recipe = config, recipe
        self.encode = EncodeSegments(
            model=config.model,
            retrieval_model=config.retrieval_model,
            settings=MemorySettings(recipe.bank_length, recipe.merge_policy),
            prompts=config.all_prompts,
            check_vision=False,
        )
        self.generate = GenerateTexts(
            model=config.model, prompts=config.all_prompts, max_new_tokens=config.max_new_tokens
        )
        self.took: defaultdict[str, float] = defaultdict(float)
        self.sent: Counter[str] = Counter()
        self.frames = 0
        self.planning: dict[str, Any] = {
            "recipe_id": recipe.recipe_id,
            "segment_s": recipe.segment_s,
            "fps": recipe.fps,
        }

    def run(self, videos: pa.Table, archive: Archive) -> float:
        """Frames a second."""
        recipe, committer = self.recipe, Committer(archive)
        for at in range(videos.num_rows):
            planned = plan_segments(videos.slice(at, 1), **self.planning)
            for place in range(planned.num_rows):
                began = time.perf_counter()
                parts = decode_segments(
                    planned.slice(place, 1),
                    settings=DecodeSettings(
                        fps=recipe.fps,
                        sampling=recipe.sampling,
                        segment_s=recipe.segment_s,
                        image_size=recipe.image_size,
                        decoder=self.config.decoder,
                        threads=os.cpu_count() or 1,
                        limit_s=self.config.decode_limit_s,
                    ),
                )
                decoded = pa.concat_tables(parts)
                began = self._note("decode", began, decoded)
                encoded = self.encode(decoded)
                began = self._note("encode", began, encoded)
                texts = self.generate(encoded)
                began = self._note("generate", began, texts)
                receipts = write_segments(
                    texts,
                    archive=archive.uri,
                    prompts=self.config.all_prompts,
                    recipe=recipe,
                    memories=archive.schema("memories"),
                )
                began = self._note("write", began, receipts)
                committer.take(receipts)
                self._note("commit", began, None)
                self.frames += (
                    Receipt(**receipts["receipt"][0].as_py()).segment_rows()["frame_count"][0].as_py()
                )
        return committer.rate()

    def _note(self, stage: str, began: float, made: pa.Table | None) -> float:
        ended = time.perf_counter()
        self.took[stage] += ended - began
        if made is not None:
            self.sent[stage] += made.nbytes
        return ended


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    parser.add_argument("--model", default="demo", help="(%(default)s)")
    parser.add_argument("--segment-s", type=float, default=100.0, help="(%(default)g)")
    parser.add_argument("--copies", type=int, default=8, help="of each video (%(default)s)")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    models = open_models(options.model)
    assert models.retrieval is not None
    size = RetrievalModel.load(models.retrieval).text_vectors(["a"]).shape[1]
    side = int(models.instructblip.config["vision_config"]["image_size"])
    driver_s: list[float] = []
    rates: dict[str, list[float]] = {"bare loop": [], "pipeline": []}
    recipe = Recipe(
        options.model,
        models.instructblip.fingerprint(),
        models.retrieval.name,
        models.retrieval.fingerprint(),
        1.0,
        options.segment_s,
        20,
        "token",
        side,
    )
    with tempfile.TemporaryDirectory(prefix="malmm-throughput-") as folder:
        videos = rows_table(list(_probed(options.videos, options.copies, Path(folder))), PROBED)
        config = IndexConfig(tuple(map(str, options.videos)), folder, model=options.model)
        bare = BareLoop(config, recipe)
        for turn in range(options.rounds):
            archive = Archive.create_or_open(f"{folder}/bare-{turn}", recipe, size)
            rates["bare loop"].append(bare.run(videos, archive))
            archive = Archive.create_or_open(f"{folder}/pipeline-{turn}", recipe, size)
            with connected() as resources, ModelHosts(resources) as hosts:
                committer = Committer(archive)
                cpu_s = time.process_time()
                planned = planned_before(carried(plan_segments(videos, **bare.planning)))
                wiring = Wiring(config, recipe, resources)
                made = indexing(planned, wiring, hosts, archive.uri, archive.schema("memories"), expected=1)
                for block in hosts.watched(received(made)):
                    if block is not None:
                        committer.take(block)
                rates["pipeline"].append(committer.rate())
                driver_s.append((time.process_time() - cpu_s) / len(committer.done))
            print(
                f"round {turn + 1}: " + ", ".join(f"{n} {r[-1]:.1f} frames/s" for n, r in rates.items()),
                flush=True,
            )
    base, ours = (statistics.median(rates[name]) for name in ("bare loop", "pipeline"))
    print(f"\n{bare.frames // options.rounds} frames; medians of {options.rounds} rounds\n")
    print("| bare loop, frames/s | pipeline, frames/s | ratio |\n|---|---|---|")
    print(f"| {base:.1f} | {ours:.1f} | {ours / base:.2f} |\n")
    print("| stage of the bare loop | share of its time | bytes a frame handed on |\n|---|---|---|")
    whole_s = sum(bare.took.values())
    for stage, took_s in bare.took.items():
        sent = f"{bare.sent[stage] / bare.frames:.0f}" if stage in bare.sent else ""
        print(f"| {stage} | {took_s / whole_s:.1%} | {sent} |")
    print(
        f"\nThe pipeline's driver, with Ray's part: {1000 * statistics.median(driver_s):.0f} ms of CPU a segment."
    )


def _probed(paths: list[Path], copies: int, folder: Path) -> Iterator[dict[str, object]]:
    """Rows of ``PROBED`` of so many copies of each video."""
    files = []
    for path in paths:
        for number in range(copies):
            copy = folder / f"{path.stem}-{number}{path.suffix}"
            copy.symlink_to(path.resolve())
            files.append({"uri": str(copy), "fingerprint": "1", "metadata": ""})
    for row in carried(probe_files(rows_table(files, FILES))):
        assert row.failure is None, row.failure
        yield row.columns()


if __name__ == "__main__":
    main()
