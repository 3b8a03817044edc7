"""``malmm serve``: a page and an API over an archive."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from malmm.jobs.commands.command_parser import Commands, add_command
from malmm.jobs.commands.search import add_models
from malmm.jobs.commands.several import add_archives
from malmm.jobs.extras import needing
from malmm.jobs.terminal.text import printable
from malmm.pipeline.archive.catalog import names_several
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.progress import Progress

if TYPE_CHECKING:
    from malmm.pipeline.web.settings import ServeConfig

__all__ = ["add_parser", "ready_lines", "run", "token_of"]

_ROOTS_SHOWN = 3


def add_parser(commands: Commands) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "serve",
        run,
        help="serve a page and an API to search, watch and ask",
        description="Serve a web page and a JSON API over an archive: search it, watch what was found, ask it. Only "
        "this machine can reach the page unless --host says otherwise, and then visitors need a token. A job may "
        "write the archive meanwhile: what it commits shows at once.",
        epilog="examples:\n"
        "  malmm serve --archive archive\n"
        "  malmm serve --archive archive --media-root /mnt/films --media-root https://films.example.org/2026/\n"
        "  openssl rand -hex 24 > token           # for others on the network, who sign in with what is in it\n"
        "  malmm serve --archive archive --host 0.0.0.0 --token-file token\n"
        "  malmm serve --archive catalog.yaml     # several as one, each with media roots of its own\n"
        "  malmm serve --archive archive --ray    # on a Ray cluster, the models in replicas of their own\n\n"
        "The API's OpenAPI document is at /api/openapi.json; with a token send 'Authorization: Bearer TOKEN'.\n\n"
        "exit codes: 0 ended, 1 the archive cannot be served, 2 wrong usage, 130 interrupted",
    )
    add_archives(parser)
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (%(default)s: this machine alone)"
    )
    parser.add_argument(
        "--port", type=int, default=8000, help="port to listen on; 0 takes any that is free (%(default)s)"
    )
    token = parser.add_mutually_exclusive_group()
    token.add_argument(
        "--token",
        metavar="TOKEN",
        help="the access token of the page; other users of this machine can see it in the list of processes, unlike "
        "MALMM_TOKEN in the environment or --token-file",
    )
    token.add_argument(
        "--tokens",
        type=Path,
        metavar="FILE",
        help="a file of tokens, on each line a name, a right (read or review) and a token: reviews say whose they are",
    )
    token.add_argument("--token-file", type=Path, metavar="FILE", help="a file that holds the token")
    parser.add_argument(
        "--media-root",
        action="append",
        metavar="DIR|URI",
        help="play the videos below this folder or address, may be repeated (default: the sources that `malmm index` "
        "was given for this archive by you on this machine)",
    )
    parser.add_argument(
        "--waiting",
        type=int,
        default=8,
        metavar="N",
        help="questions that may wait while one is answered; more are told to come back (%(default)s)",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, default=128, metavar="N", help="longest answer (%(default)s)"
    )
    parser.add_argument(
        "--ray", action="store_true", help="serve on Ray Serve; needs `pip install 'malmm-ray[ray-serve]'`"
    )
    add_models(parser)


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted."""
    # Loading takes seconds that --help and other commands need not wait for.
    extra, what = ("ray-serve", "`malmm serve --ray`") if arguments.ray else ("serve", "`malmm serve`")
    with needing(extra, what):
        from malmm.pipeline.web.access import read_access
        from malmm.pipeline.web.settings import ServeConfig

    config = ServeConfig(
        archive=tuple(arguments.archive) if names_several(arguments.archive) else arguments.archive[0],
        host=arguments.host,
        port=arguments.port,
        token=None if arguments.tokens else token_of(arguments),
        tokens=read_access(arguments.tokens) if arguments.tokens else (),
        model=arguments.model,
        retrieval_model=arguments.retrieval_model,
        max_new_tokens=arguments.max_new_tokens,
        waiting=arguments.waiting,
        media_roots=None if arguments.media_root is None else tuple(arguments.media_root),
    )

    def on_ready(address: str) -> None:
        print("\n".join(ready_lines(config, address)), flush=True)

    if arguments.ray:
        _serve_on_ray(config, on_ready)
    else:
        with needing("serve", "`malmm serve`"):
            from malmm.pipeline.web.server import serve
        serve(config, on_ready=on_ready)
    return 0


def _serve_on_ray(config: ServeConfig, on_ready: Callable[[str], None]) -> None:
    from malmm.jobs.terminal.progress import progress_line
    from malmm.jobs.terminal.quiet_ray import quiet_ray

    with needing("ray-serve", "`malmm serve --ray`"):
        from malmm.pipeline.web.ray_serve import serve_on_ray
    with quiet_ray(verbose=False) as ray:

        def ready(address: str) -> None:
            ray.started()
            on_ready(address)

        def tell(progress: Progress) -> None:
            if progress.note:
                ray.started()
                print(progress_line(progress), file=sys.stderr, flush=True)
                ray.starting()

        ray.starting()
        serve_on_ray(config, on_ready=ready, tell=tell)


def ready_lines(config: ServeConfig, address: str) -> list[str]:
    """What the command says once the page can be reached at ``address``."""
    from malmm.pipeline.archive.empty_hint import empty_hint
    from malmm.pipeline.archive.joined import open_archives

    lines = [
        f"Serving {printable(', '.join(config.archives))} at {address}",
        "Visitors have to know the token." if config.needs_token else "Only this machine can come in.",
    ]
    if others := _for_others(address):
        lines.insert(1, f"Others on this network open {others}")
    for name, roots in config.roots_by_archive().items():
        whose = f"{printable(name)}: " if names_several(config.archives) else ""
        lines.append(f"{whose}{_said_of_video(roots)}")
    if hint := empty_hint(open_archives(config.archives)):
        lines.append(f"Nothing to see yet: {printable(hint)}")
    return lines


def _for_others(address: str) -> str:
    """Where others open a page that listens on all addresses of this machine; empty for one of a single address."""
    url = urlsplit(address)
    try:
        everywhere = ip_address(url.hostname or "").is_unspecified
    except ValueError:
        return ""
    return f"http://{_own_name()}:{url.port}/" if everywhere else ""


def _own_name() -> str:
    """This machine's address on the network that it reaches others by; its name if it is on none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            # An address for documentation. Nothing is sent: the system only chooses the way there.
            asking.connect(("192.0.2.1", 9))
            return str(asking.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _said_of_video(roots: tuple[str, ...]) -> str:
    if not roots:
        return "Pictures of memory are shown and no video is played: allow it with --media-root and the videos' folder."
    others = f" and {len(roots) - _ROOTS_SHOWN} more places" if len(roots) > _ROOTS_SHOWN else ""
    return f"Videos are played from {', '.join(map(printable, roots[:_ROOTS_SHOWN]))}{others}."


def token_of(arguments: argparse.Namespace) -> str | None:
    """The token of ``--token``, ``--token-file`` or MALMM_TOKEN. Raises ConfigError for a file that cannot be read."""
    if arguments.token_file is not None:
        try:
            return str(arguments.token_file.read_text(encoding="utf-8")).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read --token-file {arguments.token_file}: {error}") from error
    given = arguments.token if arguments.token is not None else os.environ.get("MALMM_TOKEN")
    return given or None
