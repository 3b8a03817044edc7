"""``malmm annotate``: run new prompts on stored memory."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from malmm.jobs.answer_schemas import typed_prompt
from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.options import (
    Taker,
    add_archive,
    add_batching,
    add_output,
    cluster_use,
    parse_resource,
    prompts_of,
)
from malmm.jobs.execution import perform_alone
from malmm.jobs.terminal.text import about, clock, printable, size, time_told
from malmm.pipeline.schema.config import SCOPES, AnnotateConfig, Prompt
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.progress import OnProgress

if TYPE_CHECKING:
    from malmm.pipeline.indexing.annotate import AnnotateReport

__all__ = ["add_fields", "add_parser", "configure", "perform", "run", "summary"]


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "annotate",
        run,
        help="put new prompts to stored memory",
        description="Put prompts to the stored memory of an archive's segments and whole videos, on Ray. No video is "
        "read, and only texts that are missing are made: the same command again makes none.",
        epilog="examples:\n"
        "  malmm annotate --archive archive --prompt people='Who is in the video?'\n"
        "  malmm annotate --archive archive --prompt place='Where is it?' --labels indoors,outdoors --scope video\n"
        "  malmm annotate --archive archive --prompt scene='What is shown?' --schema scene.json\n"
        "  malmm annotate --archive archive --prompt mood='What mood is it?' --where \"uri LIKE '%talk%'\"\n\n"
        "exit codes: 0 nothing is missing any more, 3 some failed, 1 nothing could be done, 2 wrong usage, 130 "
        "interrupted",
    )
    add_fields(parser)
    add_output(parser)


def add_fields(parser: Taker) -> None:
    """Add the options of an annotation job, for the command line and job files."""
    add_archive(parser)
    parser.add_argument(
        "--prompt", action="append", default=[], metavar="NAME=TEXT", help="a question; may be repeated"
    )
    parser.add_argument(
        "--labels",
        metavar="A,B,C",
        help="classify: the prompts' answers are these labels, each with its probability",
    )
    parser.add_argument(
        "--schema",
        metavar="FILE",
        help="typed answers: the prompts' answers are JSON that follows this JSON schema (docs/typed-answers.md)",
    )
    parser.add_argument(
        "--spans",
        action="store_true",
        help="with --schema: each answer is a list of records of the schema, with begin and end in the video",
    )
    parser.add_argument(
        "--scope", choices=SCOPES, help="annotate segments or whole videos only (default: both)"
    )
    parser.add_argument("--where", metavar="SQL", help="only videos that meet a condition over their columns")
    parser.add_argument(
        "--new-version",
        action="store_true",
        help="allow prompts whose name has another text in the archive: the new texts come beside the old ones",
    )
    parser.add_argument(
        "--model", default="", metavar="ID|DIR", help="where the archive's model lies, if not where it was"
    )
    defaults = AnnotateConfig("x", (Prompt("x", "x"),))
    add_batching(
        parser,
        max_new_tokens=defaults.max_new_tokens,
        batch_segments=defaults.batch_segments,
        batched="replayed together",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="say how many texts are missing; change nothing"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the annotation job with progress and print its summary."""
    return perform_alone(sys.modules[__name__], arguments)


def configure(arguments: argparse.Namespace) -> AnnotateConfig:
    """Build the job's configuration from parsed options. Raises ConfigError."""
    return AnnotateConfig(
        archive=arguments.archive,
        prompts=tuple(_answered(prompt, arguments) for prompt in prompts_of(arguments.prompt)),
        scopes=SCOPES if arguments.scope is None else (arguments.scope,),
        where=arguments.where,
        new_versions=arguments.new_version,
        model=arguments.model,
        batch_segments=arguments.batch_segments,
        max_new_tokens=arguments.max_new_tokens,
        engine=arguments.engine,
        resources=tuple(parse_resource(option) for option in arguments.resource),
        cluster=cluster_use(arguments),
        dry_run=arguments.dry_run,
    )


def perform(config: AnnotateConfig, *, on_progress: OnProgress, verbose: bool) -> AnnotateReport:
    """Do it."""
    # Loading takes seconds that --help and a wrong option need not wait for.
    from malmm.pipeline.indexing.annotate import annotate

    return annotate(config, on_progress=on_progress, verbose=verbose)


def _answered(plain: Prompt, arguments: argparse.Namespace) -> Prompt:
    """A prompt of the command line with the labels or the schema of its answers."""
    if plain.task != "question":
        return plain
    labels, schema = arguments.labels, arguments.schema
    if arguments.spans and schema is None:
        raise ConfigError("--spans needs --schema: the schema of one timed record")
    if schema is not None:
        if labels is not None:
            raise ConfigError("--labels and --schema: an answer has one of both")
        return typed_prompt(plain.name, plain.text, schema, spans=arguments.spans)
    if labels is None:
        return plain
    names = tuple(dict.fromkeys(label.strip() for label in labels.split(",") if label.strip()))
    if len(names) < 2:
        raise ConfigError(f"--labels {labels!r}: at least two labels, parted by commas")
    return Prompt(plain.name, plain.text, "classification", names)


def summary(report: AnnotateReport) -> str:
    """Format the report for a terminal. The last lines list the failures."""
    lines = []
    if report.interrupted:
        lines.append("Interrupted. What is stored stays; run the same command again to go on.")
    if report.dry_run:
        lines.append("Nothing was changed. A run would do this:")
    made = f"{report.missing} to make" if report.dry_run else f"{report.texts} made"
    lines += [
        f"Archive   {printable(report.archive)}",
        f"Texts     {made}, {report.there} there before, of {report.videos} videos",
    ]
    if (plan := report.plan) is not None:
        lines += [
            f"Reads     {size(plan.bytes_read)} of stored memory at most",
            f"Storage   about {size(plan.bytes_written)}",
            f"Time      {time_told(plan.hours, plan.gpu_hours, plan.basis)}",
        ]
    else:
        lines.append(f"Took      {clock(report.elapsed_s)}")
    if report.notice:
        lines += ["", f"Note: {report.notice}"]
    if report.still_missing:
        lines.append(
            f"Missing   {report.still_missing} still: run again to try them again, with -v to see why"
        )
    if report.failures:
        lines += ["", f"Failed: {len(report.failures)}"]
        lines += [f"  {about(failure.uri, failure.message)}" for failure in report.failures[:20]]
    return "\n".join(lines)
