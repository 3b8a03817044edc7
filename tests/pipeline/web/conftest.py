from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient
from support.drawn_archive import Drawn
from support.kept_models import models_kept

from malmm.pipeline.web.app import make_app
from malmm.pipeline.web.settings import ServeConfig

BASE = "http://127.0.0.1:8000"


@pytest.fixture(scope="package", autouse=True)
def _models_kept() -> Iterator[None]:
    with models_kept():
        yield


@pytest.fixture(scope="package")
def client(drawn: Drawn) -> Iterator[TestClient]:
    with TestClient(make_app(ServeConfig(drawn.place)), base_url=BASE) as made:
        yield made
