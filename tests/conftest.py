"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from support.drawn_archive import Drawn, make_archive

# Tests check what comes out and never how long it took: the machine may be busy.
settings.register_profile("malmm", deadline=None)
settings.load_profile("malmm")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the debug checkpoint, and whatever else goes to the user's cache, in a directory of the session."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """An archive that tests read and never write."""
    return make_archive(tmp_path_factory.mktemp("drawn"), segment_s=20.0)
