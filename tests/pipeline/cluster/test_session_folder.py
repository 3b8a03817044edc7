from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from malmm.pipeline.cluster.session_folder import MOST_SOCKET_BYTES, default_folder, session_folder, unfit
from malmm.pipeline.schema.errors import WorkerError

ROOT = "/tmp"  # noqa: S108 - where Ray goes, and short
SOCKET = "session_2026-11-29_23-30-43_140439_4194304/sockets/plasma_store.1"
UNFIT = {
    "long": Path("/scratch") / ("d" * 100),
    "accented": Path("/scratch/vidéos"),
    "not of any alphabet": Path("/scratch/🎬"),
    "undecodable": Path("/scratch") / os.fsdecode(b"\xff"),
    "relative": Path("here"),
    "below a file": Path(__file__) / "folder",
}


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path, which pytest's are not."""
    made = Path(tempfile.mkdtemp(prefix="m", dir=ROOT))
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({}, f"{ROOT}/ray"),
        ({"TMPDIR": "/scratch"}, "/scratch/ray"),
        ({"TMPDIR": "/scratch", "RAY_TMPDIR": "/fast"}, "/fast/ray"),
    ],
)
def test_ray_takes_this_folder_by_itself(
    environment: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._common.utils import get_default_ray_temp_dir

    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(default_folder()) == str(default_folder(environment)) == folder == get_default_ray_temp_dir()


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("odd", UNFIT.values(), ids=UNFIT)
def test_a_folder_that_will_not_do_is_replaced_by_a_private_one(short: Path, name: str, odd: Path) -> None:
    assert unfit(odd / "ray")
    folder = session_folder({name: str(odd)}, ["/nowhere", str(short)])
    assert folder is not None
    assert Path(folder).parent == short
    assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700
    # The next run keeps its logs beside this one's.
    assert session_folder({name: str(odd)}, [str(short)]) == folder


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_folder_that_will_do_stays(short: Path, name: str) -> None:
    assert session_folder({name: str(short / "a b")}) is None


@pytest.mark.parametrize("owner", ["everybody", "a link", "a file"])
def test_a_folder_that_others_can_change_is_not_taken(short: Path, owner: str) -> None:
    planted = short / f"malmm-ray-{os.geteuid()}"
    if owner == "everybody":
        planted.mkdir()
        planted.chmod(0o777)
    elif owner == "a link":
        target = short / "private"
        target.mkdir(mode=0o700)
        planted.symlink_to(target)
    else:
        planted.touch()
    folder = session_folder({"TMPDIR": "here"}, [str(short)])
    assert folder is not None
    assert Path(folder).parent == short
    assert Path(folder) != planted
    assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700


def test_without_a_place_it_says_which_variable_to_set() -> None:
    with pytest.raises(WorkerError, match=r"not ASCII.*set RAY_TMPDIR.*TMPDIR is /ü"):
        session_folder({"TMPDIR": "/ü"}, ["/nowhere"])


def test_the_longest_folder_that_is_taken_has_room_for_a_socket(short: Path) -> None:
    """The bound is the kernel's: one byte more, and the socket cannot be made."""
    fits = max(
        (short / ("d" * length) for length in range(1, 60) if unfit(short / ("d" * length)) is None),
        key=lambda folder: len(str(folder)),
    )
    place = fits / SOCKET
    assert len(str(place)) == MOST_SOCKET_BYTES
    place.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(place))
    with socket.socket(socket.AF_UNIX) as made, pytest.raises(OSError, match="too long"):
        made.bind(f"{place}x")
