"""``malmm import-checkpoint``: a checkpoint of the authors' code as a directory that ``index --model`` takes."""

from __future__ import annotations

import argparse
import json

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.terminal.text import printable
from malmm.pipeline.schema.exit_codes import EXIT_OK

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "import-checkpoint",
        run,
        help="convert a checkpoint that MA-LMM's authors' code wrote",
        description="Write a checkpoint of MA-LMM's authors' training code (LAVIS), laid over the InstructBLIP "
        "checkpoint that it was trained from, as a directory that --model takes. Only tensors are read from the file: "
        "nothing in it is executed. The directory appears when it is whole, and holds a copy of the base.",
        epilog="example:\n"
        "  malmm import-checkpoint checkpoint_best.pth --base Salesforce/instructblip-vicuna-7b --output lvu-relation\n"
        "  malmm index videos/ --archive archive --model lvu-relation --beams 5 --repetition-penalty 1.5 "
        "--begin-token 1\n\n"
        "exit codes: 0 written, 1 the file and the base do not fit, or one cannot be read, 2 wrong usage",
    )
    parser.add_argument("source", metavar="FILE", help="the file, such as checkpoint_best.pth")
    parser.add_argument(
        "--base",
        required=True,
        metavar="ID|DIR",
        help="the InstructBLIP checkpoint that the training began from: a hub id or a directory",
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="the directory to write; it must not exist"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Import and print what was written."""
    from malmm.pipeline.checkpoints.importing import import_checkpoint

    done = import_checkpoint(arguments.source, base=arguments.base, output=arguments.output)
    if arguments.json:
        print(
            json.dumps(
                {
                    "directory": str(done.directory),
                    "replaced": done.replaced,
                    "position_rows": done.position_rows,
                    "epoch": done.epoch,
                    "prompt_begin": list(done.prompt_begin),
                },
                indent=2,
            )
        )
        return EXIT_OK
    positions = "none" if done.position_rows is None else f"by frame number, {done.position_rows} frames"
    lines = [
        f"Written    {printable(str(done.directory))}",
        f"Replaced   {done.replaced} tensors of {printable(arguments.base)}; all others are the base's",
        f"Positions  {positions}",
        f"Prompts    begin with {printable(' '.join(done.prompt_begin)) or 'no token of their own'}",
    ]
    print("\n".join(lines))
    return EXIT_OK
