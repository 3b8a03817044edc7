"""Which file is the video of a name, in folders as data sets are published and as people keep them."""

from __future__ import annotations

from pathlib import Path

import pytest

from malmm.pipeline.evaluation.video_folder import VideoFolder
from malmm.pipeline.schema.errors import DataSetError


def laid(place: Path, *files: str) -> Path:
    """Files of different sizes."""
    for number, name in enumerate(files):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"x" * (number + 1))
    return place


# Files, the name that annotations give, and the file that it is.
FOUND = {
    "as it is": (["a.mp4"], "a.mp4", "a.mp4"),
    "without its suffix": (["deep/er/a.webm"], "a", "deep/er/a.webm"),
    "a name with points": (["v.1.2.mp4"], "v.1.2", "v.1.2.mp4"),
    "ActivityNet": (["v_-vY2uUmv6Dk.mp4"], "-vY2uUmv6Dk", "v_-vY2uUmv6Dk.mp4"),
    "Breakfast": (
        ["P47/cam01/P47_tea.avi", "P47/cam02/P47_tea.avi", "P48/stereo/P48_tea_ch0.avi"],
        "P47-cam02-P47_tea",
        "P47/cam02/P47_tea.avi",
    ),
    "a relative path": (["x/a.mp4", "y/a.mp4"], "y/a.mp4", "y/a.mp4"),
    "its end": (["data/x/a.mp4", "data/y/a.mp4"], "y/a.mp4", "data/y/a.mp4"),
    "of another machine": (["x/clips/a.mp4", "y/clips/a.mp4"], "/mnt/all/y/clips/a.mp4", "y/clips/a.mp4"),
    "of another machine, alone": (["a.mp4"], "/mnt/all/y/clips/a.mp4", "a.mp4"),
    "MLVU": (["1_plotQA/1.mp4", "2_needle/1.mp4"], "2_needle/1.mp4", "2_needle/1.mp4"),
    "MLVU's first release": (["v/plotQA/1.mp4", "v/needle/1.mp4"], "2_needle/1.mp4", "v/needle/1.mp4"),
    "in two formats": (["a.mp4", "a.webm"], "a", "a.mp4"),
    "extracted frames": (["frames/a/frame000001.jpg", "videos/a.mp4"], "a.mp4", "frames/a"),
}


@pytest.mark.parametrize("case", FOUND)
def test_a_name_finds_its_video(case: str, tmp_path: Path) -> None:
    files, name, path = FOUND[case]
    assert VideoFolder(laid(tmp_path, *files), [name]).find(name) == str(tmp_path / path)


def test_a_video_of_another_task_is_not_taken_for_one_that_is_missing(tmp_path: Path) -> None:
    names = ["1_plotQA/1.mp4", "2_needle/1.mp4"]
    folder = VideoFolder(laid(tmp_path, "2_needle/1.mp4"), names)
    assert [folder.find(name) for name in names] == [None, str(tmp_path / "2_needle/1.mp4")]
    # Nor is the one that is left of them where all lie in one folder.
    folder = VideoFolder(laid(tmp_path / "flat", "1.mp4", "2.mp4"), [*names, "2_needle/2.mp4"])
    assert [folder.find(name) for name in names] == [None, None]
    assert folder.find("2_needle/2.mp4") == str(tmp_path / "flat/2.mp4")


def test_two_different_videos_of_one_name_are_an_error(tmp_path: Path) -> None:
    folder = VideoFolder(laid(tmp_path, "x/a.mp4", "y/a.mp4"))
    with pytest.raises(DataSetError, match=r"2 different videos named 'a', such as .*x/a.mp4 and .*y/a.mp4"):
        folder.find("a")
    # A copy is no other video.
    (tmp_path / "x/a.mp4").write_bytes((tmp_path / "y/a.mp4").read_bytes())
    assert VideoFolder(tmp_path).find("a") == str(tmp_path / "x/a.mp4")


def test_what_is_not_below_the_folder_is_not_found(tmp_path: Path) -> None:
    laid(tmp_path, "outside.mp4", "videos/a.mp4", "videos/notes.txt")
    folder = VideoFolder(tmp_path / "videos")
    for name in ("../outside.mp4", str(tmp_path / "outside.mp4"), "outside", "notes", "b.mp4"):
        assert folder.find(name) is None
