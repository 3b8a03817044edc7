"""``malmm mcp``: an archive as tools for agents."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.search import add_models
from malmm.jobs.commands.serve import token_of
from malmm.jobs.commands.several import add_archives
from malmm.jobs.extras import needing
from malmm.jobs.terminal.text import printable
from malmm.pipeline.archive.catalog import names_several

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "mcp",
        run,
        help="offer an archive to agents, by the Model Context Protocol",
        description="Offer an archive to agents: tools to search, ask, list and show, with pictures of moments. They "
        "only read. Without --http one agent is served over standard input and output, which starts the command "
        "itself; with it, any that reaches the address, at /mcp, with the same tokens as for the page.",
        epilog="examples:\n"
        '  {"mcpServers": {"films": {"command": "malmm", "args": ["mcp", "--archive", "/data/archive"]}}}\n'
        "  malmm mcp --archive archive --http --port 8001\n"
        "  malmm mcp --archive s3://films/archive --http --host 0.0.0.0 --token-file token\n\n"
        "exit codes: 0 ended, 1 the archive cannot be served, 2 wrong usage, 130 interrupted",
    )
    add_archives(parser)
    parser.add_argument("--http", action="store_true", help="serve over streamable HTTP")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="with --http: address to listen on (%(default)s: this machine alone)",
    )
    parser.add_argument(
        "--port", type=int, default=8001, help="with --http: port, or 0 for any that is free (%(default)s)"
    )
    token = parser.add_mutually_exclusive_group()
    token.add_argument(
        "--token", metavar="TOKEN", help="with --http: the token, which agents send as a bearer token"
    )
    token.add_argument("--token-file", type=Path, metavar="FILE", help="a file that holds the token")
    token.add_argument(
        "--tokens", type=Path, metavar="FILE", help="a file of tokens with names, as for `malmm serve`"
    )
    parser.add_argument(
        "--waiting",
        type=int,
        default=8,
        metavar="N",
        help="questions that may wait while one is answered (%(default)s)",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=128, metavar="N", help="longest answer (%(default)s)"
    )
    add_models(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until the agent goes, or until interrupted."""
    # Loading takes seconds that --help and other commands need not wait for.
    with needing("mcp", "`malmm mcp`"):
        from malmm.pipeline.web.access import read_access
        from malmm.pipeline.web.mcp_transports import serve_mcp, serve_mcp_on_stdio
        from malmm.pipeline.web.settings import ServeConfig

    config = ServeConfig(
        archive=tuple(arguments.archive) if names_several(arguments.archive) else arguments.archive[0],
        host=arguments.host,
        port=arguments.port,
        token=None if arguments.tokens or not arguments.http else token_of(arguments),
        tokens=read_access(arguments.tokens) if arguments.tokens else (),
        model=arguments.model,
        retrieval_model=arguments.retrieval_model,
        max_new_tokens=arguments.max_new_tokens,
        waiting=arguments.waiting,
    )
    if not arguments.http:
        serve_mcp_on_stdio(config)
        return 0

    def on_ready(address: str) -> None:
        said = f"Serving {printable(', '.join(config.archives))} to agents at {address}"
        print(said, file=sys.stdout, flush=True)

    serve_mcp(config, on_ready=on_ready)
    return 0
