"""``malmm models``: the published models that can be named, and which of them the workers can hold."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.terminal.text import size

if TYPE_CHECKING:
    from malmm.pipeline.indexing.model_table import ModelTable

__all__ = ["add_parser", "lines", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "models",
        run,
        help="list models, their licences and sizes, and which fit here",
        description="List the published models that `malmm index --model` knows: whether a worker can hold them, "
        "licence, download, memory, tokens a frame and speed. Other checkpoints of the same families can be named too. "
        "Memory is computed and not measured; nothing is downloaded.",
        epilog="examples:\n"
        "  malmm models\n"
        "  malmm models --address 10.0.0.5:6379    # by what the workers of a Ray cluster have\n\n"
        "The one with '*' is taken where a new archive's run names none.",
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="of a Ray cluster whose workers are asked (default: as `malmm index` finds one, else this machine)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    from malmm.jobs.terminal.progress import progress_shown
    from malmm.pipeline.indexing.model_table import model_table

    if arguments.address:
        os.environ["RAY_ADDRESS"] = arguments.address
    with progress_shown(quiet=True, verbose=False) as display:
        table = model_table(display)
    if arguments.json:
        print(json.dumps(asdict(table), indent=2))
    else:
        print("\n".join(lines(table)))
    return 0


def lines(table: ModelTable) -> list[str]:
    """Format the table for a terminal."""
    where = (
        f"{table.gpu_bytes / 2**30:.0f} GiB of GPU memory"
        if table.gpu_bytes is not None
        else f"{table.ram_bytes / 2**30:.0f} GiB of memory and no GPU"
    )
    found = [
        f"A worker has {where}.",
        "",
        f"  {'model':<45}{'fits':<6}{'licence':<12}{'download':>9}{'memory':>9}{'tokens a frame':>16}  speed",
    ]
    for row in table.models:
        found.append(
            f"{'*' if row.chosen else ' '} {row.name:<45}{'yes' if row.fits else 'no':<6}{row.licence:<12}"
            f"{size(row.download_bytes):>9}{size(row.memory_bytes):>9}{row.tokens_a_frame:>16g}  {row.speed}"
        )
    return [
        *found,
        "",
        "* is taken for a new archive where --model names none. Memory is computed: both parts, a segment's memory",
        "and a reserve. Speed is by operations a segment. demo comes with the package and knows drawn videos alone.",
    ]
