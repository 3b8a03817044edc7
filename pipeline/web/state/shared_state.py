"""The state that all routes of one archive share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from malmm.pipeline.web.auth import Keys
from malmm.pipeline.web.media_roots import MediaRoots
from malmm.pipeline.web.models import Models
from malmm.pipeline.web.state.live import LiveArchive
from malmm.pipeline.web.state.overview import Storage
from malmm.pipeline.web.state.pagination import Rankings
from malmm.pipeline.web.state.pictures import Pictures
from malmm.pipeline.web.state.videos import VideoList

__all__ = ["Site"]


@dataclass
class Site:
    """An archive, or several as one, its models, access keys, media roots by archive, and caches between requests."""

    live: LiveArchive
    models: Models
    keys: Keys
    media_roots: Mapping[str, MediaRoots]
    videos: VideoList = field(init=False)
    storage: Storage = field(init=False)
    pictures: Pictures = field(default_factory=Pictures)
    rankings: Rankings = field(default_factory=Rankings)

    def __post_init__(self) -> None:
        self.videos = VideoList(self.live)
        self.storage = Storage(lambda: [reader.root for reader in self.live.reader.archives])

    def media_roots_of(self, video_id: str) -> MediaRoots:
        """The roots from which a video may be read: those of its archive."""
        name = self.live.reader.names_of([video_id]).get(video_id)
        return self.media_roots.get(name or "", MediaRoots())
