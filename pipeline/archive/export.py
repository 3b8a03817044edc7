"""Export of annotations: as one file of rows, or as a caption file for each video."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from malmm.pipeline.archive.filters import scope_of
from malmm.pipeline.archive.joined import members_of, open_archives
from malmm.pipeline.archive.label_exports import REVIEWED_COLUMNS, fiftyone, label_studio, reviewed_rows
from malmm.pipeline.archive.members import LeftOut
from malmm.pipeline.archive.moment_words import is_list_of_moments, words_of
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.archive.reviews import newest_reviews
from malmm.pipeline.archive.shards import export_shards
from malmm.pipeline.archive.video_selection import select_videos
from malmm.pipeline.schema.config import CAPTION, SCOPES, ExportConfig
from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.schema.exit_codes import EXIT_OK, EXIT_SOME_FAILED
from malmm.pipeline.schema.ids import moments_version
from malmm.pipeline.schema.tables import GIVEN_TASKS, MOMENT
from malmm.pipeline.sources.left_out import LeftOutVideos, read_left_out

__all__ = [
    "CAPTION_FORMATS",
    "LABEL_FORMATS",
    "ROW_FORMATS",
    "ExportReport",
    "caption_file",
    "export",
    "export_captions",
    "export_rows",
    "texts_of",
    "without",
]

ROW_FORMATS = ("jsonl", "csv", "parquet")
LABEL_FORMATS = ("label-studio", "fiftyone", "reviewed-csv")
CAPTION_FORMATS = ("vtt", "srt")
_LONGEST_STEM = 200
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class ExportReport:
    """Result: the number of texts and the files written, or the rows as ``text`` if no file was named.

    ``left_out`` are those of several archives that could not be read.
    """

    archive: str
    texts: int
    files: tuple[str, ...] = ()
    text: str | None = None
    exit_code: int = EXIT_OK
    left_out: tuple[LeftOut, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return asdict(self)


def export(config: ExportConfig) -> ExportReport:
    """Write the annotations that ``config`` selects.

    Raises ConfigError for an unknown prompt or video and for an output that cannot be written, and ArchiveError.
    """
    archive = open_archives(config.archive)
    members = members_of(archive)
    left_out = () if members is None else members.left_out
    texts = texts_of(
        archive,
        prompts=config.prompts or ((CAPTION.name,) if config.is_captions else ()),
        videos=config.videos,
        # Texts of whole videos are no captions.
        scopes=("segment", "span") if config.is_captions else (*SCOPES, "span"),
        all_versions=config.all_versions,
        where=config.where,
    )
    if config.is_captions or config.format in LABEL_FORMATS:
        # Each record of a list has a row of its own, and people look at them one by one.
        empty = ("[]",) if config.is_captions else ()
        rows = texts.select(["task", "text"]).to_pylist()
        keep = [not (is_list_of_moments(row) or row["text"] in empty) for row in rows]
        texts = texts.filter(pa.array(keep, pa.bool_()))
    if config.leave_out:
        texts = without(texts, read_left_out(config.leave_out))
    output = Path(config.output) if config.output else None
    try:
        if config.is_captions and output is not None:
            paths = export_captions(texts, config.format, output)
            return ExportReport(
                archive.root,
                texts.num_rows,
                tuple(str(path) for path in paths),
                exit_code=EXIT_SOME_FAILED if left_out else EXIT_OK,
                left_out=left_out,
            )
        if config.format == "webdataset" and output is not None:
            shards = export_shards(archive, texts.to_pylist(), newest_reviews(archive), output)
            return ExportReport(
                archive.root,
                texts.num_rows,
                tuple(str(path) for path in shards),
                exit_code=EXIT_SOME_FAILED if left_out else EXIT_OK,
                left_out=left_out,
            )
        if config.format in LABEL_FORMATS:
            text = _labelled(archive, texts, config.format, output)
        else:
            text = export_rows(texts, config.format, output)
    except OSError as error:
        raise ConfigError(f"cannot write {config.output}: {error.strerror or error}") from error
    return ExportReport(
        archive.root,
        texts.num_rows,
        (str(output),) if output else (),
        text,
        exit_code=EXIT_SOME_FAILED if left_out else EXIT_OK,
        left_out=left_out,
    )


def _labelled(archive: ArchiveReader, texts: pa.Table, format: str, output: Path | None) -> str | None:
    """Write texts, with what people said of them, in another program's format; return it if there is no ``output``."""
    rows, reviews = texts.to_pylist(), newest_reviews(archive)
    if format == "label-studio":
        text = label_studio(archive, rows, reviews)
    elif format == "fiftyone":
        text = fiftyone(rows, reviews)
    else:
        text = _reviewed_csv(reviewed_rows(archive, reviews, rows))
    if output is None:
        return text
    output.write_text(text, encoding="utf-8", newline="")
    return None


def _reviewed_csv(rows: Iterable[Sequence[Any]]) -> str:
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(REVIEWED_COLUMNS)
    for row in rows:
        writer.writerow([_no_formula(value) for value in row])
    return written.getvalue()


def texts_of(
    archive: ArchiveReader,
    *,
    prompts: Sequence[str] = (),
    videos: Sequence[str] = (),
    scopes: Sequence[str] = (*SCOPES, "span"),
    all_versions: bool = False,
    where: str | None = None,
) -> pa.Table:
    """Annotations of completed videos with columns ``uri`` and ``video_start_s``, ordered by URI and time; of several
    archives also with ``archive``, the name of each row's.

    ``prompts`` are names, by default all, and ``transcript`` for what is said; ``videos`` as ``select_videos`` takes
    them. ``scopes`` may have ``segment``, ``video``, and ``span`` for texts with a span of their own. Only the latest
    version of a prompt is exported, unless ``all_versions``. ``where`` is a filter (``filters``) that the text's video,
    segment and span have to pass. Raises ConfigError for an unknown prompt or video.
    """
    chosen = select_videos(archive, videos)
    within = scope_of(archive, where)
    known = archive.prompt_versions()
    names = {row["prompt_name"] for row in known} | archive.tracks.names()
    unknown = sorted(set(prompts) - names)
    if unknown:
        there = ", ".join(sorted(names)) or "none"
        raise ConfigError(f"the archive has no texts of a prompt {unknown[0]!r}: it has {there}")
    latest: dict[str, str] = {}
    for row in known:
        latest.setdefault(row["prompt_name"], row["prompt_version"])
    about = {row["video_id"]: row for row in chosen.select(["video_id", "uri", "start_s"]).to_pylist()}
    table = archive.annotations()
    columns = [
        *("annotation_id", "video_id", "segment_id", "start_s", "end_s"),
        *("task", "prompt_name", "prompt_version"),
    ]
    keep = [
        row["video_id"] in about
        and (not prompts or row["prompt_name"] in prompts)
        and (all_versions or _is_latest(row, latest.get(row["prompt_name"], "")))
        and _scope(row) in scopes
        and within.holds(row)
        for row in table.select(columns).to_pylist()
    ]
    table = table.filter(pa.array(keep, pa.bool_()))
    videos_of = [about[video] for video in table["video_id"].to_pylist()]
    table = table.add_column(0, "uri", pa.array([video["uri"] for video in videos_of], pa.string()))
    starts = pa.array([video["start_s"] for video in videos_of], pa.float64())
    if members_of(archive) is not None:
        homes_of = archive.names_of(about)
        homes = pa.array([homes_of[video] for video in table["video_id"].to_pylist()], pa.string())
        table = table.append_column("archive", homes)
    return table.add_column(1, "video_start_s", starts).sort_by(
        [("uri", "ascending"), ("start_s", "ascending"), ("end_s", "ascending"), ("prompt_name", "ascending")]
    )


def _is_latest(row: dict[str, Any], latest: str) -> bool:
    """Whether a text is of its prompt's ``latest`` version. Texts without a prompt have none."""
    if row["task"] == MOMENT:
        return bool(row["prompt_version"] == moments_version(latest))
    return _scope(row) == "span" or row["prompt_version"] == latest


def _scope(row: dict[str, Any]) -> str:
    if row["task"] in GIVEN_TASKS:
        return "span"
    return "video" if row["segment_id"] is None else "segment"


def without(texts: pa.Table, left_out: LeftOutVideos) -> pa.Table:
    """The texts of which less than half is left out, by their seconds."""
    rows = texts.select(["uri", "start_s", "end_s"]).to_pylist()
    return texts.filter(pa.array([not left_out.covers(**row) for row in rows], pa.bool_()))


def export_rows(texts: pa.Table, format: str, output: Path | None) -> str | None:
    """Write rows to a file, or return them as text if there is no ``output``.

    Raises ConfigError for Parquet without a file, and OSError.
    """
    if format == "parquet":
        if output is None:
            raise ConfigError("--format parquet is not for a terminal: name a file with --output")
        pq.write_table(texts, output)
        return None
    text = "".join(_json_lines(texts)) if format == "jsonl" else _csv(texts)
    if output is None:
        return text
    output.write_text(text, encoding="utf-8", newline="")
    return None


def export_captions(texts: pa.Table, format: str, folder: Path) -> list[Path]:
    """Write a caption file for each video of ``texts`` and return their paths. Raises OSError.

    A file has the name of its video; if two videos have the same name, also their ids. A transcript has a file of its
    own, with its language in the name. Timed records are written in words.
    """
    by_video: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for each in texts.to_pylist():
        row = each | {"text": words_of(each)}
        track = row["prompt_version"] if _scope(row) == "span" else ""
        by_video.setdefault((row["video_id"], row["uri"]), {}).setdefault(track, []).append(row)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, tracks in zip(_file_names(list(by_video)), by_video.values(), strict=True):
        for ending, rows in zip(_track_endings(tracks), tracks.values(), strict=True):
            path = folder / f"{name}{ending}.{format}"
            path.write_text(caption_file(rows, format), encoding="utf-8")
            written.append(path)
    return written


def _track_endings(tracks: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What follows the name of the video in each track's file name, each once."""
    languages = [rows[0]["language"] or "" if track else "" for track, rows in tracks.items()]
    endings = [f".{re.sub('[^A-Za-z0-9-]', '', language)}" if language else "" for language in languages]
    times = Counter(endings)
    return [
        f".{track}{ending}" if track and times[ending] > 1 else ending
        for track, ending in zip(tracks, endings, strict=True)
    ]


def _file_names(videos: Sequence[tuple[str, str]]) -> list[str]:
    """A unique file name for each video (id, URI), also on file systems that ignore case."""
    stems = [Path(uri).stem.replace("\0", "") or video for video, uri in videos]
    # Cut by bytes, as file systems limit names; leaves room for the id and the ending.
    stems = [stem.encode(errors="replace")[:_LONGEST_STEM].decode(errors="ignore") for stem in stems]
    times = Counter(stem.casefold() for stem in stems)
    return [
        f"{stem}-{video}" if times[stem.casefold()] > 1 else stem
        for stem, (video, _) in zip(stems, videos, strict=True)
    ]


def caption_file(rows: Iterable[dict[str, Any]], format: str) -> str:
    """Texts as WebVTT or SubRip, one cue a text. Times count from the video's first frame, as players count.

    A speaker is named before the text. Escapes characters that WebVTT would read as markup, and ``-->`` in SubRip.
    """
    cues = []
    for row in sorted(rows, key=lambda row: (row["start_s"], row["end_s"])):
        text = " ".join(row["text"].split())
        begin, end = (max(0.0, row[name] - row["video_start_s"]) for name in ("start_s", "end_s"))
        if not text or end <= begin:
            continue
        speaker = " ".join((row.get("speaker") or "").split())
        if format == "vtt":
            said = html.escape(text, quote=False)
            if speaker:
                said = f"<v {html.escape(speaker, quote=False)}>{said}"
            cues.append(f"{_time(begin, '.')} --> {_time(end, '.')}\n{said}\n")
        else:
            spelled = (f"{speaker}: {text}" if speaker else text).replace("-->", "→")
            cues.append(f"{len(cues) + 1}\n{_time(begin, ',')} --> {_time(end, ',')}\n{spelled}\n")
    head = ["WEBVTT\n"] if format == "vtt" else []
    return "\n".join([*head, *cues])


def _time(seconds: float, point: str) -> str:
    whole, rest = divmod(round(seconds * 1000), 1000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02d}:{minute:02d}:{second:02d}{point}{rest:03d}"


def _json_lines(texts: pa.Table) -> Iterator[str]:
    for row in texts.to_pylist():
        yield json.dumps(row, default=lambda value: value.isoformat(), ensure_ascii=False) + "\n"


def _csv(texts: pa.Table) -> str:
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(texts.column_names)
    for row in texts.to_pylist():
        scores = row["label_scores"]
        by_label = None if scores is None else {each["label"]: each["score"] for each in scores}
        row["label_scores"] = None if by_label is None else json.dumps(by_label)
        row["created_at"] = row["created_at"].isoformat()
        writer.writerow([_no_formula(value) for value in row.values()])
    return written.getvalue()


def _no_formula(value: Any) -> Any:
    """A text that a spreadsheet would compute, made one that it shows: with an apostrophe before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value
