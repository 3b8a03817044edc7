"""Options that several commands have."""

from __future__ import annotations

import argparse

from malmm.pipeline.config import RESOURCES
from malmm.pipeline.errors import ConfigError

__all__ = ["add_archive", "add_batching", "add_output", "parse_resource"]


def add_archive(parser: argparse.ArgumentParser) -> None:
    """Add the option that every command on an archive needs."""
    parser.add_argument("--archive", required=True, metavar="URI", help="the archive")


def add_batching(
    parser: argparse.ArgumentParser, *, max_new_tokens: int, batch_segments: int, batched: str
) -> None:
    """Add the options of jobs on Ray, with their defaults; ``batched`` says what happens to segments together."""
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=max_new_tokens,
        metavar="N",
        help="longest text, in tokens (%(default)s)",
    )
    parser.add_argument(
        "--batch-segments",
        type=int,
        default=batch_segments,
        metavar="N",
        help=f"segments {batched} (%(default)s)",
    )
    parser.add_argument(
        "--resource",
        action="append",
        default=[],
        metavar="NAME=N",
        help="workers of a stage, or what each reserves, in place of what is chosen from the cluster's size: "
        + ", ".join(RESOURCES),
    )


def add_output(parser: argparse.ArgumentParser, *, verbose: bool = True) -> None:
    """Add the options that say how a job tells of itself."""
    parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    if verbose:
        parser.add_argument("-v", "--verbose", action="store_true", help="show Ray's own messages")


def parse_resource(option: str) -> tuple[str, float]:
    """Read ``NAME=N``. Raises ConfigError."""
    name, _, value = option.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError as error:
        raise ConfigError(f"--resource {option!r}: write NAME=N, such as decode_workers=8") from error
