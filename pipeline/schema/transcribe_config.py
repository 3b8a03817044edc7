"""Settings of a run that stores what is said in videos."""

from __future__ import annotations

import math
from dataclasses import dataclass

from malmm.pipeline.schema.cluster_use import WHOLE_CLUSTER, ClusterUse
from malmm.pipeline.schema.config import check_resources
from malmm.pipeline.schema.errors import ConfigError

__all__ = ["GIVEN_KINDS", "TranscribeConfig"]

GIVEN_KINDS = ("files", "tracks")
"""Subtitles that videos come with: files beside them, and tracks in them."""


@dataclass(frozen=True)
class TranscribeConfig:
    """Which transcripts to store, of which videos. Raises ConfigError for invalid values.

    ``model`` is a Whisper checkpoint that recognises speech, by path or hub id; without it, none is recognised.
    ``language`` is the code of what is spoken; without it, the model finds it. ``given`` has some of ``GIVEN_KINDS``.
    ``where`` is a SQL condition over the columns of ``videos``. ``encoding`` is that of subtitle files that are not
    in Unicode; without it, it is guessed. ``cluster`` is what recognition may use of a cluster. With ``skip_subtitled``
    no speech is recognised in videos that have subtitles, in whatever language.
    """

    archive: str
    given: tuple[str, ...] = GIVEN_KINDS
    model: str = ""
    language: str = ""
    where: str | None = None
    encoding: str = ""
    decode_limit_s: float = 600.0
    resources: tuple[tuple[str, float], ...] = ()
    cluster: ClusterUse = WHOLE_CLUSTER
    dry_run: bool = False
    skip_subtitled: bool = False

    def __post_init__(self) -> None:
        if not self.archive:
            raise ConfigError("no archive: give --archive a directory or an s3:// URI")
        if set(self.given) - set(GIVEN_KINDS):
            raise ConfigError(f"--subtitles {','.join(self.given)!r}: some of {', '.join(GIVEN_KINDS)}")
        if self.language and not self.model:
            raise ConfigError(
                f"--language {self.language!r} needs --model: subtitles say their language by their names"
            )
        if self.skip_subtitled and not self.model:
            raise ConfigError("--skip-subtitled needs --model: without one no speech is recognised anyway")
        if not (math.isfinite(self.decode_limit_s) and self.decode_limit_s > 0):
            raise ConfigError(f"--decode-limit-s {self.decode_limit_s:g}: above 0 seconds")
        check_resources(self.resources)
        if self.where is not None and not self.where.strip():
            raise ConfigError(
                "--where is empty: write a condition such as 'duration_s > 60', or leave it out"
            )
