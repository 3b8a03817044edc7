"""Settings of a server: its address, its access token and its limits."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from malmm.pipeline.archive.catalog import Entry, entries_of, names_several
from malmm.pipeline.archive.location import resolve
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.sources.indexed_roots import remembered_roots
from malmm.pipeline.web.access import LEAST_TOKEN, Access, check_token
from malmm.pipeline.web.media_roots import MediaRoots, is_root

__all__ = ["LEAST_TOKEN", "MOST_BODY_BYTES", "MOST_RESULTS", "ServeConfig", "is_loopback"]

MOST_BODY_BYTES = 1 << 16
MOST_RESULTS = 100
"""Results of one page."""


@dataclass(frozen=True)
class ServeConfig:
    """Settings of a server. Raises ConfigError for invalid values.

    ``token`` is the access token, and ``tokens`` are those that carry a name and a right; one is required if other
    machines can reach the address. ``waiting`` is how many questions may wait while one is answered. ``model`` and
    ``retrieval_model`` are paths or ids of the archive's checkpoints, if not those it recorded. ``archive`` may be
    several addresses, globs and catalog files, served as one. ``media_roots`` are the folders, files and address
    prefixes from which video is read, for all archives or by the name of each; None for those that ``malmm index``
    recorded on this machine for the archive.
    """

    archive: str | Sequence[str]
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    tokens: tuple[Access, ...] = ()
    model: str | None = None
    retrieval_model: str | None = None
    max_new_tokens: int = 128
    waiting: int = 8
    media_roots: Sequence[str] | Mapping[str, Sequence[str]] | None = None

    def __post_init__(self) -> None:
        if not self.archive:
            raise ConfigError("no archive: give --archive a directory or an s3:// URI")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port {self.port}: from 1 to 65535, or 0 for any that is free")
        if not self.needs_token and not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host} can be reached from other machines, so the page needs a token: make one with "
                "`openssl rand -hex 24 > token`, and give --token-file token"
            )
        if self.token is not None:
            check_token(self.token)
        if not 1 <= self.max_new_tokens <= 4096:
            raise ConfigError(f"--max-new-tokens {self.max_new_tokens}: from 1 to 4096")
        if not 0 <= self.waiting <= 1000:
            raise ConfigError(f"--waiting {self.waiting}: from 0 to 1000 questions")
        if isinstance(self.media_roots, Mapping):
            for roots in self.media_roots.values():
                MediaRoots(roots)
        elif self.media_roots is not None:
            MediaRoots(self.media_roots)

    @property
    def needs_token(self) -> bool:
        """Whether visitors need a token."""
        return self.token is not None or bool(self.tokens)

    @property
    def archives(self) -> tuple[str, ...]:
        """The given addresses, globs and catalog files."""
        return (self.archive,) if isinstance(self.archive, str) else tuple(self.archive)

    def served_roots(self) -> tuple[str, ...]:
        """The given roots, or those recorded on this machine that a server can read, of all archives."""
        by_archive = self.roots_by_archive().values()
        return tuple(dict.fromkeys(root for roots in by_archive for root in roots))

    def roots_by_archive(self) -> dict[str, tuple[str, ...]]:
        """The roots of each of several archives by its name; those of one archive by its resolved address.

        A video is read from the roots of its own archive alone. Of several archives, a root of a catalog counts for the
        archive that it is listed with. Raises ConfigError for a catalog that cannot be read.
        """
        given = self.archives
        entries = entries_of(given) if names_several(given) else [Entry(resolve(given[0]), resolve(given[0]))]
        return {entry.name: self._roots_of(entry) for entry in entries}

    def _roots_of(self, entry: Entry) -> tuple[str, ...]:
        if isinstance(self.media_roots, Mapping):
            return tuple(self.media_roots.get(entry.name, ()))
        if self.media_roots is not None:
            return tuple(self.media_roots)
        if entry.media_roots is not None:
            return entry.media_roots
        return tuple(root for root in remembered_roots(entry.uri) if is_root(root))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach this host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
