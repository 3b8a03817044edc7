"""Run the tools for agents: over standard input and output, or over HTTP with the page's tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from malmm.pipeline.web.app import OWN_NAMES, make_site
from malmm.pipeline.web.auth import Guard
from malmm.pipeline.web.mcp_tools import mcp_server
from malmm.pipeline.web.models import Models
from malmm.pipeline.web.server import run_app
from malmm.pipeline.web.settings import ServeConfig

__all__ = ["MCP_PATH", "make_mcp_app", "serve_mcp", "serve_mcp_on_stdio"]

MCP_PATH = "/mcp"


def serve_mcp_on_stdio(config: ServeConfig) -> None:
    """Serve one client over standard input and output until it goes. Raises ArchiveError.

    Whatever else is printed goes to standard error, which the SDK sees to.
    """
    site, own = make_site(config)
    server = mcp_server(site)
    if own is not None:
        own.warm()
    try:
        anyio.run(server.run_stdio_async)
    finally:
        if own is not None:
            own.close()


def serve_mcp(config: ServeConfig, *, on_ready: Callable[[str], None] = lambda address: None) -> None:
    """Serve over streamable HTTP at ``MCP_PATH`` until interrupted. Raises as ``server.serve`` does."""
    run_app(make_mcp_app(config), config, on_ready=lambda address: on_ready(address.rstrip("/") + MCP_PATH))


def make_mcp_app(config: ServeConfig, models: Models | None = None) -> ASGIApp:
    """The application, with the page's guard before it: tokens, host names, limits of requests. Raises ArchiveError.

    Requests are independent of each other, so that several servers may stand behind one address.
    """
    site, own = make_site(config, models)
    server: MCPServer[Any] = mcp_server(site)
    inner = server.streamable_http_app(
        streamable_http_path=MCP_PATH,
        stateless_http=True,
        json_response=True,
        # The guard checks host names, by the same rule as for the page.
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if own is not None:
            own.warm()
        async with server.session_manager.run():
            yield
        if own is not None:
            own.close()

    hosts = None if config.needs_token else OWN_NAMES | {config.host}
    return Guard(Starlette(routes=[Mount("/", inner)], lifespan=lifespan), keys=site.keys, hosts=hosts)
