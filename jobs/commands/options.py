"""Options that several commands share."""

from __future__ import annotations

import argparse
from typing import Any, Protocol

from malmm.jobs.terminal.log_lines import LOG_FORMATS
from malmm.pipeline.schema.cluster_use import WHOLE_CLUSTER, ClusterUse
from malmm.pipeline.schema.config import RESOURCES, Prompt
from malmm.pipeline.schema.decoding import TextSettings
from malmm.pipeline.schema.engines import OWN_ENGINE
from malmm.pipeline.schema.errors import ConfigError

__all__ = [
    "Taker",
    "add_archive",
    "add_batching",
    "add_cluster_use",
    "add_log_format",
    "add_output",
    "add_text_settings",
    "add_where",
    "cluster_use",
    "parse_resource",
    "prompts_of",
    "text_settings",
]


class Taker(Protocol):
    """Accepts option declarations: an ``argparse`` parser or the fields of a job file."""

    def add_argument(self, *names: str, **options: Any) -> Any:
        """Add an option, described as for ``argparse``."""


def add_archive(parser: Taker) -> None:
    """Add ``--archive``."""
    parser.add_argument("--archive", required=True, metavar="URI", help="the archive")


def add_where(parser: Taker) -> None:
    """Add ``--where``."""
    parser.add_argument(
        "--where",
        metavar="FILTER",
        help="only what passes a filter over metadata of manifests, columns of videos, answer.PROMPT, label.PROMPT, "
        "score.PROMPT, start_s and end_s, such as \"camera = 'north' and start_s < 600\"; docs/filters.md has the "
        "language",
    )


def add_text_settings(parser: Taker) -> None:
    """Add the options of generation that are part of the recipe, with their defaults."""
    usual = TextSettings()
    parser.add_argument(
        "--system",
        default=usual.system,
        metavar="TEXT",
        help="the system text of each question, such as 'Answer in one sentence.'; not for InstructBLIP",
    )
    parser.add_argument(
        "--beams",
        type=int,
        default=usual.beams,
        metavar="N",
        help="write texts with N beams instead of one word after the other: N times the work (%(default)s)",
    )
    parser.add_argument(
        "--repetition-penalty",
        type=float,
        default=usual.repetition_penalty,
        metavar="P",
        help="divide the scores of tokens that a text has already by P; 1 is none (%(default)g)",
    )
    parser.add_argument(
        "--length-penalty",
        type=float,
        default=usual.length_penalty,
        metavar="P",
        help="divide a beam's score by its length to the power P: above 0 favours long texts (%(default)g)",
    )
    parser.add_argument(
        "--min-new-tokens",
        type=int,
        default=usual.min_new_tokens,
        metavar="N",
        help="shortest text, in tokens (%(default)s)",
    )
    parser.add_argument(
        "--begin-token",
        type=int,
        metavar="ID",
        help="count this token for the repetition penalty as if texts began with it, as the authors' code does with 1 "
        "(default: none)",
    )


def text_settings(arguments: argparse.Namespace) -> TextSettings:
    """Build the settings of generation from parsed options. Raises ConfigError."""
    return TextSettings(
        system=arguments.system.strip(),
        beams=arguments.beams,
        repetition_penalty=arguments.repetition_penalty,
        length_penalty=arguments.length_penalty,
        min_new_tokens=arguments.min_new_tokens,
        begin_token=arguments.begin_token,
    )


def add_batching(parser: Taker, *, max_new_tokens: int, batch_segments: int, batched: str) -> None:
    """Add the options of jobs on Ray, with their defaults; ``batched`` says what happens to segments together."""
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=max_new_tokens,
        metavar="N",
        help="longest text, in tokens (%(default)s)",
    )
    parser.add_argument(
        "--engine",
        default=OWN_ENGINE,
        metavar="NAME",
        help="what writes texts: transformers in the workers, or vllm=http://HOST:PORT, a server of yours for greedy "
        "texts, docs/vllm.md (%(default)s)",
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
    add_cluster_use(parser)


def add_cluster_use(parser: Taker) -> None:
    """Add the options that say what a run uses of a Ray cluster that is there."""
    usual = WHOLE_CLUSTER
    parser.add_argument(
        "--share",
        type=float,
        default=usual.share,
        metavar="X",
        help="share of the Ray cluster's workers to use, such as 0.5; others may use the rest (%(default)g)",
    )
    parser.add_argument(
        "--nodes",
        type=int,
        default=usual.nodes,
        metavar="N",
        help="wait until the Ray cluster has N nodes with CPUs for tasks (default: begin with the first)",
    )
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="use only nodes of the Ray cluster with this label; may be repeated, for nodes that have all",
    )


def cluster_use(arguments: argparse.Namespace) -> ClusterUse:
    """What the run may use of the cluster, from parsed options. Raises ConfigError."""
    labels = [option.partition("=")[::2] for option in arguments.label]
    return ClusterUse(
        arguments.share, arguments.nodes, tuple((name.strip(), text.strip()) for name, text in labels)
    )


def add_output(parser: argparse.ArgumentParser, *, verbose: bool = True) -> None:
    """Add the options for output: JSON, quiet, verbose."""
    parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")
    if verbose:
        parser.add_argument("-v", "--verbose", action="store_true", help="show Ray's own messages")
    add_log_format(parser)


def add_log_format(parser: argparse.ArgumentParser) -> None:
    """Add ``--log-format``: text for people or JSON lines for programs."""
    parser.add_argument(
        "--log-format",
        choices=LOG_FORMATS,
        default=LOG_FORMATS[0],
        help="progress and errors as text, or as one JSON object a line (%(default)s)",
    )


def prompts_of(options: list[str | Prompt]) -> tuple[Prompt, ...]:
    """Parse prompts given as ``NAME=TEXT``; Prompt objects pass unchanged. Raises ConfigError."""
    return tuple(option if isinstance(option, Prompt) else Prompt.parse(option) for option in options)


def parse_resource(option: str | tuple[str, float]) -> tuple[str, float]:
    """Parse ``NAME=N``; a pair passes unchanged. Raises ConfigError."""
    if not isinstance(option, str):
        return option
    name, _, value = option.partition("=")
    try:
        return name.strip(), float(value)
    except ValueError as error:
        raise ConfigError(f"--resource {option!r}: write NAME=N, such as decode_workers=8") from error
