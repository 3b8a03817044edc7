"""Annotate: answer prompts from stored memory and add the missing texts, without reading a video.

Loads Ray only if a text is missing: a dry run too, since the time depends on the cluster.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from malmm.model.checkpoints.checkpoint import Checkpoint
from malmm.model.checkpoints.resolve import NO_RETRIEVAL, notice_of
from malmm.pipeline.archive.partitions import partition_at
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.recipe_models import archive_models
from malmm.pipeline.archive.run_history import read_runs
from malmm.pipeline.archive.video_selection import select_videos
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.indexing.annotation_plan import (
    AnnotationPlan,
    bytes_a_text,
    gpu_s_a_text,
    slots_read,
    time_of_texts,
)
from malmm.pipeline.indexing.ledger import Ledger
from malmm.pipeline.indexing.missing_annotations import missing_annotations
from malmm.pipeline.indexing.served_engine import check_engine
from malmm.pipeline.indexing.typed_prompts import check_vocabulary
from malmm.pipeline.schema.config import AnnotateConfig, Prompt
from malmm.pipeline.schema.engines import OWN_ENGINE
from malmm.pipeline.schema.errors import ArchiveError, ConfigError
from malmm.pipeline.schema.exit_codes import exit_code_of
from malmm.pipeline.schema.progress import OnProgress, Progress
from malmm.pipeline.schema.records import Failure

if TYPE_CHECKING:
    from malmm.pipeline.cluster.plan import ClusterPlan

__all__ = ["AnnotateReport", "annotate"]


@dataclass
class AnnotateReport:
    """Result: the numbers of texts that were ``missing``, that were made (``texts``), and that existed (``there``).

    ``engine`` wrote them. ``still_missing`` texts failed (``failures`` has the reasons) or never came back from their
    workers. ``loaded_s``: seconds from the start of the first worker until it had loaded the model. ``gpus``: how many
    the run had room for at once; ``generator_s``: seconds of all language models, each from when it was loaded. A dry
    run has a ``plan`` instead.
    """

    archive: str
    model: str
    engine: str = OWN_ENGINE
    videos: int = 0
    missing: int = 0
    there: int = 0
    texts: int = 0
    still_missing: int = 0
    gpus: float = 0.0
    generator_s: float = 0.0
    dry_run: bool = False
    plan: AnnotationPlan | None = None
    interrupted: bool = False
    elapsed_s: float = 0.0
    loaded_s: float = 0.0
    notice: str | None = None
    failures: list[Failure] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 if nothing is missing any more, 3 if some failed, 1 if all failed, 130 if interrupted."""
        done = bool(self.texts or self.there)
        return exit_code_of(interrupted=self.interrupted, failed=bool(self.still_missing), done=done)

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return asdict(self) | {"exit_code": self.exit_code}


def annotate(
    config: AnnotateConfig, *, on_progress: OnProgress | None = None, verbose: bool = False
) -> AnnotateReport:
    """Answer prompts from the memory of an archive's segments and whole videos, and store the texts.

    Makes only missing texts: running it again makes none. Raises ConfigError for a prompt whose name has another text
    in the archive (unless ``new_versions``) and for a condition that does not parse, ArchiveError for the archive, and
    CheckpointError if its model is missing or has other weights. On Ctrl-C it keeps what is ready and returns with
    ``interrupted`` set.
    """
    began = time.monotonic()
    tell = on_progress or (lambda progress: None)
    archive = Archive.open(config.archive)
    # By chance, a partition may have no video.
    if archive.count("segments") == 0 and partition_at(config.archive) is None:
        raise ArchiveError(f"{archive.root} is empty: index videos first", uri=archive.root)
    if not config.new_versions:
        _check_versions(archive, config.prompts)
    recipe = archive.recipe
    config = replace(config, model=config.model or recipe.model)
    report = AnnotateReport(
        archive.root, config.model, config.engine, dry_run=config.dry_run, notice=notice_of(recipe.model)
    )
    chosen = set(select_videos(archive, condition=config.where)["video_id"].to_pylist())
    report.videos = len(chosen)
    tell(Progress("listing"))
    work = missing_annotations(archive, config.prompts, recipe, scopes=config.scopes, video_ids=chosen)
    report.missing = sum(len(prompts) for block in work for prompts in block["prompts"].to_pylist())
    subjects = len(chosen) if "video" in config.scopes else 0
    if "segment" in config.scopes:
        subjects += sum(video in chosen for video in archive.segments()["video_id"].to_pylist())
    report.there = max(0, subjects * len(config.prompts) - report.missing)
    if work:
        # Texts need no retrieval model, so it may be missing.
        models = archive_models(replace(recipe, retrieval_model=NO_RETRIEVAL), config.model)
        check_vocabulary(models.checkpoint, config.prompts)
        # Loads Ray.
        from malmm.pipeline.cluster.plan import ClusterPlan

        plan = ClusterPlan(config.resources, config.cluster, models.checkpoint.half_bytes)
        if config.dry_run:
            report.plan = _preview(
                config, archive, work, report, tell, plan, models.checkpoint, verbose=verbose
            )
        else:
            check_engine(config.engine, models.checkpoint, recipe.decoding)
            _run(config, archive, work, report, tell, plan, verbose=verbose)
    report.elapsed_s = time.monotonic() - began
    return report


def _run(
    config: AnnotateConfig,
    archive: Archive,
    work: list[Any],
    report: AnnotateReport,
    tell: OnProgress,
    plan: ClusterPlan,
    *,
    verbose: bool,
) -> None:
    tell(Progress("starting"))
    # Ray takes seconds to load, which a run without work need not wait for.
    from malmm.pipeline.cluster.connection import connected
    from malmm.pipeline.cluster.starvation import RoomWatch
    from malmm.pipeline.indexing.graph import replaying
    from malmm.pipeline.indexing.model_hosts import ModelHosts
    from malmm.pipeline.indexing.model_loading import ModelLoading, loaded_before_s
    from malmm.pipeline.indexing.replay_commits import ReplayCommits

    ledger = Ledger()
    replay = ReplayCommits(archive, config.prompts, ledger, tell, archive.count("failures") > 0)
    replay.loading = ModelLoading(plan.weights_bytes, loaded_before_s(read_runs(config.archive), "annotate"))
    with archive.held():
        try:
            with (
                connected(plan, verbose=verbose, tell=tell) as resources,
                ModelHosts(resources, plan) as replay.hosts,
            ):
                replay.room = RoomWatch(resources)
                try:
                    replay.go(replaying(work, config, archive, replay.hosts, verbose=verbose), of=work)
                finally:
                    report.gpus, report.generator_s = replay.hosts.gpus, replay.hosts.generator_s
            archive.update_indexes(tell=lambda what: tell(Progress("building indexes")))
        except KeyboardInterrupt:
            report.interrupted = True
        finally:
            report.texts = replay.texts
            report.loaded_s = (replay.hosts.loaded_s if replay.hosts is not None else None) or 0.0
            report.still_missing = report.missing - report.texts
            report.failures = ledger.standing()
            if ledger.failures:
                archive.record_failures(ledger.failures)


def _preview(
    config: AnnotateConfig,
    archive: Archive,
    work: list[Any],
    report: AnnotateReport,
    tell: OnProgress,
    plan: ClusterPlan,
    checkpoint: Checkpoint,
    *,
    verbose: bool,
) -> AnnotationPlan:
    """What a run would read and write, and how long it would take on the cluster that is there. Writes nothing."""
    # Loads torch and Ray.
    from malmm.model.footprint import token_bytes
    from malmm.pipeline.cluster.connection import connected

    recipe = archive.recipe
    with connected(plan, verbose=verbose, tell=tell) as resources:
        # No more workers start than there are segments and videos with something to do.
        workers = min(resources.generate_workers, sum(block.num_rows for block in work))
        on_gpus = resources.generate_gpus > 0
    gpu_s = gpu_s_a_text(
        checkpoint,
        bank_length=recipe.bank_length,
        max_new_tokens=config.max_new_tokens,
        together=config.batch_segments,
    )
    estimate = time_of_texts(
        report.missing, gpu_s, workers=workers, on_gpus=on_gpus, runs=read_runs(config.archive)
    )
    return AnnotationPlan(
        bytes_read=slots_read(archive, work) * token_bytes(checkpoint, recipe.tokens),
        bytes_written=round(report.missing * bytes_a_text(archive, config.max_new_tokens)),
        hours=estimate.hours,
        gpu_hours=estimate.gpu_hours,
        basis=estimate.basis,
    )


def _check_versions(archive: ArchiveReader, prompts: tuple[Prompt, ...]) -> None:
    known: dict[str, dict[str, str]] = {}
    for row in archive.prompt_versions():
        known.setdefault(row["prompt_name"], {})[row["prompt_version"]] = row["prompt"]
    for prompt in prompts:
        versions = known.get(prompt.name, {})
        if versions and prompt.version not in versions:
            other = next(iter(versions.values()))
            raise ConfigError(
                f"prompt {prompt.name!r} has another text in the archive ({other!r}), other labels or another schema: "
                "choose another name, or put the new one beside it with --new-version"
            )
