"""Times in requests, as ISO 8601 writes them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator

__all__ = ["WrittenTime"]


def _no_number(value: Any) -> Any:
    """Refuse what pydantic would take for seconds since 1970, which the API's document does not allow."""
    try:
        float(value)
    except (TypeError, ValueError):
        return value
    raise ValueError("a time is written as 2026-01-31 or 2026-01-31T12:00:00Z")


WrittenTime = Annotated[datetime, BeforeValidator(_no_number)]
"""A date, or a date and a time."""
