"""The web application of one archive: puts guard, API and page together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.staticfiles import StaticFiles

from malmm.pipeline.web.api.browsing import browsing_routes
from malmm.pipeline.web.api.finding import finding_routes
from malmm.pipeline.web.api.grouping import grouping_routes
from malmm.pipeline.web.api.problems import answer_problems
from malmm.pipeline.web.api.reviewing import review_routes
from malmm.pipeline.web.api.sessions import session_routes
from malmm.pipeline.web.auth import Guard, Keys
from malmm.pipeline.web.media_roots import MediaRoots
from malmm.pipeline.web.models import LocalModels, Models
from malmm.pipeline.web.settings import ServeConfig
from malmm.pipeline.web.state.live import LiveArchive
from malmm.pipeline.web.state.shared_state import Site

__all__ = ["OWN_NAMES", "make_app", "make_site"]

_PAGE = Path(__file__).parent / "static"
# Without a token anybody who reaches this server can read, so it answers only to this machine's own names.
OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def make_site(config: ServeConfig, models: Models | None = None) -> tuple[Site, LocalModels | None]:
    """The state of a server, and the models that it loads here unless they are given. Raises ArchiveError."""
    live = LiveArchive(config.archives, model=config.model, retrieval_model=config.retrieval_model)
    own: LocalModels | None = None
    if models is None:
        models = own = LocalModels(live, max_new_tokens=config.max_new_tokens, waiting=config.waiting)
    site = Site(
        live,
        models,
        Keys(config.token, config.tokens),
        {name: MediaRoots(roots) for name, roots in config.roots_by_archive().items()},
    )
    return site, own


def make_app(config: ServeConfig, models: Models | None = None) -> FastAPI:
    """The application. Loads the models in this process unless they are given. Raises ArchiveError."""
    site, own = make_site(config, models)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if own is not None:
            own.warm()
        yield
        if own is not None:
            own.close()

    app = FastAPI(
        title="malmm-ray",
        summary="Search an archive of long videos, watch it and ask it.",
        version=version("malmm-ray"),
        lifespan=lifespan,
        openapi_url="/api/openapi.json",
        # FastAPI's own docs pages load scripts from other servers.
        docs_url=None,
        redoc_url=None,
    )
    answer_problems(app)
    app.include_router(session_routes(site))
    app.include_router(browsing_routes(site))
    app.include_router(finding_routes(site))
    app.include_router(grouping_routes(site))
    app.include_router(review_routes(site))

    @app.get("/", include_in_schema=False)
    def get_page() -> FileResponse:
        return FileResponse(_PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=_PAGE), name="static")
    hosts = None if config.needs_token else OWN_NAMES | {config.host}
    app.add_middleware(Guard, keys=site.keys, hosts=hosts)
    return app
