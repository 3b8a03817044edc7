"""Routes to browse an archive: videos, segments, memory slots, texts, failures, thumbnails and video files."""

from __future__ import annotations

from typing import Annotated, Any

import pyarrow.compute as pc
from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from malmm.pipeline.archive.export import caption_file
from malmm.pipeline.archive.tracks import StoredTrack
from malmm.pipeline.schema.config import CAPTION
from malmm.pipeline.schema.tables import GIVEN_TASKS
from malmm.pipeline.web.api.problems import NotThere, documented
from malmm.pipeline.web.api.reindex_retry import renewing
from malmm.pipeline.web.api.response_models import (
    Annotation,
    Failed,
    MemorySlot,
    Overview,
    SegmentRow,
    TranscriptTrack,
    VideoPage,
    VideoRow,
)
from malmm.pipeline.web.api.written_times import WrittenTime
from malmm.pipeline.web.display_names import name_of
from malmm.pipeline.web.media import media_response, open_source
from malmm.pipeline.web.settings import MOST_RESULTS
from malmm.pipeline.web.state.overview import failed_rows, overview
from malmm.pipeline.web.state.shared_state import Site
from malmm.pipeline.web.state.videos import Chosen

__all__ = ["browsing_routes"]

VideoId = Annotated[str, Path(pattern="^[0-9a-f]{24}$", description="a video's id")]
MemoryId = Annotated[str, Path(pattern="^[0-9a-f]{24}-[0-9]{4,6}$", description="a memory slot's id")]
TrackId = Annotated[str, Path(pattern="^[0-9a-f]{24}$", description="a transcript's id")]
_JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
}
_BYTES = {"content": {"video/*": {"schema": {"type": "string", "format": "binary"}}}}


def browsing_routes(site: Site) -> APIRouter:
    """The routes of one archive."""
    routes = APIRouter(
        prefix="/api", responses=documented(401, 403, 422, 503), route_class=renewing(site.live)
    )

    @routes.get("/archive", tags=["archive"])
    def get_archive() -> Overview:
        """Size, growth, jobs and failures of the archive."""
        return overview(site.live, site.videos, site.storage, site.media_roots)

    @routes.get("/videos", tags=["videos"])
    def list_videos(
        text: Annotated[str, Query(max_length=200, description="part of the name")] = "",
        since: Annotated[WrittenTime | None, Query(description="indexed then or later")] = None,
        until: Annotated[WrittenTime | None, Query(description="indexed before")] = None,
        where: Annotated[
            str | None,
            Query(min_length=1, max_length=2000, description="a filter, as docs/filters.md describes"),
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_RESULTS)] = 50,
        cursor: Annotated[int, Query(ge=0, le=10**9)] = 0,
    ) -> VideoPage:
        """Videos, latest first."""
        return site.videos.page(Chosen(text=text, since=since, until=until, where=where), cursor, limit)

    @routes.get("/videos/{video_id}", tags=["videos"], responses=documented(404))
    def get_video(video_id: VideoId) -> VideoRow:
        """One video."""
        return site.videos.one(video_id)

    @routes.get("/videos/{video_id}/segments", tags=["videos"], responses=documented(404))
    def list_segments(video_id: VideoId) -> list[SegmentRow]:
        """A video's segments in time order, with their captions."""
        site.videos.row(video_id)
        reader = site.live.reader
        rows = reader.segments(video_id).to_pylist()
        captions = reader.texts_of([row["segment_id"] for row in rows], CAPTION.name)
        fields = SegmentRow.model_fields.keys()
        return [
            SegmentRow(
                **{name: value for name, value in row.items() if name in fields},
                caption=captions.get(row["segment_id"]),
            )
            for row in rows
        ]

    @routes.get("/videos/{video_id}/memories", tags=["videos"], responses=documented(404))
    def list_memories(video_id: VideoId) -> list[MemorySlot]:
        """A video's memory slots in time order."""
        site.videos.row(video_id)
        reader = site.live.reader
        ids = reader.segments(video_id)["segment_id"].to_pylist()
        columns = [name for name in MemorySlot.model_fields if name != "thumbnail"]
        return [
            MemorySlot(**row, thumbnail=f"api/memories/{row['memory_id']}/thumbnail")
            for row in reader.memory_rows(ids, columns).to_pylist()
        ]

    @routes.get("/videos/{video_id}/annotations", tags=["videos"], responses=documented(404))
    def list_annotations(
        video_id: VideoId,
        prompt: Annotated[str | None, Query(max_length=64, description="only of this prompt")] = None,
    ) -> list[Annotation]:
        """Texts of a video and of its segments, in time order."""
        site.videos.row(video_id)
        reader = site.live.reader
        done = reader.completed_segments(video_id)
        fields = Annotation.model_fields.keys()
        return [
            Annotation(
                **{name: value for name, value in row.items() if name in fields},
                track_id=row["prompt_version"] if row["task"] in GIVEN_TASKS else None,
            )
            for row in reader.annotations(video_id).to_pylist()
            if (prompt is None or row["prompt_name"] == prompt)
            and (row["segment_id"] is None or row["segment_id"] in done)
        ]

    @routes.get("/videos/{video_id}/failures", tags=["videos"], responses=documented(404))
    def list_failures(video_id: VideoId) -> list[Failed]:
        """Failures of a video and its segments."""
        site.videos.row(video_id)
        rows = site.live.reader.failures()
        return failed_rows(rows.filter(pc.equal(rows["video_id"], video_id)).to_pylist())

    @routes.get(
        "/videos/{video_id}/captions.vtt",
        tags=["videos"],
        response_class=Response,
        responses={200: {"content": {"text/vtt": {"schema": {"type": "string"}}}}, **documented(404)},
    )
    def get_captions(video_id: VideoId) -> Response:
        """The captions of a video's segments as WebVTT. Times count from the first frame, as players count."""
        start_s = site.videos.row(video_id)["start_s"]
        reader = site.live.reader
        rows = reader.segments(video_id).to_pylist()
        captions = reader.texts_of([row["segment_id"] for row in rows], CAPTION.name)
        texts = [
            row | {"text": captions[row["segment_id"]], "video_start_s": start_s}
            for row in rows
            if row["segment_id"] in captions
        ]
        return Response(caption_file(texts, "vtt"), media_type="text/vtt")

    @routes.get("/videos/{video_id}/transcripts", tags=["videos"], responses=documented(404))
    def list_transcripts(video_id: VideoId) -> list[TranscriptTrack]:
        """A video's transcripts, ordered by language."""
        site.videos.row(video_id)
        return [
            TranscriptTrack(
                track_id=track.track_id,
                label=_label(track),
                source=track.source,
                language=track.language,
                texts=track.texts,
                subtitles=f"api/videos/{video_id}/transcripts/{track.track_id}.vtt",
            )
            for track in site.live.reader.tracks.tracks(video_id)
        ]

    @routes.get(
        "/videos/{video_id}/transcripts/{track_id}.vtt",
        tags=["videos"],
        response_class=Response,
        responses={200: {"content": {"text/vtt": {"schema": {"type": "string"}}}}, **documented(404)},
    )
    def get_transcript(video_id: VideoId, track_id: TrackId) -> Response:
        """A transcript as WebVTT. Times count from the first frame, as players count."""
        start_s = site.videos.row(video_id)["start_s"]
        texts = site.live.reader.tracks.texts(video_id, track_id)
        if not texts:
            raise NotThere("The video has no such transcript.")
        said = caption_file([row | {"video_start_s": start_s} for row in texts], "vtt")
        return Response(said, media_type="text/vtt")

    @routes.get(
        "/videos/{video_id}/thumbnail",
        tags=["videos"],
        response_class=Response,
        responses={**_JPEG, **documented(404)},
    )
    def get_video_thumbnail(video_id: VideoId) -> Response:
        """A thumbnail from the middle of a video."""
        site.videos.row(video_id)
        return _picture(site.pictures.of_video(site.live.reader, video_id), "private, max-age=60")

    @routes.get(
        "/memories/{memory_id}/thumbnail",
        tags=["videos"],
        response_class=Response,
        responses={**_JPEG, **documented(404)},
    )
    def get_thumbnail(memory_id: MemoryId) -> Response:
        """A memory slot's thumbnail."""
        # The id is a hash of content, recipe and span, so a thumbnail never changes.
        return _picture(
            site.pictures.of_slot(site.live.reader, memory_id), "private, max-age=604800, immutable"
        )

    async def get_media(
        request: Request,
        video_id: VideoId,
        wanted: Annotated[str | None, Header(alias="range", description="ranges of bytes")] = None,
    ) -> Response:
        """The bytes of a video's file, whole or by range, with the conditional requests of RFC 9110.

        Files are addressed by video id and never by path. Only files below the server's media roots are read.
        """

        def opened() -> Response:
            source = open_source(site.videos.row(video_id)["uri"], site.media_roots_of(video_id))
            return media_response(source, method=request.method, headers=request.headers)

        return await run_in_threadpool(opened)

    for method in ("GET", "HEAD"):
        routes.add_api_route(
            "/videos/{video_id}/media",
            get_media,
            methods=[method],
            operation_id=f"{method.lower()}_media",
            tags=["videos"],
            response_class=Response,
            responses={
                200: _BYTES,
                206: _BYTES | {"description": "A part of the file"},
                304: {"description": "Not changed"},
                412: {"description": "The file does not meet If-Match or If-Unmodified-Since"},
                416: {"description": "A range outside the file"},
                **documented(404, 502),
            },
        )
    return routes


def _label(track: StoredTrack) -> str:
    """What a menu of subtitles calls a transcript."""
    name = name_of(track.origin) if track.origin else track.source
    return f"{track.language} · {name}" if track.language else name


def _picture(jpeg: bytes, kept: str) -> Response:
    return Response(jpeg, media_type="image/jpeg", headers={"Cache-Control": kept})
