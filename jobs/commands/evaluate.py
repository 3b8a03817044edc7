"""``malmm evaluate``: score a model on a published data set, on one's own questions, or by other ways of watching."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.options import add_cluster_use, add_output, cluster_use, parse_resource
from malmm.jobs.terminal.text import clock, printable
from malmm.pipeline.schema.config import RESOURCES
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.ways_of_watching import WATCHING

if TYPE_CHECKING:
    from malmm.pipeline.evaluation.config import EvaluateConfig
    from malmm.pipeline.evaluation.report import EvaluationReport

__all__ = ["add_parser", "configure", "run", "summary"]

# Names of ``malmm.pipeline.evaluation.catalogue``, which --help need not load.
_DATA_SETS = (
    *("lvu", "breakfast", "coin", "msrvtt-qa", "msvd-qa", "activitynet-qa"),
    *("msrvtt-caption", "msvd-caption", "youcook2"),
    *("mlvu", "video-mme", "egoschema", "ovo-bench", "own", "own-caption", "demo"),
)
_NAMED = 10


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "evaluate",
        run,
        help="score a model on a data set",
        description="Ask a data set's questions about its videos and score the answers as its authors do. "
        "Annotations are read as they are published; videos are files, or folders of frames at 10 a second, found by "
        "their names anywhere below --videos. Missing videos are counted and named. OUTPUT keeps the answers: the same "
        "command again asks only what is left. report.json, report.md and report.html there set the figures beside "
        "published ones. Frames, memory and decoding are the data set's own unless an option changes them.",
        epilog="examples:\n"
        "  malmm evaluate --dataset lvu --annotations MA-LMM/data/lvu/annotation --videos lvu/frames \\\n"
        "      --task relationship --model lvu-relation --output lvu-relation-scores\n"
        "  malmm evaluate --dataset lvu --annotations MA-LMM/data/lvu/annotation --videos lvu/frames \\\n"
        "      --model director=lvu-director --model genre=lvu-genre --output lvu-scores   # and so on\n"
        "  malmm evaluate --dataset own --annotations questions.csv --videos videos --output scores\n"
        "  malmm evaluate --dataset demo --annotations drawn --videos drawn --compare --output bench\n\n"
        "own questions: a CSV or JSONL file with the columns video, question, answer, and where wanted choices (parted "
        "by ||), start_s, end_s, task, id, split\n\n"
        "exit codes: 0 all questions are answered, 3 some are, 1 none, or the data set cannot be used, 2 wrong usage, "
        "130 interrupted",
    )
    parser.add_argument("--dataset", required=True, choices=_DATA_SETS, help="which data set")
    parser.add_argument(
        "--annotations",
        required=True,
        type=Path,
        metavar="DIR",
        help="its annotation files; of own questions, the file",
    )
    parser.add_argument(
        "--videos", required=True, type=Path, metavar="DIR", help="its videos or extracted frames"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="answers and reports")
    parser.add_argument(
        "--model",
        action="append",
        metavar="ID|DIR",
        help="the checkpoint (demo); TASK=DIR, repeated, gives each task of LVU one of its own",
    )
    parser.add_argument(
        "--split", default="", help="the split of the annotations (default: the published one)"
    )
    parser.add_argument("--task", action="append", default=[], help="only this task; may be repeated")
    parser.add_argument("--limit", type=int, metavar="N", help="a sample of N clips, drawn with --seed")
    parser.add_argument("--seed", type=int, default=0, help="of samples and intervals (%(default)s)")
    parser.add_argument(
        "--allow-leak", action="store_true", help="score videos although they are in the training split too"
    )
    asking = parser.add_argument_group("how it is asked (default: as the data set's authors do)")
    for name, kind, what in (
        ("frames", int, "frames of a clip"),
        ("bank-length", int, "slots of the memory bank"),
        ("merge-policy", str, "how the bank is compressed"),
        ("beams", int, "beams"),
        ("max-length", int, "longest answer in tokens, with the begin token"),
        ("min-length", int, "shortest answer in tokens, with the begin token"),
        ("length-penalty", float, "exponent of a beam's length"),
        ("repetition-penalty", float, "what scores of repeated tokens are divided by"),
        ("begin-token", int, "id that answers begin with; -1 for none"),
        ("template", str, "what a question is put into, with {} in its place"),
        ("choose-by", str, "text, letter (by probability) or written"),
    ):
        asking.add_argument(f"--{name}", type=kind, metavar="X", help=what)
    comparing = parser.add_argument_group("ways of watching, at equal numbers of tokens")
    comparing.add_argument(
        "--compare", action="store_true", help=f"compare all ways: {', '.join(WATCHING)}; with their costs"
    )
    comparing.add_argument(
        "--ways", metavar="A,B", help="these ways only, the first of which is scored in full"
    )
    comparing.add_argument(
        "--pieces",
        type=int,
        default=4,
        metavar="N",
        help="captions: pieces that a clip is cut into (%(default)s)",
    )
    comparing.add_argument(
        "--describe",
        default="Describe the video.",
        metavar="TEXT",
        help="captions: the prompt for a piece (%(default)s)",
    )
    parser.add_argument(
        "--decode-limit-s",
        type=float,
        default=600.0,
        metavar="S",
        help="longest time to read a clip (%(default)g)",
    )
    parser.add_argument(
        "--resource",
        action="append",
        default=[],
        metavar="NAME=N",
        help=f"workers of a stage, or what each reserves: {', '.join(RESOURCES)}",
    )
    add_cluster_use(parser)
    add_output(parser)


def configure(arguments: argparse.Namespace) -> EvaluateConfig:
    """Build the configuration from parsed options. Raises ConfigError."""
    from malmm.pipeline.evaluation.catalogue import DATA_SETS
    from malmm.pipeline.evaluation.config import EvaluateConfig

    protocol = DATA_SETS[arguments.dataset].protocol
    names = [field.name for field in dataclasses.fields(protocol)]
    options = vars(arguments) | {"choosing": arguments.choose_by}
    changes: dict[str, Any] = {name: options[name] for name in names if options.get(name) is not None}
    if changes.get("begin_token") == -1:
        changes["begin_token"] = None
    if "beams" in changes:
        changes["returned"] = min(protocol.returned, changes["beams"])
    if arguments.compare and arguments.ways:
        raise ConfigError("--compare --ways: --compare takes all ways; leave one of the two out")
    ways: tuple[str, ...] = WATCHING if arguments.compare else ("bank",)
    if arguments.ways:
        ways = tuple(way.strip() for way in arguments.ways.split(","))
    model, models = _models(arguments.model or ["demo"], DATA_SETS[arguments.dataset].tasks)
    return EvaluateConfig(
        dataset=arguments.dataset,
        annotations=arguments.annotations,
        videos=arguments.videos,
        output=arguments.output,
        protocol=dataclasses.replace(protocol, **changes),
        model=model,
        models=models,
        split=arguments.split,
        tasks=tuple(arguments.task),
        ways=ways,
        pieces=arguments.pieces,
        describe=arguments.describe,
        limit=arguments.limit,
        seed=arguments.seed,
        allow_leak=arguments.allow_leak,
        decode_limit_s=arguments.decode_limit_s,
        resources=tuple(parse_resource(option) for option in arguments.resource),
        cluster=cluster_use(arguments),
    )


def _models(given: list[str], tasks: tuple[str, ...]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """One checkpoint, or those of tasks. Raises ConfigError for several checkpoints of which one names no task."""
    if len(given) == 1 and not _names_a_task(given[0], tasks):
        return given[0], ()
    pairs = []
    for each in given:
        task, equals, model = each.partition("=")
        if not equals or not model:
            raise ConfigError(f"--model {each}: one checkpoint, or one for each task as TASK=DIR")
        pairs.append((task, model))
    return "", tuple(pairs)


def _names_a_task(given: str, tasks: tuple[str, ...]) -> bool:
    """Whether a checkpoint is given as TASK=DIR: by a task of the data set, or by one that it lacks."""
    task, equals, _ = given.partition("=")
    return task in tasks or bool(tasks and equals and task.isidentifier() and not Path(given).exists())


def run(arguments: argparse.Namespace) -> int:
    """Evaluate with progress, write the reports and print the figures."""
    config = configure(arguments)
    from malmm.jobs.report_page.evaluation_page import evaluation_page
    from malmm.jobs.terminal.progress import progress_shown
    from malmm.pipeline.evaluation.answer_file import write_whole
    from malmm.pipeline.evaluation.run import evaluate

    with progress_shown(
        quiet=arguments.quiet, verbose=arguments.verbose, log_format=arguments.log_format
    ) as display:
        report = evaluate(config, on_progress=display, verbose=arguments.verbose)
    if report.answered and not report.interrupted:
        write_whole(config.output / "report.html", evaluation_page(report))
    print(report.to_json().rstrip() if arguments.json else summary(report, config.output))
    sys.stdout.flush()
    return report.exit_code


def summary(report: EvaluationReport, output: Path) -> str:
    """Format the report for a terminal."""
    recipe = report.recipe
    lines = []
    if report.interrupted:
        lines.append("Interrupted. What is answered stays; run the same command again to go on.")
    lines += [
        f"Data set   {report.title}, {printable(recipe['split'])}",
        f"Model      {printable(recipe['model'])}",
        f"Questions  {report.answered} of {report.questions} answered",
    ]
    for way in report.ways:
        of = f" ({way.way})" if len(report.ways) > 1 else ""
        lines += [
            f"{each.name:<11}{each.value:.1f}, 95 % from {each.low:.1f} to {each.high:.1f}{of}"
            for each in (way.figures if way is report.ways[0] else way.figures[:1])
        ]
        if (less := way.less_first) is not None:
            lines.append(
                f"           {less.value:+.1f}, 95 % from {less.low:+.1f} to {less.high:+.1f} "
                f"({way.way} less {report.ways[0].way})"
            )
    lines += [
        f"Published  {each['value']:.1f} {each['figure']}: {each['of']} ({each['difference']:+.1f})"
        for each in report.published
    ]
    if report.published and report.reservations:
        lines.append(f"           not comparable: {printable('; '.join(report.reservations))}")
    if report.missing_videos:
        lines.append(
            f"Missing    {len(report.missing_videos)} videos, such as {_names(report.missing_videos)}"
        )
    if report.failures:
        lines.append(f"Failed     {len(report.failures)} clips; run again to try them again")
        lines += [f"  {printable(each['message'])}" for each in report.failures[:_NAMED]]
    lines.append(f"Took       {clock(report.elapsed_s)}")
    if report.answered and not report.interrupted:
        lines.append(f"Report     {printable(str(output / 'report.html'))}")
    return "\n".join(lines)


def _names(names: list[str]) -> str:
    return printable(", ".join(names[:3]))
