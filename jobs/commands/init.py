"""``malmm init``: write a starter job file, or print the schema for editors."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.terminal.text import printable
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "init",
        run,
        help="write a commented job file to begin with",
        description="Write a job file, with comments, that indexes videos and can be extended by removing comment "
        "signs; or the JSON Schema of job files, with which editors complete and check them.",
        epilog="examples:\n"
        "  malmm init\n"
        "  malmm init nightly.yaml --source talks/ --archive s3://bucket/archive\n"
        "  malmm init --schema > malmm-job.schema.json\n\n"
        "exit codes: 0 written, 2 wrong usage or a file that is there",
    )
    parser.add_argument(
        "file", nargs="?", default="job.yaml", metavar="JOB.yaml", help="the file to write (%(default)s)"
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="SOURCE",
        help="videos to index (videos/); may be repeated",
    )
    parser.add_argument("--archive", default="archive", metavar="URI", help="the archive (%(default)s)")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of job files instead")


def run(arguments: argparse.Namespace) -> int:
    """Write the file, or print the schema."""
    from malmm.jobs.files.example import example
    from malmm.jobs.files.job import json_schema
    from malmm.jobs.files.loading import name_of

    if arguments.schema:
        print(json.dumps(json_schema(), indent=2))
        return 0
    path = Path(arguments.file)
    text = example(
        file=arguments.file,
        name=name_of(arguments.file),
        sources=arguments.source or ["videos"],
        archive=arguments.archive,
    )
    try:
        with path.open("x", encoding="utf-8") as written:
            written.write(text)
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already: name another file, or remove it first") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    print(f"{printable(str(path))}: edit it, then try `malmm run {printable(str(path))} --dry-run`")
    return 0
