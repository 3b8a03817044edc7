from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.processes import Session

# As Ray's workers do, which share this machine.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _nothing_left_running() -> Iterator[None]:
    yield
    Session.end_all()
