"""``malmm finetune``: train a checkpoint on a table of clips, prompts and answers."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.options import add_output
from malmm.jobs.extras import needing
from malmm.jobs.terminal.text import clock, printable
from malmm.pipeline.finetuning.config import LANGUAGE, METRICS, PRECISIONS, FinetuneConfig
from malmm.pipeline.schema.config import MERGE_POLICIES
from malmm.pipeline.schema.exit_codes import EXIT_OK

if TYPE_CHECKING:
    from malmm.pipeline.finetuning.run import FinetuneReport

__all__ = ["add_parser", "configure", "run", "summary"]

_USUAL = FinetuneConfig("", "", "-")


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "finetune",
        run,
        help="train a model on questions and answers of your own",
        description="Train a checkpoint on a table of clips, prompts and answers, by the recipe of MA-LMM's paper, and "
        "write a directory that --model takes. The table is a CSV, JSON lines or Parquet file with the columns video, "
        "prompt (or question) and answer, and where wanted start_s, end_s and split: train (or nothing), val (measured "
        "meanwhile, to keep the best weights and to end early) and test (left for `malmm evaluate`). All rows and all "
        "videos' headers are checked before anything starts. The same command again goes on with a training that was "
        "interrupted or killed, to the same losses.",
        epilog="examples:\n"
        "  malmm finetune corrected.csv --videos videos --model Salesforce/instructblip-vicuna-7b --output ours\n"
        "  malmm finetune corrected.csv --model smolvlm2 --workers 4 --checkpoints s3://bucket/training --output ours\n"
        "  malmm finetune corrected.csv --model demo --language full --rate 1e-3 --workers 0 --output ours\n\n"
        "exit codes: 0 written, 1 the table, a video or the model cannot be used, 2 wrong usage, 130 interrupted",
    )
    parser.add_argument("data", metavar="DATA", help="the table")
    parser.add_argument("--model", required=True, metavar="ID|DIR", help="the checkpoint to begin from")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="the directory to write; it must not exist"
    )
    parser.add_argument(
        "--videos", metavar="DIR", help="where the table's videos are (default: the table's own folder)"
    )
    parser.add_argument(
        "--checkpoints",
        metavar="URI",
        help="where snapshots of the training are kept: a folder, or s3:// and others (default: OUTPUT.training, which "
        "is removed at the end)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=_USUAL.workers,
        metavar="N",
        help="workers of Ray Train, each with a GPU if the cluster has any; 0 trains in this process, without Ray "
        "(%(default)s)",
    )
    parser.add_argument(
        "--tensorboard", metavar="DIR", help="write TensorBoard's event files there meanwhile"
    )
    _add_watching(parser)
    _add_learning(parser)
    add_output(parser)


def _add_watching(parser: argparse.ArgumentParser) -> None:
    watching = parser.add_argument_group("what the model sees of a clip")
    watching.add_argument(
        "--frames",
        type=int,
        default=_USUAL.frames,
        metavar="N",
        help="frames of a clip, at most (%(default)s)",
    )
    watching.add_argument(
        "--fps", type=float, default=_USUAL.fps, metavar="F", help="frames a second (%(default)g)"
    )
    watching.add_argument(
        "--bank-length",
        type=int,
        default=_USUAL.bank_length,
        metavar="M",
        help="slots of the memory bank (%(default)s)",
    )
    watching.add_argument(
        "--merge-policy",
        choices=MERGE_POLICIES,
        default=_USUAL.merge_policy,
        help="how the bank is compressed (%(default)s)",
    )
    watching.add_argument(
        "--no-crops", action="store_true", help="show whole pictures, not a random part of at least half"
    )


def _add_learning(parser: argparse.ArgumentParser) -> None:
    learning = parser.add_argument_group("how it learns (default: the paper's recipe)")
    learning.add_argument(
        "--language",
        choices=LANGUAGE,
        help="train the language model: not at all, by low-rank adapters (lora), or all of it (default: frozen for "
        "InstructBLIP, lora for families without a Q-Former)",
    )
    for name, kind, what in (
        ("rank", int, "rank of the adapters"),
        ("epochs", float, "passes over the examples"),
        ("batch", int, "examples of a step, over all workers"),
        ("at-once", int, "examples that a worker computes at a time: fewer need less memory"),
        ("rate", float, "learning rate at its highest"),
        ("decay", float, "weight decay of AdamW"),
        ("warm", int, "steps of warm-up, at most a tenth of all"),
        ("seed", int, "of the order, the frames and the crops"),
    ):
        default = getattr(_USUAL, name.replace("-", "_"))
        learning.add_argument(
            f"--{name}", type=kind, default=default, metavar="X", help=f"{what} (%(default)s)"
        )
    learning.add_argument(
        "--every",
        type=int,
        metavar="N",
        help="measure and keep a snapshot every N steps (default: once a pass)",
    )
    learning.add_argument(
        "--patience", type=int, metavar="N", help="end after N measurements without a better one"
    )
    learning.add_argument(
        "--metric",
        choices=METRICS,
        default=_USUAL.metric,
        help="what is better: more answers right to the letter, or a lower loss (%(default)s)",
    )
    learning.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=_USUAL.precision,
        help="of a step's products; auto is half precision on CUDA, bfloat16 where the card has it (%(default)s)",
    )


def configure(arguments: argparse.Namespace) -> FinetuneConfig:
    """Build the configuration from parsed options. Raises ConfigError."""
    options = vars(arguments)
    names = FinetuneConfig.__dataclass_fields__.keys() - {"crops"}
    return FinetuneConfig(**{name: options[name] for name in names}, crops=not arguments.no_crops)


def run(arguments: argparse.Namespace) -> int:
    """Train with progress and print the outcome."""
    config = configure(arguments)
    from malmm.jobs.terminal.progress import progress_shown

    with needing("finetune", "`malmm finetune`"):
        from malmm.pipeline.finetuning.run import finetune

        with progress_shown(
            quiet=arguments.quiet, verbose=arguments.verbose, log_format=arguments.log_format
        ) as display:
            report = finetune(config, on_progress=display)
    print(json.dumps(report.to_dict(), indent=2) if arguments.json else summary(report))
    sys.stdout.flush()
    return EXIT_OK


def summary(report: FinetuneReport) -> str:
    """Format the report for a terminal."""
    early = " (ended early)" if report.steps < report.of_steps else ""
    lines = [
        f"Written    {printable(report.output)}",
        f"Base       {printable(report.model)}, language model {report.language}",
        f"Examples   {report.examples} of {report.videos} videos, {report.held_back} held back",
        f"Steps      {report.steps} of {report.of_steps}{early}",
        f"Loss       {report.losses[0]:.3f} at first, {report.losses[-1]:.3f} at the end",
    ]
    if report.best is not None and report.best.accuracy is not None:
        lines.append(
            f"Held back  {report.best.accuracy:.1%} right after {report.best.step} steps, whose weights these are"
        )
    lines.append(f"Took       {clock(report.elapsed_s)}")
    return "\n".join(lines)
