"""Access tokens: each may carry a name and a right, so that it is known who reviewed what."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["LEAST_TOKEN", "LOCAL", "RIGHTS", "Access", "check_token", "read_access"]

LEAST_TOKEN = 16
"""Minimum length of a token in characters."""
RIGHTS = ("read", "review")
"""``read``: search, watch, ask. ``review``: also say whether texts are right, and correct them."""

_NAME = re.compile(r"[\w][\w.@ -]{0,63}")


@dataclass(frozen=True)
class Access:
    """What a token allows, and to whom. Raises ConfigError."""

    name: str
    right: str = "read"
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"the name {self.name!r} of a token is not usable: up to 64 letters, digits, '.', '@', '-'"
            )
        if self.right not in RIGHTS:
            raise ConfigError(f"the right {self.right!r} of {self.name}'s token: one of {', '.join(RIGHTS)}")

    @property
    def may_review(self) -> bool:
        """Whether reviews are taken."""
        return self.right == "review"


#: Who comes in where no token is needed: somebody on this machine.
LOCAL = Access("local", "review")


def check_token(token: str) -> None:
    """Raise ConfigError for a token that is easy to guess or mistype."""
    if len(token) < LEAST_TOKEN or not token.isascii():
        raise ConfigError(
            f"the token is too easy to guess or to mistype: at least {LEAST_TOKEN} plain characters, such as "
            "those of `openssl rand -hex 24`"
        )


def read_access(path: Path) -> tuple[Access, ...]:
    """Read a file of tokens: on each line a name, a right and a token; lines that begin with # are notes.

    Raises ConfigError, with the line, for a file that cannot be read or a line that is something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the tokens in {path}: {error}") from error
    found: list[Access] = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 3:
            raise ConfigError(
                f"{path}, line {number}: write a name, a right ({' or '.join(RIGHTS)}) and a token"
            )
        try:
            check_token(words[2])
            found.append(Access(*words))
        except ConfigError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from error
        if words[0] in [each.name for each in found[:-1]] or words[2] in [each.token for each in found[:-1]]:
            raise ConfigError(f"{path}, line {number}: this name or token is given twice")
    if not found:
        raise ConfigError(f"{path} holds no token: write lines of a name, a right and a token")
    return tuple(found)
