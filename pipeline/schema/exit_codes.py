"""Exit codes of every command, and how the result of a run becomes one."""

from __future__ import annotations

from collections.abc import Iterable

from malmm.pipeline.schema.errors import ConfigError

__all__ = [
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_NOT_FOUND",
    "EXIT_OK",
    "EXIT_SOME_FAILED",
    "EXIT_USAGE",
    "exit_code_of",
    "exit_code_of_error",
    "worst_code",
]

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_NOT_FOUND = 4
EXIT_INTERRUPTED = 130
# The worst first; a program that was ended in another way has failed.
_RANKS = {EXIT_INTERRUPTED: 0, EXIT_USAGE: 1, EXIT_FAILED: 2, EXIT_SOME_FAILED: 4, EXIT_OK: 5}
_RANK_OF_OTHERS = 3


def exit_code_of(*, interrupted: bool, failed: bool, done: bool) -> int:
    """The exit code of work on many items: 0 if nothing failed, 3 if something did, 1 if nothing else was done, 130 if
    the work was interrupted.
    """
    if interrupted:
        return EXIT_INTERRUPTED
    if not failed:
        return EXIT_OK
    return EXIT_SOME_FAILED if done else EXIT_FAILED


def worst_code(codes: Iterable[int]) -> int:
    """The exit code of a whole whose parts ended with these, one at least."""
    return min(codes, key=lambda code: _RANKS.get(code, _RANK_OF_OTHERS))


def exit_code_of_error(error: BaseException) -> int:
    """The exit code of a command that ends with ``error``: wrong usage has one of its own."""
    return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_FAILED
