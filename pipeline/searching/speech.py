"""What is said in a span of a video, as context for a question to a model that reads text."""

from __future__ import annotations

from collections.abc import Sequence

from malmm.pipeline.archive.reader import ArchiveReader
from malmm.pipeline.searching.text_scores import words_of

__all__ = ["MOST_CHARACTERS", "has_words_of", "speech_of", "with_speech"]

MOST_CHARACTERS = 2000
"""Longest context. What is said nearest to the cited moments is kept."""

# What the index's stop words leave of the frame of a question.
_OF_ANY_QUESTION = (
    "does done could would shall may might must say tell told talk speak spoken mention explain happen any"
)


def speech_of(
    archive: ArchiveReader, video_id: str, span_s: tuple[float, float], near_s: Sequence[float] = ()
) -> str:
    """What is said in a span of a video, by the transcript with the most texts; empty if there is none.

    Of more than ``MOST_CHARACTERS``, the texts nearest to the times ``near_s`` stay, or the first ones without any.
    """
    tracks = archive.tracks.tracks(video_id)
    if not tracks:
        return ""
    track = max(tracks, key=lambda track: track.texts)
    start_s, end_s = span_s
    texts = [
        (row["start_s"], f"{row['speaker']}: {row['text']}" if row["speaker"] else row["text"])
        for row in archive.tracks.texts(video_id, track.track_id)
        if row["start_s"] < end_s and start_s < row["end_s"]
    ]
    near = near_s or (start_s,)
    kept, length = [], 0
    for at_s, text in sorted(texts, key=lambda pair: min(abs(pair[0] - time) for time in near)):
        length += len(text) + 1
        if length > MOST_CHARACTERS:
            break
        kept.append((at_s, text))
    return " ".join(" ".join(text.split()) for _, text in sorted(kept, key=lambda pair: pair[0]))


def has_words_of(question: str, heard: str) -> bool:
    """Whether two thirds of a question's words, without those that any question has, are in what is said.

    Words are those of the index, so stems, and without English stop words.
    """
    asked = set(words_of(question, "text")) - set(words_of(_OF_ANY_QUESTION, "text"))
    return bool(asked) and 3 * len(asked & set(words_of(heard, "text"))) >= 2 * len(asked)


def with_speech(question: str, heard: str) -> str:
    """The question after what is said. Quotes keep the two apart."""
    if not heard:
        return question
    spoken = heard.replace('"', "'")
    return f'What is said in the video: "{spoken}"\n\n{question}'
