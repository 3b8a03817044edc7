"""Settings of a run that gives an archive another retrieval model."""

from __future__ import annotations

from dataclasses import dataclass

from malmm.pipeline.schema.errors import ConfigError

__all__ = ["REEMBED_SOURCES", "ReembedConfig"]

REEMBED_SOURCES = ("auto", "tokens", "thumbnails", "frames")


@dataclass(frozen=True)
class ReembedConfig:
    """Settings of a run that replaces an archive's vectors by another retrieval model's. Raises ConfigError.

    ``source`` is what vectors are made from; ``auto`` is stored tokens if the retrieval model reads them, else stored
    thumbnails. ``model`` is where the archive's model is, if it has moved.
    """

    archive: str
    retrieval_model: str
    source: str = "auto"
    model: str = ""

    def __post_init__(self) -> None:
        if not self.archive:
            raise ConfigError("no archive: give --archive a directory or an s3:// URI")
        if not self.retrieval_model or self.retrieval_model == "none":
            raise ConfigError("no retrieval model: give --retrieval-model a directory or a hub id")
        if self.source not in REEMBED_SOURCES:
            raise ConfigError(f"--from {self.source!r}: one of {', '.join(REEMBED_SOURCES)}")
