"""The packages that only some commands need, as extras of the distribution, and the sentence for a missing one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["EXTRAS", "needing"]

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
            f"{what} needs {missing}, which is not installed: pip install 'malmm-ray[{extra}]'"
        ) from error
