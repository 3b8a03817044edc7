"""``malmm index``: index videos into an archive."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from malmm.jobs.commands import transcribe
from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.index_partitions import add_partitions, index_all, partition_of
from malmm.jobs.commands.options import (
    Taker,
    add_batching,
    add_output,
    add_text_settings,
    cluster_use,
    parse_resource,
    prompts_of,
    text_settings,
)
from malmm.jobs.execution import perform_alone
from malmm.jobs.extras import need_speech
from malmm.jobs.terminal.text import about, clock, printable, size, time_told
from malmm.pipeline.indexing.run_reports import IndexReport, Plan
from malmm.pipeline.schema.config import MERGE_POLICIES, TOKENS, IndexConfig
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.progress import OnProgress
from malmm.pipeline.schema.records import Failure

__all__ = ["add_fields", "add_parser", "configure", "indexed", "perform", "run", "summary"]

_FAILURES_SHOWN, _NAMES_SHOWN = 20, 8


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "index",
        run,
        help="index videos into an archive",
        description="Index videos into a LanceDB archive: captions, answers to your prompts, and compressed memory "
        "that can be searched and asked again. Run it again to add new videos or to go on after a stop: what "
        "is stored is not done twice.",
        epilog="examples:\n"
        "  malmm index videos/ --archive archive\n"
        "  malmm index 'shows/**/*.mp4' --archive archive --prompt people='Who is in the video?'\n"
        "  malmm index talk.mp4 --archive archive --model Qwen/Qwen3-VL-8B-Instruct\n"
        "  malmm index s3://films/ --archive s3://index/films --partitions 8 --partition 3\n\n"
        "exit codes: 0 all done, 3 some videos failed, 1 nothing could be done, 2 wrong usage, 130 interrupted",
    )
    add_fields(parser)
    add_output(parser)


def add_fields(parser: Taker) -> None:
    """Add the options of an indexing job, for the command line and job files."""
    defaults = IndexConfig(sources=("x",), archive="x")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="a video, a directory, a quoted glob, or a manifest (.csv, .parquet or .jsonl with a column 'uri'; others "
        "are kept as metadata); paths, s3:// and whatever else fsspec opens",
    )
    parser.add_argument(
        "--archive", required=True, metavar="URI", help="where the archive is or will be: a directory"
    )
    parser.add_argument(
        "--model",
        default=defaults.model,
        metavar="ID|DIR",
        help="a checkpoint: a hub id or a directory, or demo, which knows drawn videos alone (default: the archive's "
        "own; for a new archive one that fits the workers, see `malmm models`)",
    )
    parser.add_argument(
        "--retrieval-model",
        metavar="ID|DIR",
        help="what finds moments by words: a SigLIP or CLIP checkpoint for any model, a BLIP-2 image-text checkpoint "
        "with the same image encoder, or 'none' (default: the model's companion)",
    )
    parser.add_argument(
        "--fps", type=float, default=defaults.fps, help="sampled frames a second of video (%(default)g)"
    )
    parser.add_argument(
        "--frames-per-segment",
        type=int,
        metavar="N",
        help="sample N frames of every segment, evenly, instead of at a rate",
    )
    parser.add_argument(
        "--keyframes", action="store_true", help="sample key frames only, at most --fps of them: much faster"
    )
    parser.add_argument(
        "--segment-s",
        type=float,
        default=defaults.segment_s,
        metavar="S",
        help="seconds a segment (%(default)g)",
    )
    parser.add_argument(
        "--min-segment-s",
        type=float,
        default=defaults.min_segment_s,
        metavar="S",
        help="cut segments at scene changes, from S to --segment-s seconds long; reads every key frame first",
    )
    parser.add_argument(
        "--bank-length",
        type=int,
        default=defaults.bank_length,
        metavar="M",
        help="memory slots kept of a segment (%(default)s)",
    )
    parser.add_argument(
        "--merge-policy",
        choices=MERGE_POLICIES,
        default=defaults.merge_policy,
        help="how a full memory bank makes room (%(default)s)",
    )
    parser.add_argument(
        "--tokens",
        choices=TOKENS,
        default=defaults.tokens,
        help="type that tokens are stored in; int8 halves the archive (%(default)s)",
    )
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="NAME=TEXT",
        help="a question to answer for every segment and video; may be repeated; 'caption=…' replaces the caption",
    )
    add_batching(
        parser,
        max_new_tokens=defaults.max_new_tokens,
        batch_segments=defaults.batch_segments,
        batched="encoded in lock step",
    )
    add_text_settings(parser)
    parser.add_argument(
        "--decoder", choices=("av", "decord"), default=defaults.decoder, help="video decoder (%(default)s)"
    )
    parser.add_argument(
        "--decode-limit-s",
        type=float,
        default=defaults.decode_limit_s,
        metavar="S",
        help="give up a segment that takes longer to decode (%(default)g)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the image encoder, with CUDA graphs on GPUs: workers need a C++ compiler, and start a minute or "
        "so later; never tried on a GPU",
    )
    parser.add_argument(
        "--transcribe",
        default="",
        metavar="ID|DIR",
        help="also store transcripts: the videos' subtitles, and speech recognised by this Whisper checkpoint; "
        "`subtitles` for the former alone. `malmm transcribe` does the same later",
    )
    parser.add_argument(
        "--skip-subtitled",
        action="store_true",
        help="with --transcribe MODEL: recognise no speech in videos that have subtitles, in whatever language",
    )
    add_partitions(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="begin at most N videos in this run")
    parser.add_argument(
        "--leave-out",
        metavar="FILE",
        help="do not index these videos, and with --prune forget them: a manifest, or a list of copies that `malmm "
        "duplicates` wrote, of which whole ones count",
    )
    parser.add_argument(
        "--prune", action="store_true", help="also forget videos that are not listed and whose file is gone"
    )
    parser.add_argument(
        "--reindex",
        action="store_true",
        help="with other options than the archive's: recompute all rows, beside the old ones, which stay searchable "
        "until the new ones are complete",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be done and how much it is; change nothing"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the indexing job with progress and print its summary."""
    if arguments.partitions is not None and arguments.partition is None:
        return index_all(sys.modules[__name__], arguments)
    return perform_alone(sys.modules[__name__], arguments)


def configure(arguments: argparse.Namespace) -> IndexConfig:
    """Build the job's configuration from parsed options. Raises ConfigError, also where an extra lacks."""
    fps, sampling = _sampling(arguments)
    if arguments.transcribe:
        need_speech("--transcribe")
    archive, partition = partition_of(arguments)
    return IndexConfig(
        sources=tuple(arguments.sources),
        archive=archive,
        partition=partition,
        model=arguments.model,
        retrieval_model=arguments.retrieval_model,
        fps=fps,
        sampling=sampling,
        segment_s=arguments.segment_s,
        min_segment_s=arguments.min_segment_s,
        bank_length=arguments.bank_length,
        merge_policy=arguments.merge_policy,
        tokens=arguments.tokens,
        prompts=prompts_of(arguments.prompt),
        decoder=arguments.decoder,
        batch_segments=arguments.batch_segments,
        max_new_tokens=arguments.max_new_tokens,
        engine=arguments.engine,
        texts=text_settings(arguments),
        decode_limit_s=arguments.decode_limit_s,
        compile=arguments.compile,
        resources=tuple(parse_resource(option) for option in arguments.resource),
        cluster=cluster_use(arguments),
        limit=arguments.limit,
        prune=arguments.prune,
        dry_run=arguments.dry_run,
        reindex=arguments.reindex,
        transcribe=arguments.transcribe,
        skip_subtitled=arguments.skip_subtitled,
        leave_out=arguments.leave_out,
    )


def perform(config: IndexConfig, *, on_progress: OnProgress, verbose: bool) -> IndexReport:
    """Do it."""
    # Loading torch and Ray takes seconds that --help and a wrong option need not wait for.
    from malmm.pipeline.indexing.index import index

    return index(config, on_progress=on_progress, verbose=verbose)


def _sampling(arguments: argparse.Namespace) -> tuple[float, str]:
    count = arguments.frames_per_segment
    if count is None:
        return arguments.fps, "keyframes" if arguments.keyframes else "rate"
    if arguments.keyframes or arguments.fps != IndexConfig(sources=("x",), archive="x").fps:
        raise ConfigError(f"--frames-per-segment {count} goes with neither --fps nor --keyframes")
    if count < 1:
        raise ConfigError(f"--frames-per-segment {count}: at least 1")
    return count / arguments.segment_s if arguments.segment_s > 0 else 1.0, "count"


def indexed(config: IndexConfig, *, quiet: bool, verbose: bool = False) -> IndexReport:
    """Index with live progress. Nothing of Ray's output reaches standard output."""
    from malmm.jobs.terminal.progress import progress_shown

    with progress_shown(quiet=quiet, verbose=verbose) as display:
        return perform(config, on_progress=display, verbose=verbose)


def summary(report: IndexReport) -> str:
    """Format the report for a terminal. The last lines list the failures."""
    lines = []
    if report.interrupted:
        lines.append("Interrupted. What is stored stays; run the same command again to go on.")
    if report.plan is not None:
        lines += _planned(report, report.plan)
    else:
        lines += _done(report)
    if report.notice:
        lines += ["", f"Note: {report.notice}"]
    if report.transcripts is not None:
        lines += ["", "What is said:", transcribe.summary(report.transcripts)]
    if report.failures:
        kinds = ", ".join(f"{count} {kind}" for kind, count in report.failures_by_kind().items())
        lines += ["", f"Failed: {kinds}"]
        groups = _grouped(report.failures)
        lines += [f"  {line}" for line in groups[:_FAILURES_SHOWN]]
        more = len(groups) - _FAILURES_SHOWN
        if more > 0:
            lines.append(f"  and {more} more: malmm failures --archive {printable(report.archive)}")
        if report.videos_given_up:
            lines.append(
                f"{report.videos_given_up} of them failed before and have not changed, so they were not tried again: "
                f"malmm failures --archive {printable(report.archive)} --retry does"
            )
    return "\n".join(lines)


def _done(report: IndexReport) -> list[str]:
    speed = f", {report.times_real_time:.1f}x real time" if report.times_real_time else ""
    others = [
        f", {count} {what}"
        for count, what in (
            (report.videos_pruned, "removed, their files being gone"),
            (report.videos_elsewhere, "of other partitions"),
            (report.videos_left, "left for another run by --limit"),
            (report.videos_forgotten, "left out, being forgotten"),
        )
        if count
    ]
    return [
        f"Archive   {printable(report.archive)}",
        *([f"Model     {printable(report.choice)}"] if report.choice else []),
        f"Videos    {report.videos_indexed} indexed, {report.videos_unchanged} unchanged, "
        f"{report.videos_listed} listed{''.join(others)}",
        f"Segments  {report.segments_indexed} stored"
        + (f", {report.segments_resumed} stored by an earlier run" if report.segments_resumed else ""),
        f"Video     {clock(report.video_s)} in {report.frames} frames{speed}",
        f"Rows      {report.memories} memory slots, {report.annotations} texts",
        f"Took      {clock(report.elapsed_s)}",
        *_switched(report),
        *_kept(report),
    ]


def _switched(report: IndexReport) -> list[str]:
    if report.switched:
        return ["The rows of the new options have taken the place of the old ones."]
    if report.videos_not_reindexed:
        return [
            f"{report.videos_not_reindexed} videos of the archive are not reindexed yet, so search still reads the old "
            "rows: run again with --reindex and all sources (and --prune, if files are gone)"
        ]
    return []


def _kept(report: IndexReport) -> list[str]:
    if not report.videos_kept:
        return []
    said = f"{report.videos_kept} videos whose files are gone are not removed yet"
    if report.not_listed:
        others = ", ".join(report.not_listed[:_NAMES_SHOWN])
        more = len(report.not_listed) - _NAMES_SHOWN
        others += f" and {more} more" if more > 0 else ""
        said += f": a run with --prune has still to list the same sources for {others}"
    return [said]


def _planned(report: IndexReport, plan: Plan) -> list[str]:
    lines = [
        "Nothing was changed. A run would do this:",
        f"Archive   {printable(report.archive)}",
        *([f"Model     {printable(report.choice)}"] if report.choice else []),
        f"Videos    {plan.videos} to index, {report.videos_unchanged} unchanged, {report.videos_listed} listed"
        + (f", {report.videos_elsewhere} of other partitions" if report.videos_elsewhere else "")
        + (f", {report.videos_left} left for another run by --limit" if report.videos_left else ""),
        f"Segments  {plan.segments}",
        f"Video     {clock(plan.video_s)} ({plan.video_s / 3600:.1f} hours) in about {plan.frames} frames",
        f"Rows      {plan.memory_slots} memory slots at most, {plan.texts} texts",
        f"Reads     {size(plan.bytes_read)} of files",
        f"Storage   about {size(plan.storage_bytes)}",
        f"Time      {time_told(plan.hours, plan.gpu_hours, plan.basis)}",
    ]
    if plan.pruned:
        lines.append(f"Removed   {len(plan.pruned)} videos, their files being gone")
        lines += [f"  {printable(uri)}" for uri in plan.pruned[:_FAILURES_SHOWN]]
    return lines


def _grouped(failures: Sequence[Failure]) -> list[str]:
    """Group failures into one line per video and kind, however many segments failed."""
    groups: dict[tuple[str, str], list[Failure]] = {}
    for failure in failures:
        groups.setdefault((failure.uri, failure.kind), []).append(failure)
    return [
        about(first.uri, first.message) + (f" (and {len(rest)} segments more)" if rest else "")
        for first, *rest in groups.values()
    ]
