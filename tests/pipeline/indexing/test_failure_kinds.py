"""Every kind of failure that docs/archive.md names is one that a run or its operators produce, stage by stage."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from support.archive_rows import RECIPE, VECTOR_SIZE
from support.flow_rows import PROMPTS, decoded, decoded_segments, decoded_table, planned, video_at
from support.inline_stages import InlineStages
from support.media import VideoSpec, cut, damage, make_video
from support.models import random_frames

from malmm.model.families.instructblip.qformer import MemorySettings
from malmm.operators.decode import DecodeSettings, decode_segments
from malmm.operators.encode import EncodeSegments
from malmm.operators.generate import GenerateTexts
from malmm.operators.guard import guarded, guarded_actor
from malmm.operators.media.sandbox.client import Sandbox
from malmm.operators.plan_segments import plan_segments
from malmm.operators.probe import probe_files
from malmm.operators.replay import ReplayPrompts
from malmm.operators.write import write_segments
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.indexing import run_loop
from malmm.pipeline.indexing.index import index
from malmm.pipeline.schema.config import IndexConfig
from malmm.pipeline.schema.records import PERMANENT_KINDS, Failure
from malmm.pipeline.schema.rows import (
    ANSWERED,
    DECODED,
    ENCODED,
    FILES,
    PLANNED,
    PROBED,
    RECEIPTS,
    REPLAYED,
    TO_REPLAY,
    Carried,
    carried,
    rows_table,
    with_arrays,
)

ROOT = Path(__file__).parents[3]
SETTINGS = MemorySettings(2, "token")
FRAMES = DecodeSettings(fps=1.0, image_size=56, decoder="av", threads=1)
# A sandbox whose own program is at fault.
FAULTY = "from malmm.operators.media.sandbox import worker; worker.{} = lambda *_: 1 / 0; worker.serve()"
CLASS, MEDIA, FIRST = "the exception's class", "those of decoding", "the first segment's kind"


@dataclass
class Bench:
    """What the cases work with: videos in ``folder``, and runs of all stages in this process."""

    folder: Path
    stages: InlineStages

    @cached_property
    def video(self) -> Path:
        """Two segments of three seconds."""
        return make_video(self.folder, VideoSpec("two.mkv", duration_s=6.0))

    @cached_property
    def of_bad_sources(self) -> list[Failure]:
        """A run over what is not there, is not a video, is cut short and is damaged, beside a good one."""
        (self.folder / "text.mp4").write_text("hello")
        whole = make_video(self.folder, VideoSpec("whole.mp4", duration_s=4.0))
        bad = [cut(self.video, 0.75, "short.mkv"), damage(whole, 0.5, 4000, "hurt.mp4")]
        return self.run(self.video, self.folder / "gone.mp4", self.folder / "text.mp4", *bad)

    @cached_property
    def of_lost_workers(self) -> list[Failure]:
        """A run of which workers are lost, with a file that they probe and a segment that they hold."""
        other = make_video(self.folder, VideoSpec("other.mp4", duration_s=1.0))
        self.stages.lost_files = {str(other)}
        self.stages.mishap = lambda row: "lost" if row.segment and row.segment.index == 1 else None
        found = self.run(self.video, other, archive=str(self.folder / "lost"))
        self.stages.mishap, self.stages.lost_files = lambda row: None, set()
        return found

    @cached_property
    def archive(self) -> Archive:
        """An archive without a row."""
        return Archive.create_or_open(str(self.folder / "empty"), RECIPE, VECTOR_SIZE)

    def run(self, *sources: Path, **changes: Any) -> list[Failure]:
        """The failures that a run reports."""
        options: dict[str, Any] = {
            "sources": tuple(map(str, sources)), "archive": str(self.folder / "archive"), "model": "debug",
            "fps": 1.0, "segment_s": 3.0, "bank_length": 2, "max_new_tokens": 2,
        }  # fmt: skip
        return index(IndexConfig(**(options | changes))).failures

    def files(self, path: Path) -> pa.Table:
        """The file as it is listed, ``FILES``."""
        return rows_table([{"uri": str(path), "fingerprint": "f", "metadata": ""}], FILES)


def bad_sources(bench: Bench) -> list[Failure]:
    return bench.of_bad_sources


def lost_workers(bench: Bench) -> list[Failure]:
    return bench.of_lost_workers


def no_frames(bench: Bench) -> list[Failure]:
    [row] = planned(video_at(str(bench.video), start_s=50.0, duration_s=5.0))
    return failures(decode_segments(rows_table([row.columns()], PLANNED), settings=FRAMES))


def probe_unexpected(bench: Bench) -> list[Failure]:
    with Sandbox(FAULTY.format("probe")) as sandbox:
        return failures([probe_files(bench.files(bench.video), sandbox=sandbox)])


def decode_unexpected(bench: Bench) -> list[Failure]:
    row = planned(video_at(str(bench.video)))[0]
    with Sandbox(FAULTY.format("decode_span")) as sandbox:
        return failures(
            decode_segments(rows_table([row.columns()], PLANNED), settings=FRAMES, sandbox=sandbox)
        )


def probe_class(bench: Bench) -> list[Failure]:
    probe = guarded("probe", PROBED, probe_files)
    return failures([probe(bench.files(bench.video), min_segment_s=3.0, segment_s=4.0)])


def plan_class(bench: Bench) -> list[Failure]:
    row = Carried(video_at(duration_s=float("nan")), None, None)
    plan = guarded("plan", PLANNED, plan_segments)
    return failures([plan(rows_table([row.columns()], PROBED), recipe_id="0", segment_s=3.0, fps=1.0)])


def decode_class(bench: Bench) -> list[Failure]:
    rows = rows_table([planned(video_at(str(bench.video)))[0].columns()], PLANNED)
    settings = DecodeSettings(fps=0.0, image_size=56, decoder="av", threads=1)
    return failures(guarded("decode", DECODED, decode_segments)(rows, settings=settings))


def encode_class(bench: Bench) -> list[Failure]:
    row = decoded(planned(video_at())[0], random_frames(0, 5)) | {"timestamps_s": []}
    actor = guarded_actor("encode", ENCODED, EncodeSegments)
    encode = actor(model="debug", retrieval_model=None, settings=SETTINGS, prompts=PROMPTS, device="cpu")
    return failures([encode(decoded_table([row]))])


def generate_class(bench: Bench) -> list[Failure]:
    row = planned(video_at())[0].columns() | {"prompts": [0]}
    outputs = with_arrays(row, query_output=np.zeros((1, 8, 5), np.float32))
    generate = guarded_actor("generate", ANSWERED, GenerateTexts)
    actor = generate(model="debug", prompts=PROMPTS, max_new_tokens=2, device="cpu")
    return failures([actor(rows_table([outputs], REPLAYED))])


def replay_class(bench: Bench) -> list[Failure]:
    row = Carried(video_at(), None, None).columns() | {"segment_ids": ["00" * 12], "prompts": [0]}
    replay = guarded_actor("replay", REPLAYED, ReplayPrompts)
    actor = replay(archive=bench.archive.uri, model="debug", settings=SETTINGS, prompts=PROMPTS, device="cpu")
    return failures([actor(rows_table([row], TO_REPLAY))])


def write_class(bench: Bench) -> list[Failure]:
    encode = EncodeSegments(
        model="debug", retrieval_model=None, settings=SETTINGS, prompts=PROMPTS, device="cpu"
    )
    generate = GenerateTexts(model="debug", prompts=PROMPTS, max_new_tokens=2, device="cpu")
    answered = generate(encode(decoded_table(decoded_segments([3]))))
    write = guarded("write", RECEIPTS, write_segments)
    nowhere, memories = f"{bench.archive.uri}/nowhere", bench.archive.schema("memories")
    return failures([write(answered, archive=nowhere, prompts=PROMPTS, recipe=RECIPE, memories=memories)])


def nothing_stored(bench: Bench) -> list[Failure]:
    # decord refuses transport streams, segment by segment.
    stream = make_video(bench.folder, VideoSpec("stream.ts", duration_s=4.0))
    found = bench.run(stream, decoder="decord")
    assert {failure.kind for failure in found} == {"decode_error"}
    return found


def failures(tables: Iterable[pa.Table]) -> list[Failure]:
    return [row.failure for table in tables for row in carried(table) if row.failure is not None]


PRODUCED: dict[tuple[str, str], Callable[[Bench], list[Failure]]] = {
    ("list", "source"): bad_sources,
    ("probe", MEDIA): bad_sources,
    ("decode", MEDIA): no_frames,
    ("decode", "truncated"): bad_sources,
    ("decode", "damaged"): bad_sources,
    ("probe", "unexpected"): probe_unexpected,
    ("decode", "unexpected"): decode_unexpected,
    ("probe", CLASS): probe_class,
    ("plan", CLASS): plan_class,
    ("decode", CLASS): decode_class,
    ("encode", CLASS): encode_class,
    ("generate", CLASS): generate_class,
    ("replay", CLASS): replay_class,
    ("write", CLASS): write_class,
    ("probe", "worker_lost"): lost_workers,
    ("index", "worker_lost"): lost_workers,
    ("index", FIRST): nothing_stored,
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, _shared_stages: InlineStages) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"), _shared_stages)


@pytest.mark.parametrize(("stage", "kind"), PRODUCED)
def test_each_kind_is_produced(stage: str, kind: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.stages.install(monkeypatch)
    monkeypatch.setattr(run_loop, "RETRY_PAUSES_S", ())
    bench.stages.mishap, bench.stages.lost_files = lambda row: None, set()
    bench.stages.interrupt_after = None
    found = [failure for failure in PRODUCED[stage, kind](bench) if failure.stage == stage]
    assert all(failure.message for failure in found)
    kinds = {failure.kind for failure in found}
    if kind == CLASS:
        kinds = {CLASS for name in kinds if re.fullmatch(r"[A-Z]\w+", name)}
    elif kind in (FIRST, MEDIA):
        # `tests/operators/media/test_kinds.py` has all of them.
        kinds = {kind for name in kinds if name in PERMANENT_KINDS}
    assert kind in kinds


def documented() -> set[tuple[str, str]]:
    """The stages and kinds of the page."""
    page = (ROOT / "docs" / "archive.md").read_text().partition("| stage | kind | what happened |")[2]
    rows = re.findall(r"^\| ([\w, ]+) \| ([^|]+) \|", page.partition("\n## ")[0], flags=re.MULTILINE)
    return {
        (stage, re.sub(r"\]\([^)]*\)|[`\[]", "", kind))
        for stages, kind in rows
        for stage in stages.split(", ")
    }


def test_the_documented_kinds_are_those() -> None:
    assert documented() == PRODUCED.keys()


# Stages of `malmm evaluate` and `malmm transcribe`, whose failures are in their reports and not in this table.
ELSEWHERE = {"pick", "answer", "listen", "transcribe"}


def written_in_code() -> set[tuple[str, str]]:
    """The stages that operators and the driver name in code, each with its kind where that is written, too."""
    found = set()
    for path in [*(ROOT / "operators").glob("*.py"), *(ROOT / "pipeline" / "indexing").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            told = {"failed": node.args[:2], "Failure": node.args[3:5], "guarded": node.args[:1]}.get(
                name.removesuffix("_actor"), []
            )
            texts = [str(part.value) if isinstance(part, ast.Constant) else "" for part in told]
            if texts and texts[0]:
                found.add((texts[0], texts[1] if len(texts) > 1 else ""))
    return found


def test_no_other_stage_or_kind_is_in_the_code() -> None:
    known, written = documented(), written_in_code()
    assert len(written) > 12
    assert {stage for stage, _ in written} <= {stage for stage, _ in known} | ELSEWHERE
    assert {each for each in written if each[1] and each[0] not in ELSEWHERE} <= known
