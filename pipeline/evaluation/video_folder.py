"""The videos of a data set on disk: files, or folders of the frames that the authors' script extracts."""

from __future__ import annotations

import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath, PurePosixPath

from malmm.pipeline.schema.errors import DataSetError
from malmm.pipeline.sources.source_file import VIDEO_EXTENSIONS

__all__ = ["VideoFolder"]

_FIRST_FRAME = "frame000001.jpg"
_SUFFIXES = frozenset(VIDEO_EXTENSIONS)
# ActivityNet's files are v_NAME.mp4 where annotations say NAME.
_PREFIXES = ("", "v_")
# MLVU's folders are 1_plotQA or plotQA, by release.
_NUMBER = re.compile(r"^\d+_")


class VideoFolder:
    """Finds the source of a video by the name that annotations give it, anywhere below a folder.

    A name is that of a folder of frames, of a file, or of a file without its suffix, with or without folders before
    it. Breakfast's ``P03/cam01/P03_tea.avi`` is found by ``P03-cam01-P03_tea``. Of several files with one name, the one
    whose folders agree best with the name's is taken. ``names`` are all that will be looked up: a file in a folder that
    one of them has is never taken for a name with another folder, and names that differ in their folder alone need it.

    Raises DataSetError if the folder is missing.
    """

    def __init__(self, place: Path, names: Iterable[str] = ()) -> None:
        if not place.is_dir():
            raise DataSetError(
                f"{place} is not a folder: --videos is the folder of the videos or of their extracted frames",
                path=str(place),
            )
        # Workers, and the processes that decode for them, may be in another folder than the driver.
        place = place.absolute()
        self.place = place
        folders: defaultdict[str, set[str]] = defaultdict(set)
        for path in map(PurePosixPath, names):
            folders[path.name].update(_folders(path)[-1:])
        self._named = set[str]().union(*folders.values())
        self._shared = {name for name, of in folders.items() if len(of) > 1}
        self._frames: defaultdict[str, list[Path]] = defaultdict(list)
        self._files: defaultdict[str, list[Path]] = defaultdict(list)
        for folder, below, files in os.walk(place):
            if _FIRST_FRAME in files:
                self._keep(self._frames, Path(folder), Path(folder).name)
                below.clear()
                continue
            below.sort()
            for name in sorted(files):
                if Path(name).suffix.lower() in _SUFFIXES:
                    self._keep(self._files, Path(folder) / name, name, Path(name).stem)

    def _keep(self, known: dict[str, list[Path]], path: Path, *keys: str) -> None:
        for key in (*keys, "-".join((*path.parent.parts[-2:], keys[-1]))):
            known[key].append(path)

    def find(self, video: str) -> str | None:
        """The path of a video's file or frames; None if there is none.

        Raises DataSetError for several different files among which the name does not choose.
        """
        exact = self.place / video
        if exact.is_file() and self.place.resolve() in exact.resolve().parents:
            return str(exact)
        path = PurePosixPath(video)
        name = path.name
        stem = path.stem if path.suffix.lower() in _SUFFIXES else name
        for prefix in _PREFIXES:
            for known, key in ((self._frames, stem), (self._files, name), (self._files, stem)):
                found = [each for each in known.get(prefix + key, ()) if self._may_be(each, path)]
                if found:
                    return self._best(video, found, path)
        return None

    def _may_be(self, path: Path, wanted: PurePath) -> bool:
        own, folders = _folders(path)[-1:], _folders(wanted)[-1:]
        if not folders or own == folders:
            return True
        return wanted.name not in self._shared and not self._named.intersection(own)

    def _best(self, video: str, found: Sequence[Path], wanted: PurePath) -> str:
        agreement = [
            (
                _agreement(each.parent.parts, wanted.parent.parts),
                _agreement(_folders(each), _folders(wanted)),
            )
            for each in found
        ]
        most = max(agreement)
        best = [each for each, share in zip(found, agreement, strict=True) if share == most]
        # Files beside each other are one video in several formats, and files of one size are copies.
        if len({each.parent for each in best}) > 1 and len({_size(each) for each in best}) > 1:
            raise DataSetError(
                f"{self.place} has {len(best)} different videos named {video!r}, such as {best[0]} and {best[1]}: name "
                "a folder that holds one of them with --videos, or rename the other",
                path=str(self.place),
            )
        return str(best[0])


def _folders(path: PurePath) -> tuple[str, ...]:
    """The folders of a path, without the numbers that they may begin with."""
    return tuple(_NUMBER.sub("", part) for part in path.parent.parts if part != "/")


def _agreement(one: Sequence[str], other: Sequence[str]) -> int:
    """How many folders are equal, from the innermost on."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _size(path: Path) -> int:
    """The bytes of a file, or of a folder's frames."""
    return sum(each.stat().st_size for each in ([path] if path.is_file() else path.iterdir()))
