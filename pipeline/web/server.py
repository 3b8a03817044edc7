"""Run the application on a socket of this machine."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.web.app import make_app
from malmm.pipeline.web.settings import ServeConfig

__all__ = ["run_app", "serve"]

_GRACE_S = 5


def serve(config: ServeConfig, *, on_ready: Callable[[str], None] = lambda address: None) -> None:
    """Serve until interrupted. Calls ``on_ready`` with the address once the server accepts connections.

    Raises ArchiveError, and ConfigError if it cannot listen on the address.
    """
    run_app(make_app(config), config, on_ready=on_ready)


def run_app(app: ASGIApp, config: ServeConfig, *, on_ready: Callable[[str], None]) -> None:
    """Run an application at the configured address until interrupted. Raises ConfigError if it cannot listen there."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((config.host, config.port))
            listening.listen(128)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {config.host} port {config.port}: {error.strerror}; give another --port"
            ) from error
        port = listening.getsockname()[1]
        host = f"[{config.host}]" if family == socket.AF_INET6 else config.host
        on_ready(f"http://{host}:{port}/")
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
                h11_max_incomplete_event_size=1 << 16,
                limit_concurrency=512,
            )
        )
        server.run(sockets=[listening])
