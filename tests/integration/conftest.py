from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.processes import Session


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    yield
    Session.end_all()
