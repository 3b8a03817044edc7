"""The page on Ray Serve: some replicas hold the models, others serve the page and its API.

``malmm serve --ray`` runs it. A Serve config file imports ``malmm.pipeline.web.ray_serve:build``, as
``examples/serve.yaml`` does.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from ray import serve
from ray.exceptions import RayTaskError

from malmm.pipeline.archive.catalog import names_several
from malmm.pipeline.cluster.connection import connection
from malmm.pipeline.cluster.starvation import room_told
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.progress import OnProgress, Progress
from malmm.pipeline.web.api.events import Event
from malmm.pipeline.web.app import make_app
from malmm.pipeline.web.models import LocalModels
from malmm.pipeline.web.settings import ServeConfig
from malmm.pipeline.web.state.live import LiveArchive

__all__ = ["APPLICATION", "RemoteModels", "build", "serve_on_ray"]

APPLICATION = "malmm"
_EVENT: TypeAdapter[Any] = TypeAdapter(Event)
_MODEL_REQUESTS, _PAGE_REQUESTS = 128, 256
_WATCHED_EVERY_S = 1.0
# A replica asks for one CPU, unless a Serve config file says otherwise.
_REPLICAS = (("the models", 1.0, 0.0), ("the page", 1.0, 0.0))


@serve.deployment(name="Models", max_ongoing_requests=_MODEL_REQUESTS)
class ModelReplica:
    """A replica that holds the archive's models. It has its own queue of questions."""

    def __init__(self, settings: dict[str, Any]) -> None:
        config = ServeConfig(**settings)
        live = LiveArchive(config.archives, model=config.model, retrieval_model=config.retrieval_model)
        self._models = LocalModels(live, max_new_tokens=config.max_new_tokens, waiting=config.waiting)
        self._models.warm()

    async def vector(self, text: str) -> np.ndarray | None:
        """See ``malmm.pipeline.web.models.Models``."""
        return await self._models.vector(text)

    async def ask(
        self, question: str, video_ids: Sequence[str] | None, k: int, where: str | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """See ``malmm.pipeline.web.models.Models``; events as dictionaries."""
        async for event in self._models.ask(question, video_ids, k, where):
            yield event.model_dump()


class RemoteModels:
    """``Models`` that calls ``ModelReplica`` through its handle."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    async def vector(self, text: str) -> np.ndarray | None:
        """See ``malmm.pipeline.web.models.Models``."""
        try:
            return await self._handle.vector.remote(text)
        except RayTaskError as error:
            raise _own(error) from error

    async def ask(
        self, question: str, video_ids: Sequence[str] | None, k: int, where: str | None = None
    ) -> AsyncIterator[Event]:
        """See ``malmm.pipeline.web.models.Models``."""
        events = self._handle.options(stream=True).ask.remote(question, video_ids, k, where)
        finished = False
        try:
            async for event in events:
                yield _EVENT.validate_python(event)
            finished = True
        except RayTaskError as error:
            finished = True
            raise _own(error) from error
        finally:
            if not finished:
                events.cancel()


@serve.deployment(name="Page", max_ongoing_requests=_PAGE_REQUESTS)
@serve.ingress()
class PageReplica:
    """A replica that serves the page and the API."""

    def __init__(self, settings: dict[str, Any], models: Any) -> None:
        self._settings, self._models = settings, models

    def __serve_build_asgi_app__(self) -> Any:
        """Build the application when a replica starts."""
        return make_app(ServeConfig(**self._settings), RemoteModels(self._models))


def build(settings: dict[str, Any]) -> serve.Application:
    """The application for a Serve config file, whose ``args`` are the fields of ``ServeConfig``.

    A cluster's proxies listen on all addresses, so a token is required: MALMM_TOKEN in the environment that deploys, or
    ``token`` in the file. Raises ConfigError.
    """
    given = {"host": "0.0.0.0", "token": os.environ.get("MALMM_TOKEN") or None} | settings  # noqa: S104
    try:
        config = ServeConfig(**given)
    except TypeError as error:
        known = ", ".join(ServeConfig.__dataclass_fields__)
        raise ConfigError(
            f"the Serve config file's args are invalid: {error}; the valid ones are {known}"
        ) from error
    # Roots are recorded on this machine, and replicas run on others.
    roots = config.roots_by_archive() if names_several(config.archives) else config.served_roots()
    checked = asdict(config) | {"media_roots": roots}
    return PageReplica.bind(checked, ModelReplica.bind(checked))  # type: ignore[attr-defined]


def serve_on_ray(
    config: ServeConfig,
    *,
    on_ready: Callable[[str], None] = lambda address: None,
    tell: OnProgress = lambda progress: None,
) -> None:
    """Run the application on the cluster until interrupted. Starts a cluster if there is none.

    Reports through ``tell``, in a thread, what it waits for while the cluster has no room for the replicas. Raises
    ArchiveError, ConfigError and WorkerError.
    """
    LiveArchive(config.archives)
    if config.port == 0:
        raise ConfigError("--port 0: Ray Serve needs a port to be named")
    with connection(tell=tell):
        serve.start(http_options={"host": config.host, "port": config.port})
        try:
            with room_told(_REPLICAS, lambda note: tell(Progress("starting", note=note))):
                serve.run(build(asdict(config)), name=APPLICATION, route_prefix="/")
            host = f"[{config.host}]" if ":" in config.host else config.host
            on_ready(f"http://{host}:{config.port}/")
            while True:
                time.sleep(_WATCHED_EVERY_S)
        finally:
            serve.shutdown()


def _own(error: RayTaskError) -> Exception:
    """The exception that the replica raised, in place of Ray's wrapper with its traceback."""
    cause = error.cause
    return cause if isinstance(cause, Exception) else error
