"""The exceptions of this package. Each message names the subject and the way out.

::

    MalmmError
    ├── ConfigError          an invalid option, value or combination
    ├── SourceError          a source that cannot be listed (uri)
    ├── DataSetError         annotations or videos of a data set that cannot be used (path)
    ├── MediaError           a file that cannot be decoded, or only in part (uri, kind)
    ├── ArchiveError         an archive that cannot be opened or written (uri)
    │   ├── ArchiveBusy      another writer holds the archive
    │   └── RecipeMismatch   the archive was made with another recipe
    └── WorkerError          workers cannot start, or the cluster is gone
        └── RunLost          what the run's tasks ask is gone

All survive pickling with their attributes, since they cross Ray's process boundaries.
"""

from __future__ import annotations

from typing import Any, Literal

__all__ = [
    "ArchiveBusy",
    "ArchiveError",
    "ConfigError",
    "DataSetError",
    "MalmmError",
    "MediaError",
    "MediaKind",
    "RecipeMismatch",
    "RunLost",
    "SourceError",
    "WorkerError",
]


class MalmmError(Exception):
    """Base of all exceptions that this package raises on purpose. The message is one sentence for users."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own __reduce__ calls the class with `args`, which drops keyword-only attributes.
        return _rebuild, (type(self), self.__dict__.copy())

    def __str__(self) -> str:
        return self.message


def _rebuild(kind: type[MalmmError], state: dict[str, Any]) -> MalmmError:
    error = kind.__new__(kind, state["message"])
    error.args = (state["message"],)
    error.__dict__.update(state)
    return error


class ConfigError(MalmmError):
    """An invalid value from the user. The message names the option, the value and what is valid."""


class SourceError(MalmmError):
    """A source that cannot be listed or has no videos: missing, empty or unreadable."""

    def __init__(self, message: str, *, uri: str) -> None:
        super().__init__(message)
        self.uri = uri


class DataSetError(MalmmError):
    """A data set that cannot be evaluated: an annotation file of another form, or a contradiction in it."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


MediaKind = Literal[
    "missing",
    "denied",
    "unreachable",
    "empty_file",
    "not_a_video",
    "no_video_stream",
    "no_frames",
    "encrypted",
    "truncated",
    "decode_error",
    "crashed",
    "timed_out",
    "too_large",
    "too_short",
]
"""Why a file cannot be decoded, as ``docs/decoding.md`` explains."""


class MediaError(MalmmError):
    """A file that cannot be decoded."""

    def __init__(self, message: str, *, uri: str, kind: MediaKind) -> None:
        super().__init__(message)
        self.uri = uri
        self.kind = kind


class ArchiveError(MalmmError):
    """An archive that cannot be opened, created or written."""

    def __init__(self, message: str, *, uri: str) -> None:
        super().__init__(message)
        self.uri = uri


class ArchiveBusy(ArchiveError):  # noqa: N818 - it says what it is
    """Another writer holds the archive."""


class RecipeMismatch(ArchiveError):  # noqa: N818 - it says what it is
    """The archive has rows of another recipe; ``differences`` is a list of (field, stored value, wanted value)."""

    def __init__(self, message: str, *, uri: str, differences: list[tuple[str, str, str]]) -> None:
        super().__init__(message, uri=uri)
        self.differences = differences


class WorkerError(MalmmError):
    """Workers cannot start, or the cluster is gone: the run ended, and what was committed stays."""


class RunLost(WorkerError):  # noqa: N818 - it says what it is
    """The actor that hands files and models to a run's tasks is gone. No row is to blame: guards let it pass."""
