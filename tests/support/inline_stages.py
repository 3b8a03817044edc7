"""The stages of a run in this process, one after the other: the driver and the operators without Ray."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest

from malmm.model.memory.settings import MemorySettings
from malmm.operators.decode import DecodeSettings, decode_segments
from malmm.operators.encode import EncodeSegments
from malmm.operators.generate import GenerateTexts
from malmm.operators.guard import guarded, guarded_actor
from malmm.operators.listen import listen_to_spans
from malmm.operators.plan_segments import plan_segments
from malmm.operators.probe import probe_files
from malmm.operators.replay import ReplayPrompts
from malmm.operators.write import write_segments
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.cluster import connection
from malmm.pipeline.cluster.resources import Node, choose_resources
from malmm.pipeline.indexing import block_stream, driver, graph, model_hosts, replay_commits, run_loop
from malmm.pipeline.indexing.file_queue import FileQueue
from malmm.pipeline.indexing.graph import Wiring
from malmm.pipeline.schema.cluster_use import ClusterUse
from malmm.pipeline.schema.config import IndexConfig, Recipe
from malmm.pipeline.schema.rows import (
    ANSWERED,
    AUDIBLE,
    DECODED,
    ENCODED,
    PLANNED,
    PROBED,
    RECEIPTS,
    REPLAYED,
    TRANSCRIBED,
    Carried,
    carried,
    rows_table,
)
from malmm.pipeline.schema.transcribe_config import TranscribeConfig
from support.kept_models import keep_models

# As ``malmm.pipeline.indexing.graph`` guards them.
_probe: Any = guarded("probe", PROBED, probe_files)
_plan: Any = guarded("plan", PLANNED, plan_segments)
_Encode = guarded_actor("encode", ENCODED, EncodeSegments)
_Generate = guarded_actor("generate", ANSWERED, GenerateTexts)
_Replay = guarded_actor("replay", REPLAYED, ReplayPrompts)
_listen: Any = guarded("listen", AUDIBLE, listen_to_spans)
_Transcribe = guarded_actor("transcribe", TRANSCRIBED, "malmm.operators.transcribe:TranscribeSpans")
_write: Any = guarded("write", RECEIPTS, write_segments)
# What happens to a decoded row: None to go on, a kind of failure, or "lost" with its worker.
Mishap = Callable[[Carried], str | None]


class NoHosts:
    """Stands in for ``ModelHosts``: this process has the models, from the begin on."""

    encoders, gpus = 1, 0.0

    run_actor = None
    loading, loaded_s = 0, 0.0

    def __init__(self, *_: Any) -> None:
        self._began = time.monotonic()

    @property
    def encoder_s(self) -> float:
        return time.monotonic() - self._began

    generator_s = encoder_s

    def __enter__(self) -> NoHosts:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def want(self, batches: int) -> None:
        pass

    def watched(self, blocks: Iterator[pa.Table | None]) -> Iterator[pa.Table | None]:
        return blocks


class InlineStages:
    """Stands in for ``malmm.pipeline.indexing.graph``. ``calls`` counts the stages' runs and the segments decoded."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.mishap: Mishap = lambda row: None
        self.lost_files: set[str] = set()
        self.interrupt_after: int | None = None
        self._actors: dict[Any, Any] = {}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have runs use this from now on."""
        keep_models(monkeypatch)
        names = ("surveying", "indexing", "planned_before", "replaying", "transcribing", "received")
        stand_ins: dict[str, Any] = {name: getattr(self, name) for name in names} | {
            "RemoteFileQueue": lambda positions, actor: FileQueue(positions),
            "rewriting_on_workers": lambda uri, table, **_: None,
            "connected": lambda *_, **__: contextlib.nullcontext(choose_resources([Node(2)])),
            "ModelHosts": NoHosts,
        }
        # Both where they are used and where a run that starts Ray late finds them.
        for module in (driver, run_loop, replay_commits, graph, connection, block_stream, model_hosts):
            for name, stand_in in stand_ins.items():
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, stand_in)

    def received(self, blocks: Iterator[pa.Table | None]) -> Iterator[pa.Table | None]:
        for block in blocks:
            yield None
            if block is not None:
                yield block

    def surveying(
        self, wiring: Wiring, queue: FileQueue, positions: int, done: Any = None
    ) -> Iterator[pa.Table | None]:
        """Tables of one planned segment, and None where the driver has something to do first."""
        config, recipe = wiring.config, wiring.recipe
        self.calls["surveying"] += 1
        for position in range(positions):
            while (files := queue.files_at(position)) is None:
                time.sleep(0.01)
                yield None
            for index in range(files.num_rows):
                self.calls["probed"] += 1
                if files["uri"][index].as_py() in self.lost_files:
                    continue
                part = files.slice(index, 1)
                segments = _plan(
                    _probe(part, min_segment_s=config.min_segment_s, segment_s=config.segment_s),
                    recipe_id=recipe.recipe_id,
                    segment_s=recipe.segment_s,
                    fps=recipe.fps,
                    done=done,
                    note=queue.note,
                )
                yield None
                for number in range(segments.num_rows):
                    yield segments.slice(number, 1)

    def planned_before(
        self, rows: Sequence[Carried], *, use: ClusterUse, verbose: bool
    ) -> Iterator[pa.Table]:
        for row in rows:
            yield rows_table([row.columns()], PLANNED)

    def indexing(
        self,
        planned: Iterator[pa.Table | None],
        wiring: Wiring,
        hosts: NoHosts,
        archive: str,
        memories: pa.Schema,
        *,
        expected: int,
    ) -> Iterator[pa.Table | None]:
        config, recipe = wiring.config, wiring.recipe
        self.calls["indexing"] += 1
        encode = self._actor(
            _Encode,
            model=config.model,
            retrieval_model=config.retrieval_model,
            settings=MemorySettings(recipe.bank_length, recipe.merge_policy),
            tokens=recipe.tokens,
            prompts=config.all_prompts,
            compile_vision=config.compile,
            device="cpu",
        )
        number = 0
        for segment in planned:
            if segment is None:
                yield None
                continue
            if number == self.interrupt_after:
                raise KeyboardInterrupt
            number += 1
            self.calls["decoded"] += 1
            # Guarded here and not once: a test may have put a gate before the decoders.
            decode: Any = guarded("decode", DECODED, decode_segments)
            [rows] = decode(
                segment,
                settings=DecodeSettings(
                    fps=recipe.fps, image_size=recipe.image_size, decoder=config.decoder, threads=1
                ),
            )
            [row] = carried(rows)
            kind = self.mishap(row)
            if kind == "lost":
                continue
            if kind is not None:
                rows = rows_table([row.failed("encode", kind, "it went wrong").columns()], DECODED)
            yield _write(
                self._generator(config, recipe)(encode(rows)),
                archive=archive,
                prompts=config.all_prompts,
                recipe=recipe,
                memories=memories,
            )

    def replaying(
        self,
        work: Sequence[pa.Table],
        config: IndexConfig,
        archive: Archive,
        hosts: NoHosts,
        *,
        verbose: bool,
    ) -> Iterator[pa.Table]:
        self.calls["replaying"] += 1
        replay = self._actor(
            _Replay,
            archive=archive.uri,
            model=config.model,
            settings=MemorySettings(archive.recipe.bank_length, archive.recipe.merge_policy),
            prompts=config.all_prompts,
            device="cpu",
        )
        for block in work:
            self.calls["replayed"] += sum(len(prompts) for prompts in block["prompts"].to_pylist())
            yield self._generator(config, archive.recipe)(replay(block))

    def transcribing(
        self,
        work: Sequence[pa.Table],
        config: TranscribeConfig,
        resources: Any,
        hosts: NoHosts,
        *,
        verbose: bool,
    ) -> Iterator[pa.Table]:
        for block in work:
            self.calls["listened"] += block.num_rows
            for sound in _listen(block):
                yield self._actor(_Transcribe, model=config.model, language=config.language, device="cpu")(
                    sound
                )

    def _generator(self, config: IndexConfig, recipe: Recipe) -> Any:
        return self._actor(
            _Generate,
            model=config.model,
            prompts=config.all_prompts,
            max_new_tokens=config.max_new_tokens,
            decoding=recipe.decoding,
            engine=config.engine,
            device="cpu",
        )

    def _actor(self, kind: Any, **options: Any) -> Any:
        key = (kind, tuple(options.items()))
        if key not in self._actors:
            self._actors[key] = kind(**options)
        return self._actors[key]
