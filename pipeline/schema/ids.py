"""The identities of videos, segments, slots, texts and failures: hashes of what makes each the same in every run."""

from __future__ import annotations

from malmm.pipeline.schema.config import stable_id

__all__ = [
    "ONLINE",
    "REPLAY",
    "annotation_id",
    "failure_id",
    "memory_id",
    "segment_id",
    "video_id",
    "whole_video_subject",
]

ONLINE = "online"
"""The mode of a text that was made while the frames went by."""
REPLAY = "replay"
"""The mode of a text that was made later, from stored memory."""


def video_id(uri: str) -> str:
    """The identity of a source file; what it contains is its fingerprint."""
    return stable_id("video", uri)


def segment_id(video: str, fingerprint: str, recipe_id: str, start_s: float, end_s: float) -> str:
    """The identity of a unit of work: the same bytes, recipe and span give the same key in every run."""
    return stable_id("segment", video, fingerprint, recipe_id, f"{start_s:.6f}", f"{end_s:.6f}")


def memory_id(segment: str, slot: int) -> str:
    """The identity of a memory slot."""
    return f"{segment}-{slot:04d}"


def annotation_id(subject: str, prompt_version: str, model: str, mode: str) -> str:
    """The identity of a text. ``subject`` is a segment's id, or a video's with its fingerprint and recipe."""
    return stable_id("annotation", subject, prompt_version, model, mode)


def failure_id(video: str, segment: str | None, stage: str) -> str:
    """The identity of what could not be done: the same stage failing again is the same failure."""
    return stable_id("failure", video, segment or "", stage)


def whole_video_subject(video: str, fingerprint: str, recipe_id: str) -> str:
    """The subject of a whole video's annotations: its content as one recipe sees it."""
    return stable_id("whole", video, fingerprint, recipe_id)
