"""The package that is running, as a wheel, wherever it was installed from."""

from __future__ import annotations

import base64
import hashlib
import importlib
import importlib.metadata
import zipfile
from pathlib import Path

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["write_wheel"]

_PACKAGES = ("pipeline", "operators", "model", "jobs")
# The same content makes the same file, which Ray then stores once.
_TIME = (2020, 1, 1, 0, 0, 0)


def write_wheel(folder: Path) -> Path:
    """Write a wheel of the modules that this process has, and give its path. Raises ConfigError.

    It names no dependencies: Ray installs it for a job with all it names, and the workers' image has them.
    """
    try:
        version = importlib.metadata.version("malmm-ray")
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError("malmm-ray is not installed here: install it, or give --wheel") from error
    info = f"malmm_ray-{version}.dist-info"
    files = {
        f"malmm/{name}/{path.relative_to(root).as_posix()}": path.read_bytes()
        for name in _PACKAGES
        for root in _roots(name)
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: malmm-ray\nVersion: {version}\n".encode()
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: malmm-ray\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = "".join(f"{name},sha256={_digest(data)},{len(data)}\n" for name, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    wheel = folder / f"malmm_ray-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as written:
        for name, data in files.items():
            written.writestr(zipfile.ZipInfo(name, _TIME), data, zipfile.ZIP_DEFLATED)
    return wheel


def _roots(package: str) -> list[Path]:
    return [Path(place) for place in importlib.import_module(f"malmm.{package}").__path__]


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
