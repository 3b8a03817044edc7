"""``python -m malmm.model.conformance PATH...``."""

from __future__ import annotations

import sys

from malmm.model.conformance.replaying import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
