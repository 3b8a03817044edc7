"""Lines that people type at a prompt, or that another program writes to standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress

__all__ = ["lines_of"]


def lines_of(prompt: str) -> Iterator[str]:
    """Lines that are not empty, until Ctrl-D, Ctrl-C at the prompt or the end of standard input.

    At a terminal the arrow keys move in a line and to earlier ones.
    """
    if not sys.stdin.isatty():
        yield from (line.strip() for line in sys.stdin if line.strip())
        return
    # Loaded, it edits the lines of `input`; not every Python has it.
    with suppress(ImportError):
        import readline  # noqa: F401
    while True:
        try:
            line = input(prompt)
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line.strip():
            yield line.strip()
