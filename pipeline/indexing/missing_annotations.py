"""Find missing annotations: each prompt needs one for every segment and one for every whole video."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import pyarrow as pa

from malmm.operators.plan_segments import segments_of
from malmm.pipeline.archive.predicates import equals
from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.schema.config import SCOPES, Prompt, Recipe
from malmm.pipeline.schema.ids import ONLINE, REPLAY, annotation_id, whole_video_subject
from malmm.pipeline.schema.records import Segment, Video
from malmm.pipeline.schema.rows import TO_REPLAY, Carried, rows_table

__all__ = ["missing_annotations", "something_missing"]

_ROWS_A_BLOCK = 16


def something_missing(archive: ArchiveReader, prompts: Sequence[Prompt]) -> bool:
    """Whether any prompt has fewer texts than there are segments and videos. Counts rows without reading them."""
    owed = archive.count("segments") + archive.count("videos")
    return any(
        archive.count("annotations", equals("prompt_version", prompt.version)) < owed for prompt in prompts
    )


def missing_annotations(
    archive: ArchiveReader,
    prompts: Sequence[Prompt],
    recipe: Recipe,
    *,
    scopes: Collection[str] = SCOPES,
    video_ids: Collection[str] | None = None,
) -> list[pa.Table]:
    """What to replay to fill in missing annotations, as blocks of ``TO_REPLAY``.

    ``scopes`` chooses segments, whole videos or both; ``video_ids`` chooses videos, by default all.

    A segment with a text from the online pass needs no replayed one. Only completed videos (those in ``videos``) are
    considered.
    """
    there = {prompt.version: archive.annotation_ids(prompt_version=prompt.version) for prompt in prompts}

    def lacking(subject: str, modes: tuple[str, ...]) -> list[int]:
        return [
            place
            for place, prompt in enumerate(prompts)
            if not any(
                annotation_id(subject, prompt.version, recipe.model_fingerprint, mode)
                in there[prompt.version]
                for mode in modes
            )
        ]

    segments = defaultdict(list)
    for row in archive.segments().to_pylist():
        segments[row["video_id"]].append(row)
    rows = []
    for video_row in archive.videos().to_pylist():
        fields = {name: video_row[name] for name in Video.__dataclass_fields__}
        video = Video(**fields)
        if video_ids is not None and video.video_id not in video_ids:
            continue
        # A changed video that is not finished has segments of the new content beside the old ones.
        planned = {s.segment_id for s in segments_of(video, recipe.recipe_id, recipe.segment_s, recipe.fps)}
        own = [row for row in segments[video.video_id] if row["segment_id"] in planned]
        subject = whole_video_subject(video.video_id, video.fingerprint, recipe.recipe_id)
        if "video" in scopes and own and (prompts_left := lacking(subject, (REPLAY,))):
            ids = [row["segment_id"] for row in own]
            rows.append(Carried(video, None, None).columns() | {"segment_ids": ids, "prompts": prompts_left})
        for row in own if "segment" in scopes else ():
            if prompts_left := lacking(row["segment_id"], (ONLINE, REPLAY)):
                segment = Segment(
                    segment_id=row["segment_id"],
                    video_id=video.video_id,
                    uri=video.uri,
                    index=row["index"],
                    start_s=row["start_s"],
                    end_s=row["end_s"],
                    is_last=row is own[-1],
                )
                rows.append(
                    Carried(video, segment, None).columns()
                    | {"segment_ids": [segment.segment_id], "prompts": prompts_left}
                )
    return [
        rows_table(rows[begin : begin + _ROWS_A_BLOCK], TO_REPLAY)
        for begin in range(0, len(rows), _ROWS_A_BLOCK)
    ]
