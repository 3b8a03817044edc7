"""The videos of a data set on disk: files, or folders of the frames that the authors' script extracts."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from malmm.pipeline.schema.errors import DataSetError
from malmm.pipeline.sources.source_file import VIDEO_EXTENSIONS

__all__ = ["VideoFolder"]

_FIRST_FRAME = "frame000001.jpg"
_SUFFIXES = frozenset(VIDEO_EXTENSIONS)
# ActivityNet's files are v_NAME.mp4 where annotations say NAME.
_PREFIXES = ("", "v_")


class VideoFolder:
    """Finds the source of a video by the name that annotations give it, anywhere below a folder.

    A name is that of a folder of frames, of a file, or of a file without its suffix. Raises DataSetError if the folder
    is missing.
    """

    def __init__(self, place: Path) -> None:
        if not place.is_dir():
            raise DataSetError(
                f"{place} is not a folder: --videos is the folder of the videos or of their extracted frames",
                path=str(place),
            )
        # Workers, and the processes that decode for them, may be in another folder than the driver.
        place = place.absolute()
        self.place = place
        self._frames: dict[str, str] = {}
        self._files: dict[str, str] = {}
        for folder, below, files in os.walk(place):
            if _FIRST_FRAME in files:
                self._frames[Path(folder).name] = folder
                below.clear()
                continue
            below.sort()
            for name in sorted(files):
                if Path(name).suffix.lower() in _SUFFIXES:
                    path = str(Path(folder) / name)
                    for key in (name, Path(name).stem):
                        self._files.setdefault(key, path)

    def find(self, video: str) -> str | None:
        """The path of a video's file or frames; None if there is none."""
        exact = self.place / video
        if exact.is_file() and self.place.resolve() in exact.resolve().parents:
            return str(exact)
        name = PurePosixPath(video).name
        stem = PurePosixPath(name).stem if PurePosixPath(name).suffix.lower() in _SUFFIXES else name
        for prefix in _PREFIXES:
            for known, key in ((self._frames, stem), (self._files, name), (self._files, stem)):
                if prefix + key in known:
                    return known[prefix + key]
        return None
