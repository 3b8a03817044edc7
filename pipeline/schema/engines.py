"""The engine that writes a run's texts, by its name on the command line. It is not part of the recipe."""

from __future__ import annotations

from urllib.parse import urlsplit

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["OWN_ENGINE", "server_of"]

OWN_ENGINE = "transformers"
"""The engine in the workers themselves."""
_VLLM = "vllm="


def server_of(engine: str) -> str:
    """The address of the vLLM server that an engine names; empty for the workers' own. Raises ConfigError."""
    if engine == OWN_ENGINE:
        return ""
    address = engine.removeprefix(_VLLM).rstrip("/")
    parts = urlsplit(address)
    try:
        whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        whole = False
    if not engine.startswith(_VLLM) or not whole or parts.path or parts.query or parts.username:
        raise ConfigError(f"--engine {engine!r}: {OWN_ENGINE}, or vllm=http://HOST:PORT")
    return address
