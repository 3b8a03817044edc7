"""Settings of a server: its address, its access token and its limits."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from malmm.pipeline.archive.location import resolve
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.sources.indexed_roots import remembered_roots
from malmm.pipeline.web.media_roots import MediaRoots, is_root

__all__ = ["LEAST_TOKEN", "MOST_BODY_BYTES", "MOST_RESULTS", "ServeConfig", "is_loopback"]

LEAST_TOKEN = 16
"""Minimum length of a token in characters."""
MOST_BODY_BYTES = 1 << 16
MOST_RESULTS = 100
"""Results of one page."""


@dataclass(frozen=True)
class ServeConfig:
    """Settings of a server. Raises ConfigError for invalid values.

    ``token`` is the access token, required if other machines can reach the address. ``waiting`` is how many questions
    may wait while one is answered. ``model`` and ``retrieval_model`` are paths or ids of the archive's checkpoints, if
    not those it recorded. ``media_roots`` are the folders, files and address prefixes from which video is read; None
    for those that ``malmm index`` recorded on this machine for the archive.
    """

    archive: str
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    model: str | None = None
    retrieval_model: str | None = None
    max_new_tokens: int = 128
    waiting: int = 8
    media_roots: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.archive:
            raise ConfigError("no archive: give --archive a directory or an s3:// URI")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"--port {self.port}: from 1 to 65535, or 0 for any that is free")
        if self.token is None and not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host} can be reached from other machines, so the page needs a token: set "
                'MALMM_TOKEN="$(openssl rand -hex 24)", or give --token'
            )
        if self.token is not None and (len(self.token) < LEAST_TOKEN or not self.token.isascii()):
            raise ConfigError(
                f"the token is too easy to guess or to mistype: at least {LEAST_TOKEN} plain characters, such as "
                "those of `openssl rand -hex 24`"
            )
        if not 1 <= self.max_new_tokens <= 4096:
            raise ConfigError(f"--max-new-tokens {self.max_new_tokens}: from 1 to 4096")
        if not 0 <= self.waiting <= 1000:
            raise ConfigError(f"--waiting {self.waiting}: from 0 to 1000 questions")
        if self.media_roots is not None:
            MediaRoots(self.media_roots)

    def served_roots(self) -> tuple[str, ...]:
        """The given roots, or those recorded on this machine that a server can read."""
        if self.media_roots is not None:
            return tuple(self.media_roots)
        return tuple(root for root in remembered_roots(resolve(self.archive)) if is_root(root))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach this host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
