"""``malmm optimize``: small files merged, old versions forgotten, indexes brought up to date."""

from __future__ import annotations

import argparse
import json
import sys

from malmm.jobs.options import add_archive, add_output
from malmm.jobs.text import printable

__all__ = ["add_parser", "run"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "optimize",
        help="merge small files and bring indexes up to date",
        description="Merge an archive's small files, forget old versions, and bring its indexes up to date (vectors, "
        "words, keys). `malmm index` does so when much has come; this does it now.",
        epilog="example:\n  malmm optimize --archive archive\n\n"
        "exit codes: 0 done, 1 the archive cannot be written, 2 wrong usage",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_archive(parser)
    add_output(parser, verbose=False)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do it and say what was done."""
    from malmm.pipeline.indexes import index_states
    from malmm.pipeline.store import Archive

    archive = Archive.open(arguments.archive)

    def tell(what: str) -> None:
        if not arguments.quiet:
            print(f"indexing {what}", file=sys.stderr, flush=True)

    with archive.held():
        merged = archive.compact(at_least=2)
        archive.update_indexes(at_once=True, tell=tell)
    states = index_states(archive.uri)
    if arguments.json:
        content = {
            "archive": archive.root,
            "files": {name: {"before": before, "after": after} for name, (before, after) in merged.items()},
            "indexes": [vars(state) for state in states],
        }
        print(json.dumps(content, indent=2))
        return 0
    print(f"Archive   {printable(archive.root)}")
    for name, (before, after) in merged.items():
        print(f"Files     {name}: {before} to {after}")
    for state in states:
        covered = state.rows - state.rows_unindexed
        print(f"Index     {state.table}.{state.column} ({state.kind}): {covered} of {state.rows} rows")
    return 0
