"""Find the files that lie beside videos and belong to them: subtitles, by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from malmm.pipeline.schema.errors import SourceError
from malmm.pipeline.sources.backends import HTTP, BackendFailure, open_backend
from malmm.pipeline.sources.fingerprints import fingerprint_of
from malmm.pipeline.sources.folders import entries_of

__all__ = ["Sidecar", "language_of", "list_sidecars"]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
# What players put into names beside the language.
_FLAGS = frozenset({"forced", "sdh", "cc", "hi", "default", "full", "auto"})


@dataclass(frozen=True)
class Sidecar:
    """A file beside a video. ``language`` is a code as its name says, or empty."""

    video_uri: str
    uri: str
    fingerprint: str
    language: str


def language_of(video_name: str, name: str) -> str | None:
    """The language that a subtitle file's name says: empty if it says none, None if it belongs to another video.

    ``talk.mp4`` has ``talk.srt``, ``talk.de.srt``, ``talk.pt-BR.forced.srt`` and ``talk.mp4.srt``, but not
    ``talk.part2.srt``.
    """
    own, beside = video_name, name.rpartition(".")[0]
    for stem in (own, own.rpartition(".")[0]):
        if stem and (beside == stem or beside.startswith(f"{stem}.")):
            parts = [part for part in beside[len(stem) :].split(".") if part]
            words = [part for part in parts if part.lower() not in _FLAGS]
            if len(words) > 1 or not all(_LANGUAGE.fullmatch(word) for word in words):
                continue
            return words[0].replace("_", "-") if words else ""
    return None


def list_sidecars(video_uris: Iterable[str], endings: Sequence[str]) -> Iterator[Sidecar | SourceError]:
    """Yield the files with these endings beside the videos, folder by folder; a SourceError for one that is not listed.

    Each folder is listed once. Web servers are not asked: few of them list folders.
    """
    folders: dict[str, list[str]] = {}
    for uri in video_uris:
        if _SCHEME.match(uri) and uri.partition("://")[0].lower() in HTTP:
            continue
        folders.setdefault(uri.rpartition("/")[0], []).append(uri)
    for folder, uris in folders.items():
        by_stem: dict[str, list[str]] = {}
        for uri in uris:
            name = uri.rpartition("/")[2]
            for stem in {name, name.rpartition(".")[0]}:
                by_stem.setdefault(stem, []).append(uri)
        try:
            entries = list(_remote(uris[0]) if _SCHEME.match(folder) else _local(folder))
        except (BackendFailure, OSError) as error:
            reason = error.sentence(folder, deed="listed") if isinstance(error, BackendFailure) else ""
            yield SourceError(
                reason or f"{folder} cannot be listed: {getattr(error, 'strerror', None) or error}",
                uri=folder,
            )
            continue
        for name, fingerprint in sorted(entries):
            if not name.lower().endswith(tuple(f".{ending}" for ending in endings)):
                continue
            # Not every video of the folder with every file in it: there may be 100,000 of each.
            beginnings = [name[:end] for end in range(1, len(name)) if name[end] == "."]
            for uri in dict.fromkeys(uri for stem in beginnings for uri in by_stem.get(stem, ())):
                language = language_of(uri.rpartition("/")[2], name)
                if language is not None:
                    yield Sidecar(uri, f"{folder}/{name}", fingerprint, language)


def _local(folder: str) -> Iterator[tuple[str, str]]:
    with os.scandir(folder or "/") as found:
        for entry in found:
            if entry.is_file():
                status = entry.stat()
                yield entry.name, f"{status.st_size}-{status.st_mtime_ns}"


def _remote(uri: str) -> Iterator[tuple[str, str]]:
    backend = open_backend(uri)
    for entry in entries_of(backend, backend.path.rpartition("/")[0]):
        if not entry.is_folder and entry.info is not None:
            yield entry.path.rpartition("/")[2], fingerprint_of(backend.protocol, entry.info)
