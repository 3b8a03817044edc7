"""Decode one span of a video to the model's pictures, with the chosen decoder."""

from __future__ import annotations

from malmm.operators.media.file_cache import FileCache
from malmm.operators.media.reader_av import decode_span_av
from malmm.operators.media.span import DecodedSpan, SpanRequest

__all__ = ["DecodedSpan", "SpanRequest", "decode_span"]


def decode_span(request: SpanRequest, cache: FileCache | None = None) -> DecodedSpan:
    """Decode the frames of a request. ``cache`` keeps what each opening of a remote file reads again.

    From a truncated or damaged file, returns what can be decoded, with ``problem`` set. Raises MediaError, with the
    kinds of ``malmm.operators.media.probe``, if there is no frame.
    """
    if request.decoder == "av":
        return decode_span_av(request, cache)
    # Imported here: runs with PyAV need not spend the memory and time to load decord.
    from malmm.operators.media.reader_decord import decode_span_decord

    return decode_span_decord(request)
