"""``malmm annotate``: new prompts put to stored memory."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from malmm.jobs.options import add_archive, add_batching, add_output, parse_resource
from malmm.jobs.text import about, clock, printable
from malmm.pipeline.config import SCOPES, AnnotateConfig, Prompt
from malmm.pipeline.errors import ConfigError

if TYPE_CHECKING:
    from malmm.pipeline.annotating import AnnotateReport

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "annotate",
        help="put new prompts to stored memory",
        description="Put prompts to the stored memory of an archive's segments and whole videos, on Ray. No video is "
        "read, and only texts that are missing are made: the same command again makes none.",
        epilog="examples:\n"
        "  malmm annotate --archive archive --prompt people='Who is in the video?'\n"
        "  malmm annotate --archive archive --prompt place='Where is it?' --labels indoors,outdoors --scope video\n"
        "  malmm annotate --archive archive --prompt mood='What mood is it?' --where \"uri LIKE '%talk%'\"\n\n"
        "exit codes: 0 nothing is missing any more, 3 some failed, 1 nothing could be done, 2 wrong usage, 130 "
        "interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
    add_output(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Annotate, showing progress, and print the summary."""
    config = AnnotateConfig(
        archive=arguments.archive,
        prompts=tuple(_prompt(option, arguments.labels) for option in arguments.prompt),
        scopes=SCOPES if arguments.scope is None else (arguments.scope,),
        where=arguments.where,
        new_versions=arguments.new_version,
        model=arguments.model,
        batch_segments=arguments.batch_segments,
        max_new_tokens=arguments.max_new_tokens,
        resources=tuple(parse_resource(option) for option in arguments.resource),
        dry_run=arguments.dry_run,
    )
    # Loading takes seconds that --help and a wrong option need not wait for.
    from malmm.jobs.progress import progress_shown
    from malmm.pipeline.annotating import annotate

    with progress_shown(quiet=arguments.quiet, verbose=arguments.verbose) as display:
        report = annotate(config, on_progress=display, verbose=arguments.verbose)
    print(json.dumps(report.to_dict(), indent=2) if arguments.json else "\n".join(_lines(report)))
    return report.exit_code


def _prompt(option: str, labels: str | None) -> Prompt:
    plain = Prompt.parse(option)
    if labels is None:
        return plain
    names = tuple(dict.fromkeys(label.strip() for label in labels.split(",") if label.strip()))
    if len(names) < 2:
        raise ConfigError(f"--labels {labels!r}: at least two labels, parted by commas")
    return Prompt(plain.name, plain.text, "classification", names)


def _lines(report: AnnotateReport) -> list[str]:
    lines = []
    if report.interrupted:
        lines.append("Interrupted. What is stored stays; run the same command again to go on.")
    if report.dry_run:
        lines.append("Nothing was changed. A run would do this:")
    made = f"{report.missing} to make" if report.dry_run else f"{report.texts} made"
    lines += [
        f"Archive   {printable(report.archive)}",
        f"Texts     {made}, {report.there} there before, of {report.videos} videos",
        f"Took      {clock(report.elapsed_s)}",
    ]
    if report.notice:
        lines += ["", f"Note: {report.notice}"]
    if report.still_missing:
        lines.append(
            f"Missing   {report.still_missing} still: run again to try them again, with -v to see why"
        )
    if report.failures:
        lines += ["", f"Failed: {len(report.failures)}"]
        lines += [f"  {about(failure.uri, failure.message)}" for failure in report.failures[:20]]
    return lines
