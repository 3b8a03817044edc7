"""The installed version of malmm-ray."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["own_version"]


def own_version() -> str:
    """Return the version of the installed distribution, "unknown" for sources that were never installed."""
    try:
        return version("malmm-ray")
    except PackageNotFoundError:
        return "unknown"
