"""Decoding one span of a video to the model's pictures, with the decoder that is asked for."""

from __future__ import annotations

from malmm.operators.media.file_cache import FileCache
from malmm.operators.media.reader_av import decode_span_av
from malmm.operators.media.span import DecodedSpan, SpanRequest

__all__ = ["DecodedSpan", "SpanRequest", "decode_span"]


def decode_span(request: SpanRequest, cache: FileCache | None = None) -> DecodedSpan:
    """Decode the frames that ``request`` asks for. ``cache`` keeps what each opening of a remote file reads again.

    A file that is cut short or damaged gives what can be decoded, with ``problem`` set. Raises MediaError with the
    kinds of ``malmm.operators.media.probe`` when there is no frame.
    """
    if request.decoder == "av":
        return decode_span_av(request, cache)
    # Loading decord costs memory and time that a run with PyAV need not spend.
    from malmm.operators.media.reader_decord import decode_span_decord

    return decode_span_decord(request)
