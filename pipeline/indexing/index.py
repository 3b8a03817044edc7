"""Index: from sources to a searchable archive.

``index`` lists the sources and skips what the archive has. As soon as something is left to do, it loads Ray and torch
(``malmm.pipeline.indexing.driver``) and indexes while the rest is being listed. A rerun with nothing to do costs only
the listing.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from malmm.model.checkpoints.resolve import NO_RETRIEVAL, Models, notice_of, open_models
from malmm.model.families.registry import image_size, row_of, token_shape
from malmm.model.speech.checkpoints import open_whisper
from malmm.model.towers.registry import vector_size
from malmm.pipeline.archive.location import resolve
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.indexing.background_listing import BackgroundListing
from malmm.pipeline.indexing.missing_annotations import something_missing
from malmm.pipeline.indexing.model_choice import chosen_model
from malmm.pipeline.indexing.partition_run import partition_run
from malmm.pipeline.indexing.pending_work import PendingWork
from malmm.pipeline.indexing.run_reports import IndexReport
from malmm.pipeline.indexing.typed_prompts import check_vocabulary
from malmm.pipeline.schema.config import SUBTITLES_ONLY, IndexConfig, Recipe
from malmm.pipeline.schema.errors import ConfigError, SourceError
from malmm.pipeline.schema.progress import OnProgress, Progress
from malmm.pipeline.schema.transcribe_config import TranscribeConfig
from malmm.pipeline.sources.indexed_roots import remember_roots, roots_of
from malmm.pipeline.sources.left_out import read_left_out

__all__ = ["index", "make_recipe", "notice_of", "open_models", "vectors_length"]

# Length of the published models' vectors. The column's type needs a length even if no vectors are made.
_VECTOR_SIZE = 256


def make_recipe(config: IndexConfig, models: Models) -> Recipe:
    """The recipe of a run with these settings and checkpoints: all that decides what its rows contain."""
    shape = token_shape(models.checkpoint)
    row = row_of(models.checkpoint)
    if config.texts.system and not row.reads_slots:
        raise ConfigError(
            f"--system {config.texts.system!r}: {row.name} takes no system text, so leave it out"
        )
    return Recipe(
        model=config.model,
        model_fingerprint=models.checkpoint.fingerprint(),
        retrieval_model=models.retrieval.pinned if models.retrieval else NO_RETRIEVAL,
        retrieval_fingerprint=models.retrieval.fingerprint() if models.retrieval else NO_RETRIEVAL,
        fps=config.fps,
        segment_s=config.segment_s,
        min_segment_s=config.min_segment_s,
        bank_length=config.bank_length,
        merge_policy=config.merge_policy,
        tokens=config.tokens,
        sampling=config.sampling,
        image_size=image_size(models.checkpoint),
        token_layers=1 if len(shape) == 2 else shape[1],
        decoding=config.texts.to_text(),
    )


def index(
    config: IndexConfig, *, on_progress: OnProgress | None = None, verbose: bool = False
) -> IndexReport:
    """Index all new and changed videos of the sources, fill in missing annotations, and report what was done.

    Connects to a Ray cluster or starts one. Broken videos become failures in the report and in the archive; the others
    are stored. Raises SourceError if the sources have no file, CheckpointError for a model that cannot be used, as for
    speech, ArchiveError and RecipeMismatch for the archive, and WorkerError if workers cannot start. On Ctrl-C it
    commits what is ready and returns with ``interrupted`` set.
    """
    began = time.monotonic()
    tell = on_progress or (lambda progress: None)
    report = IndexReport(archive=config.archive, model=config.model, engine=config.engine)
    if config.transcribe not in ("", SUBTITLES_ONLY):
        # Hours pass before it is needed.
        open_whisper(config.transcribe)
    tell(Progress("listing"))
    left_out = read_left_out(config.leave_out).whole if config.leave_out else ()
    share = partition_run(config, left_out)
    with BackgroundListing(config.sources, left_out, config.partition).running() as listing:
        listing.wait(lambda: listing.has_file)
        _refuse_nothing(listing)
        if not config.dry_run:
            remember_roots(resolve(config.archive), roots_of(config.sources))
        chosen = chosen_model(config, tell, verbose=verbose)
        config, report.model, report.choice = chosen.config, chosen.config.model, chosen.why
        models = open_models(config.model, config.retrieval_model)
        report.notice = models.notice
        check_vocabulary(models.checkpoint, config.prompts)
        recipe, vector_size = make_recipe(config, models), vectors_length(models)
        if share is not None:
            share.fix(recipe, vector_size, dry_run=config.dry_run)
        archive = Archive.open_if_there(config.archive, recipe, vector_size, reindex=config.reindex)
        if archive is not None:
            recipe = replace(recipe, indexed_with=archive.recipe.indexed_with)
        work = PendingWork(config, recipe, archive, listing)
        # A run starts while the rest is being listed; pruning and a dry run need the complete listing.
        whole = config.prune or config.dry_run
        listing.wait(lambda: work.look() and not whole)
        work.look()
        vanished = work.vanished() if config.prune else {}
        if share is not None and config.prune and not config.dry_run:
            vanished = share.prunable(vanished)
        run: Any = None
        if config.dry_run or work.files or vanished or work.relabelled or _lacks_texts(config, archive):
            from malmm.pipeline.indexing.driver import Run

            run = Run(config, recipe, models, vector_size, report, tell, vanished, verbose=verbose)
            try:
                if config.dry_run:
                    run.preview(archive, work)
                else:
                    run.go(archive, work)
            except KeyboardInterrupt:
                report.interrupted = True
        report.videos_listed, report.videos_unchanged = work.listed, work.unchanged
        report.videos_left, report.videos_given_up = work.left, len(work.given_up)
        report.videos_forgotten, report.videos_elsewhere = work.forgotten, listing.elsewhere
        if share is not None:
            share.finish(archive, report)
        report.failures = work.failures() + (run.ledger.standing() if run is not None else [])
    if config.transcribe and not (config.dry_run or report.interrupted):
        # Loads decoders, which other runs need not wait for.
        from malmm.pipeline.indexing.transcribe import transcribe

        report.transcripts = transcribe(
            TranscribeConfig(
                config.archive,
                model="" if config.transcribe == SUBTITLES_ONLY else config.transcribe,
                decode_limit_s=config.decode_limit_s,
                resources=config.resources,
                cluster=config.cluster,
                skip_subtitled=config.skip_subtitled,
            ),
            on_progress=tell,
            verbose=verbose,
        )
        report.interrupted = report.transcripts.interrupted
    report.elapsed_s = time.monotonic() - began
    return report


def _refuse_nothing(listing: BackgroundListing) -> None:
    """Raise SourceError if the sources have no file."""
    refused = [found for found in listing.found if isinstance(found, SourceError)]
    if listing.ended and not listing.has_file and not listing.left_out:
        if len(refused) == 1:
            raise refused[0]
        raise SourceError("; ".join(str(error) for error in refused), uri=refused[0].uri if refused else "")


def _lacks_texts(config: IndexConfig, archive: Archive | None) -> bool:
    """Whether an archive whose videos are complete lacks texts, or is not in force yet."""
    return archive is not None and (not archive.is_in_force or something_missing(archive, config.all_prompts))


def vectors_length(models: Models) -> int:
    """The length of the vectors that slots get, also if none are made."""
    if models.retrieval is None:
        return _VECTOR_SIZE
    return vector_size(models.retrieval)
