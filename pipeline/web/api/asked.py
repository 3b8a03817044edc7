"""What a search of the page asks for: the parameters that the routes of searches share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Query
from pydantic import Field

from malmm.pipeline.schema.errors import ConfigError
from malmm.pipeline.searching.query import SearchQuery
from malmm.pipeline.web.api.written_times import WrittenTime
from malmm.pipeline.web.state.shared_state import Site
from malmm.pipeline.web.state.videos import Chosen

__all__ = ["Asked", "VideoId", "asked_of"]

_MOST_VIDEOS = 100
Without = Annotated[str, Field(min_length=1, max_length=500)]
VideoId = Annotated[str, Field(pattern="^[0-9a-f]{24}$")]


@dataclass(frozen=True)
class Asked:
    """A text, the videos to search it in, and a filter."""

    text: str
    chosen: Chosen
    where: str | None
    without: tuple[str, ...] = ()

    def query(self, site: Site, k: int) -> SearchQuery:
        """The query for ``k`` results among the videos that there are now. Raises ArchiveError."""
        ids = site.videos.chosen_ids(self.chosen)
        return SearchQuery(
            text=self.text,
            k=k,
            video_ids=None if ids is None else tuple(ids),
            where=self.where,
            without=self.without,
        )


def asked_of(
    text: Annotated[str, Query(min_length=1, max_length=500, description="what to look for")],
    video: Annotated[list[VideoId], Query(max_length=_MOST_VIDEOS, description="only in these videos")] = [],  # noqa: B006 - FastAPI copies it
    since: Annotated[WrittenTime | None, Query(description="only in videos indexed then or later")] = None,
    until: Annotated[WrittenTime | None, Query(description="only in videos indexed before")] = None,
    where: Annotated[
        str | None, Query(min_length=1, max_length=2000, description="a filter, as docs/filters.md describes")
    ] = None,
    without: Annotated[
        list[Without], Query(alias="not", max_length=10, description="what should not be there")
    ] = [],  # noqa: B006 - FastAPI copies it
) -> Asked:
    """Parse the parameters. Raises ConfigError for a text of spaces."""
    if not text.strip():
        raise ConfigError("text: an empty query finds nothing: give a few words, such as 'a red car'")
    return Asked(text, Chosen(tuple(video), since=since, until=until), where, tuple(without))
