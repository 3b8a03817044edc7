"""Open a video at a second in a player that is installed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["open_in", "player", "player_command"]

# How each player is given the second to begin at, counted from the video's first.
_PLAYERS = {"mpv": "--start={:.3f}", "vlc": "--start-time={:.3f}"}


def player() -> str:
    """The path of an installed player, mpv before VLC. Raises ConfigError where neither is."""
    for name in _PLAYERS:
        found = shutil.which(name)
        if found is not None:
            return found
    raise ConfigError(
        "--open needs a player, and neither mpv nor vlc is on the PATH: install one, or watch on the page of "
        "`malmm serve`"
    )


def player_command(path: str, uri: str, at_s: float) -> list[str]:
    """The arguments that have a player open a video ``at_s`` seconds after its first picture.

    A row of an archive says where the video lies, and anybody may have written it: only files that are there and
    addresses of the web are opened. Raises ConfigError for others.
    """
    if not uri.startswith(("http://", "https://")) and not (uri.startswith("/") and Path(uri).is_file()):
        raise ConfigError(
            f"{uri} is not a file of this machine or an http address, which is all that is opened in a player: watch "
            "it on the page of `malmm serve`"
        )
    return [path, _PLAYERS[Path(path).name].format(max(0.0, at_s)), "--", uri]


def open_in(path: str, uri: str, at_s: float) -> subprocess.Popen[bytes]:
    """Start the player, which goes on when this process ends.

    Raises ConfigError for a video that it is not to open, and for a player that cannot be started.
    """
    command = player_command(path, uri, at_s)
    try:
        return subprocess.Popen(  # noqa: S603  # no shell, and the path is `player`'s
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise ConfigError(f"cannot start {path}: {error.strerror}") from error
