from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.kept_models import models_kept


@pytest.fixture(scope="package", autouse=True)
def _models_kept() -> Iterator[None]:
    with models_kept():
        yield
