"""The packages that only some commands need, as extras of the distribution, and the sentence for a missing one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from urllib.parse import urlsplit
from urllib.request import url2pathname

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["EXTRAS", "install_command", "need_speech", "needing"]

#: The import names that each extra brings.
EXTRAS = {
    "serve": ("fastapi", "starlette", "uvicorn"),
    "ray-serve": ("fastapi", "starlette", "uvicorn"),
    "schedule": ("apscheduler",),
    "speech": ("charset_normalizer", "pysubs2"),
    "mcp": ("mcp", "mcp_types", "fastapi", "starlette", "uvicorn"),
    "telemetry": ("openlineage", "opentelemetry"),
    "typed": ("llguidance",),
    "cluster": ("aiohttp", "requests"),
    "finetune": ("peft", "accelerate", "psutil", "tensorboardX", "pandas", "requests"),
    "metrics": ("pycocoevalcap", "pycocotools"),
}


@contextmanager
def needing(extra: str, what: str) -> Iterator[None]:
    """Import in this block what ``what`` (a command, a section of a file) needs of an extra.

    Raises ConfigError, which names the extra, if one of its packages is missing. Other import errors go on.
    """
    try:
        yield
    except ImportError as error:
        missing, names = error.name or "", EXTRAS[extra]
        # Ray Serve adds to the error of any package that it lacks how to install them all.
        ours = any(f"{missing}.".startswith(f"{name}.") for name in names)
        if "ray[serve]" not in str(error) and not ours:
            raise
        raise ConfigError(
            f"{what} needs {missing}, which is not installed: {install_command(extra)}"
        ) from error


def need_speech(what: str) -> None:
    """Raise ConfigError unless what reads subtitle files is installed: child processes need it, hours into a run."""
    with needing("speech", what):
        import charset_normalizer  # noqa: F401
        import pysubs2  # noqa: F401


def install_command(extra: str) -> str:
    """The shell command that installs an extra: from the folder that this was installed from, else by its name."""
    try:
        # By PEP 610 pip notes a folder as such.
        noted = json.loads(distribution("malmm-ray").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        noted = {}
    url, folder = urlsplit(noted.get("url", "")), noted.get("dir_info")
    if folder is None or url.scheme != "file":
        return f"pip install 'malmm-ray[{extra}]'"
    option = "--editable " if folder.get("editable") else ""
    return f"pip install {option}{shlex.quote(f'{url2pathname(url.path)}[{extra}]')}"
