"""Ids of videos, segments, slots, texts and failures: hashes, so that every run gets the same ids."""

from __future__ import annotations

from malmm.pipeline.schema.stable_ids import stable_id

__all__ = [
    "GIVEN",
    "ONLINE",
    "RECOGNISED",
    "REPLAY",
    "annotation_id",
    "failure_id",
    "given_text_id",
    "memory_id",
    "moments_version",
    "segment_id",
    "video_id",
    "whole_video_subject",
]

ONLINE = "online"
"""Mode of a text made while its segment was indexed."""
REPLAY = "replay"
"""Mode of a text made later, from stored memory."""
GIVEN = "given"
"""Mode of a text that came with the video or was imported."""
RECOGNISED = "recognised"
"""Mode of a text that a model heard in the video's sound."""


def video_id(uri: str) -> str:
    """Id of a source file, by its URI. Its fingerprint stands for its content."""
    return stable_id("video", uri)


def segment_id(video: str, fingerprint: str, recipe_id: str, start_s: float, end_s: float) -> str:
    """Id of a segment: the same file content, recipe and span give the same id in every run."""
    return stable_id("segment", video, fingerprint, recipe_id, f"{start_s:.6f}", f"{end_s:.6f}")


def memory_id(segment: str, slot: int) -> str:
    """Id of a memory slot."""
    return f"{segment}-{slot:04d}"


def annotation_id(subject: str, prompt_version: str, model: str, mode: str) -> str:
    """Id of a text. ``subject`` is a segment's id, or that of a whole video (``whole_video_subject``)."""
    return stable_id("annotation", subject, prompt_version, model, mode)


def given_text_id(video: str, fingerprint: str, track: str, span_s: tuple[float, float], ordinal: int) -> str:
    """Id of a text with a span of its own. ``ordinal`` numbers the texts of a track with the same span, from 0."""
    start_s, end_s = span_s
    return stable_id("given", video, fingerprint, track, f"{start_s:.6f}", f"{end_s:.6f}", ordinal)


def moments_version(prompt_version: str) -> str:
    """The ``prompt_version`` of timed records that were taken out of a prompt's answers."""
    return stable_id("moments", prompt_version)


def failure_id(video: str, segment: str | None, stage: str) -> str:
    """Id of a failure: the same stage failing again has the same id."""
    return stable_id("failure", video, segment or "", stage)


def whole_video_subject(video: str, fingerprint: str, recipe_id: str) -> str:
    """Subject id of a whole video's annotations: of its content and one recipe."""
    return stable_id("whole", video, fingerprint, recipe_id)
