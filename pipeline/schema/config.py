"""Settings of runs: the recipe, and the options of each kind of run."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace

from malmm.pipeline.schema.cluster_use import WHOLE_CLUSTER, ClusterUse
from malmm.pipeline.schema.decoding import TextSettings
from malmm.pipeline.schema.engines import OWN_ENGINE, server_of
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.partition import Partition
from malmm.pipeline.schema.prompts import CAPTION, Prompt
from malmm.pipeline.schema.stable_ids import stable_id

__all__ = [
    "CAPTION",
    "EXPORT_FORMATS",
    "MERGE_POLICIES",
    "RESOURCES",
    "SAMPLINGS",
    "SCOPES",
    "SUBTITLES_ONLY",
    "TOKENS",
    "AnnotateConfig",
    "ExportConfig",
    "IndexConfig",
    "OptimizeConfig",
    "Prompt",
    "Recipe",
    "check_resources",
    "stable_id",
]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a stored row contains, except prompts: each annotation has its prompt's version, and
    new prompts can be answered from stored memory."""

    model: str
    model_fingerprint: str
    retrieval_model: str
    retrieval_fingerprint: str
    fps: float
    segment_s: float
    bank_length: int
    merge_policy: str
    image_size: int
    sampling: str = "rate"
    min_segment_s: float = 0.0
    token_layers: int = 1
    decoding: str = ""
    tokens: str = "float16"
    indexed_with: str = ""
    stages: str = ""

    @property
    def recipe_id(self) -> str:
        """The hash of all fields but the checkpoints' names."""
        # A checkpoint's path or id does not change what it computes, so both names stay out of the hash.
        content = self._content()
        del content["model"], content["retrieval_model"]
        # Rows keep their ids when their vectors are made anew.
        content["retrieval_fingerprint"] = content.pop("indexed_with", self.retrieval_fingerprint)
        return stable_id(json.dumps(content, sort_keys=True))

    def _content(self) -> dict[str, object]:
        """All fields, but one added after 0.1 only if it differs from what 0.1 did: ids of 0.1 stay as they are."""
        content = asdict(self)
        for added in ADDED_FIELDS:
            if content[added.name] == added.default:
                del content[added.name]
        return content

    def to_json(self) -> str:
        """The recipe as a JSON object."""
        return json.dumps(self._content(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read a recipe written by ``to_json``."""
        return cls(**json.loads(text))

    def differences(self, other: Recipe) -> list[tuple[str, str, str]]:
        """Fields in which two recipes differ: (name, this recipe's value, the other's value)."""
        mine, theirs = asdict(self), asdict(other)
        return [
            (name, str(mine[name]), str(theirs[name]))
            for name in mine
            if name not in ("model", "retrieval_model", "indexed_with") and mine[name] != theirs[name]
        ]

    @property
    def tower_id(self) -> str:
        """The hash of what decides the vectors of slots alone."""
        return stable_id("tower", self.retrieval_fingerprint)

    def takes(self, asked: Recipe) -> bool:
        """Whether rows made with the recipe ``asked`` can be added to rows of this one."""
        same = replace(asked, indexed_with=self.indexed_with)
        return self.recipe_id == same.recipe_id and self.tower_id == asked.tower_id


#: Fields that are not in recipes of 0.1, with what it did as their default.
ADDED_FIELDS = tuple(
    field
    for field in fields(Recipe)
    if field.name in ("token_layers", "decoding", "tokens", "indexed_with", "stages")
)

MERGE_POLICIES = ("token", "frame", "fifo", "average", "episode")
# What a run uses of its cluster: the workers of each stage, and what each worker reserves.
RESOURCES = (
    "decode_workers",
    "decode_cpus",
    "encode_workers",
    "encode_cpus",
    "encode_gpus",
    "generate_workers",
    "generate_cpus",
    "generate_gpus",
)
SCOPES = ("segment", "video")
TOKENS = ("float16", "int8")
SAMPLINGS = ("rate", "keyframes", "count")
SUBTITLES_ONLY = "subtitles"
"""In place of a Whisper checkpoint's name: recognise no speech."""
EXPORT_FORMATS = (
    "jsonl",
    "csv",
    "parquet",
    "vtt",
    "srt",
    "label-studio",
    "fiftyone",
    "webdataset",
    "reviewed-csv",
)


@dataclass(frozen=True)
class IndexConfig:
    """Settings of an indexing run. Raises ConfigError for invalid values.

    If ``min_segment_s`` is not 0, segments are cut at scene changes and last from ``min_segment_s`` to ``segment_s``;
    otherwise all last ``segment_s``. Without a ``model``, it is the archive's own or, for a new archive, one that
    fits the workers. ``sampling`` chooses the frames: ``rate``, one every 1 / ``fps`` seconds; ``keyframes``, key
    frames only and no more than that; ``count``, ``fps`` x ``segment_s`` of every segment, however short. ``tokens``
    is the type of stored tokens: ``float16``, or ``int8`` with a scale for each token. ``limit`` is the largest
    number of videos to start; ``prune`` deletes videos whose file is gone; ``retry`` retries files that were given
    up; ``dry_run`` reports what would be done and changes nothing; ``reindex`` indexes an archive again with another
    recipe, beside the rows it has. ``leave_out`` is a list of videos that are not indexed, whatever the sources list;
    with ``prune`` they are deleted. ``transcribe`` is a Whisper checkpoint with which what is said is stored too,
    after the subtitles that videos come with, or ``subtitles`` for these alone; with ``skip_subtitled`` videos that
    have subtitles are left to them. ``compile`` compiles the vision encoder, which changes speed and rounding (as
    another device does) but not the recipe. ``texts`` are the settings of generation, and ``engine`` is what writes
    them: ``transformers``, or ``vllm=http://HOST:PORT``. ``partition`` is the share of the sources that the run
    indexes, into an archive of its own below the address of all partitions. ``resources`` are (name, value) pairs with
    names from ``RESOURCES``; they override what
    is chosen from the cluster's size. ``cluster`` is what the run may use of it.
    """

    sources: tuple[str, ...]
    archive: str
    model: str = ""
    retrieval_model: str | None = None
    fps: float = 1.0
    sampling: str = "rate"
    segment_s: float = 100.0
    min_segment_s: float = 0.0
    bank_length: int = 20
    merge_policy: str = "token"
    tokens: str = "float16"
    prompts: tuple[Prompt, ...] = field(default=())
    decoder: str = "av"
    decode_limit_s: float = 600.0
    batch_segments: int = 4
    max_new_tokens: int = 128
    texts: TextSettings = field(default_factory=TextSettings)
    engine: str = OWN_ENGINE
    compile: bool = False
    resources: tuple[tuple[str, float], ...] = ()
    cluster: ClusterUse = WHOLE_CLUSTER
    limit: int | None = None
    prune: bool = False
    retry: bool = False
    dry_run: bool = False
    reindex: bool = False
    transcribe: str = ""
    skip_subtitled: bool = False
    leave_out: str | None = None
    partition: Partition | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("no sources: name at least one video, directory or glob")
        if not self.archive:
            raise ConfigError("no archive: give --archive a directory or an s3:// URI")
        if self.partition is not None:
            self.partition.parent_of(self.archive)
            if self.reindex:
                raise ConfigError(
                    "--reindex: the recipe of an archive in partitions is fixed; index into another --archive"
                )
        if not (math.isfinite(self.fps) and 0 < self.fps <= 1000):
            raise ConfigError(f"--fps {self.fps:g}: sampled frames a second must be above 0 and at most 1000")
        if not (math.isfinite(self.segment_s) and self.segment_s > 0):
            raise ConfigError(f"--segment-s {self.segment_s:g}: a segment must be longer than 0 seconds")
        if self.segment_s * self.fps < 1:
            raise ConfigError(
                f"--segment-s {self.segment_s:g} at --fps {self.fps:g} is less than one frame a segment: "
                f"use segments of at least {1 / self.fps:g} s or a higher rate"
            )
        if self.segment_s * self.fps > 20_000:
            raise ConfigError(
                f"--segment-s {self.segment_s:g} at --fps {self.fps:g} is {self.segment_s * self.fps:.0f} frames a "
                "segment, which are held in memory at once: at most 20000"
            )
        if self.min_segment_s and not (
            math.isfinite(self.min_segment_s) and 1 / self.fps <= self.min_segment_s <= self.segment_s / 2
        ):
            raise ConfigError(
                f"--min-segment-s {self.min_segment_s:g}: at least one frame ({1 / self.fps:g} s) and at most half of "
                f"--segment-s ({self.segment_s / 2:g} s)"
            )
        if self.sampling not in SAMPLINGS:
            raise ConfigError(f"--sampling {self.sampling!r}: one of {', '.join(SAMPLINGS)}")
        if self.sampling == "keyframes" and self.decoder == "decord":
            raise ConfigError(
                "--sampling keyframes needs --decoder av: decord cannot decode key frames alone"
            )
        if not 1 <= self.bank_length <= 1000:
            raise ConfigError(f"--bank-length {self.bank_length}: from 1 to 1000 slots")
        if self.merge_policy not in MERGE_POLICIES:
            raise ConfigError(f"--merge-policy {self.merge_policy!r}: one of {', '.join(MERGE_POLICIES)}")
        if self.tokens not in TOKENS:
            raise ConfigError(f"--tokens {self.tokens!r}: one of {', '.join(TOKENS)}")
        if self.decoder not in ("av", "decord"):
            raise ConfigError(f"--decoder {self.decoder!r}: av or decord")
        if not (math.isfinite(self.decode_limit_s) and self.decode_limit_s > 0):
            raise ConfigError(f"--decode-limit-s {self.decode_limit_s:g}: above 0 seconds")
        if self.batch_segments < 1:
            raise ConfigError(f"--batch-segments {self.batch_segments}: at least 1")
        if self.max_new_tokens < 1:
            raise ConfigError(f"--max-new-tokens {self.max_new_tokens}: at least 1")
        if self.texts.min_new_tokens > self.max_new_tokens:
            raise ConfigError(
                f"--min-new-tokens {self.texts.min_new_tokens}: at most --max-new-tokens, {self.max_new_tokens}"
            )
        server_of(self.engine)
        check_resources(self.resources)
        if self.skip_subtitled and self.transcribe in ("", SUBTITLES_ONLY):
            raise ConfigError("--skip-subtitled needs --transcribe with a Whisper checkpoint")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit {self.limit}: at least 1 video")
        _check_names(self.all_prompts)

    @property
    def all_prompts(self) -> tuple[Prompt, ...]:
        """The caption prompt and then the user's prompts; a user's prompt named ``caption`` replaces it."""
        if any(prompt.name == CAPTION.name for prompt in self.prompts):
            return self.prompts
        return (CAPTION, *self.prompts)


@dataclass(frozen=True)
class AnnotateConfig:
    """Settings of a run that answers prompts from stored memory. Raises ConfigError for invalid values.

    ``scopes`` chooses what gets a text: each segment, each whole video, or both. ``where`` is a SQL condition over the
    columns of ``videos``. ``new_versions`` allows prompts whose name has another text in the archive. ``model`` is the
    path or id of the archive's model, if not the recorded one. ``engine`` is as that of ``IndexConfig``.
    """

    archive: str
    prompts: tuple[Prompt, ...]
    scopes: tuple[str, ...] = SCOPES
    where: str | None = None
    new_versions: bool = False
    model: str = ""
    batch_segments: int = 4
    max_new_tokens: int = 128
    engine: str = OWN_ENGINE
    resources: tuple[tuple[str, float], ...] = ()
    cluster: ClusterUse = WHOLE_CLUSTER
    dry_run: bool = False

    def __post_init__(self) -> None:
        if not self.archive:
            raise ConfigError("no archive: give --archive a directory or an s3:// URI")
        if not self.prompts:
            raise ConfigError("no prompt: write --prompt NAME='TEXT'")
        if not self.scopes or set(self.scopes) - set(SCOPES):
            raise ConfigError(f"--scope {','.join(self.scopes)!r}: one or both of {', '.join(SCOPES)}")
        if self.where is not None and not self.where.strip():
            raise ConfigError(
                "--where is empty: write a condition such as 'duration_s > 60', or leave it out"
            )
        if self.batch_segments < 1:
            raise ConfigError(f"--batch-segments {self.batch_segments}: at least 1")
        if self.max_new_tokens < 1:
            raise ConfigError(f"--max-new-tokens {self.max_new_tokens}: at least 1")
        server_of(self.engine)
        check_resources(self.resources)
        _check_names(self.prompts)

    @property
    def all_prompts(self) -> tuple[Prompt, ...]:
        """The prompts, by the name that ``IndexConfig`` uses."""
        return self.prompts


@dataclass(frozen=True)
class OptimizeConfig:
    """Settings of a run that merges small files and updates indexes. Raises ConfigError."""

    archive: str

    def __post_init__(self) -> None:
        if not self.archive:
            raise ConfigError("no archive: give --archive a directory or an s3:// URI")


@dataclass(frozen=True)
class ExportConfig:
    """Which annotations to export, in which format, and where to. Raises ConfigError for invalid values.

    ``output`` is a file, or a folder for captions; without it rows are returned as text. ``prompts`` are names, empty
    for all (for caption formats: the prompt ``caption``); ``videos`` are ids or globs. ``all_versions`` exports all
    versions of each prompt instead of the latest. ``where`` is a filter of texts, as ``archive.filters`` describes.
    ``archive`` are several addresses, globs and catalogs to export from several archives as one.
    ``leave_out`` is a list of videos and spans whose texts are not exported.
    """

    archive: str | tuple[str, ...]
    format: str
    output: str | None = None
    prompts: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    all_versions: bool = False
    where: str | None = None
    leave_out: str | None = None

    def __post_init__(self) -> None:
        if not self.archive:
            raise ConfigError("no archive: give --archive a directory or an s3:// URI")
        if self.format not in EXPORT_FORMATS:
            raise ConfigError(f"--format {self.format!r}: one of {', '.join(EXPORT_FORMATS)}")
        if self.is_captions and not self.output:
            raise ConfigError(f"--format {self.format} writes a file a video: name a folder with --output")
        if self.format == "webdataset" and not self.output:
            raise ConfigError("--format webdataset writes tar files: name a folder with --output")
        if self.format == "parquet" and not self.output:
            raise ConfigError("--format parquet is not for a terminal: name a file with --output")

    @property
    def is_captions(self) -> bool:
        """Whether the format is one of captions: a file a video."""
        return self.format in ("vtt", "srt")


def check_resources(resources: tuple[tuple[str, float], ...]) -> None:
    """Raise ConfigError for a resource that there is not, or a value that it cannot have."""
    for name, value in resources:
        if name not in RESOURCES:
            raise ConfigError(f"--resource {name}={value:g}: one of {', '.join(RESOURCES)}")
        if (
            not math.isfinite(value)
            or value < 0
            or (name.endswith("_workers") and value not in range(1, 10**6))
        ):
            what = "a whole number, at least 1" if name.endswith("_workers") else "0 or more"
            raise ConfigError(f"--resource {name}={value:g}: {what}")


def _check_names(prompts: tuple[Prompt, ...]) -> None:
    names = [prompt.name for prompt in prompts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"prompt {twice[0]!r} is given twice: each prompt needs a name of its own")
