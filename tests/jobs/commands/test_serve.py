"""What ``malmm serve`` says when it is ready."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from support.archive_rows import RECIPE, VECTOR_SIZE

from malmm.jobs.commands.serve import ready_lines
from malmm.pipeline.archive.writer import Archive
from malmm.pipeline.web.settings import ServeConfig

TOKEN = "of-nobody-" * 2


@pytest.fixture
def archive(tmp_path: Path) -> str:
    return str(Archive.create_or_open(str(tmp_path / "archive"), RECIPE, VECTOR_SIZE).root)


@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "0.0.0.0"), ("::", "[::]")])  # noqa: S104
def test_for_all_addresses_it_names_one_that_others_can_open(archive: str, host: str, shown: str) -> None:
    said = ready_lines(ServeConfig(archive, host=host, token=TOKEN), f"http://{shown}:8001/")
    assert said[0].endswith(f"at http://{shown}:8001/")
    name = said[1].removeprefix("Others on this network open http://").removesuffix(":8001/")
    # A name of this machine: it can be listened on.
    with socket.socket() as listening:
        listening.bind((name, 0))
    assert TOKEN not in "\n".join(said)


@pytest.mark.parametrize(
    "options", [{}, {"host": "192.0.2.7", "token": TOKEN}, {"host": "films.example", "token": TOKEN}]
)
def test_an_address_that_can_be_opened_is_named_once(archive: str, options: dict[str, str]) -> None:
    config = ServeConfig(archive, **options)  # type: ignore[arg-type]
    said = ready_lines(config, f"http://{config.host}:8001/")
    assert "\n".join(said).count("http://") == 1
