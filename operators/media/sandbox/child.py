"""One child process: start it, send it requests, end it. ``Child.ask`` ends a child that hangs."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import struct
import subprocess
import sys
import time
from typing import Any

__all__ = ["Child", "ChildDied", "ChildTimedOut"]

_LENGTH = struct.Struct(">Q")
_EXITING_S = 1.0


class ChildDied(Exception):  # noqa: N818 - it says what happened
    """The process ended before it answered; ``how`` says by which signal or exit code."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class ChildTimedOut(Exception):  # noqa: N818 - it says what happened
    """The process did not answer in time and was killed."""


class Child:
    """A Python process that runs ``code`` and answers one request after the other, as
    ``malmm.operators.media.sandbox.worker`` does."""

    def __init__(self, code: str) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("a process with pipes has pipes")
        self._to, self._from = stdin, stdout
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._from, selectors.EVENT_READ)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, request: dict[str, Any], limit_s: float) -> tuple[dict[str, Any], bytearray]:
        """Send a request; return the answer and the bytes that follow it.

        Raises ChildDied, or ChildTimedOut after ``limit_s`` seconds. In both cases the process is gone afterwards.
        """
        deadline = time.monotonic() + limit_s
        try:
            text = json.dumps(request | {"limit_s": limit_s}).encode()
            self._to.write(_LENGTH.pack(len(text)) + text)
            self._to.flush()
            (length,) = _LENGTH.unpack(self._receive(_LENGTH.size, deadline))
            answer = json.loads(self._receive(length, deadline))
            return answer, self._receive(answer.get("bytes", 0), deadline)
        except (BrokenPipeError, EOFError) as error:
            raise ChildDied(self.end(is_exiting=True)) from error
        except TimeoutError as error:
            self.end()
            raise ChildTimedOut from error

    def end(self, *, is_exiting: bool = False) -> str:
        """Kill the process and return how it ended. One that ``is_exiting`` gets a second to do so by itself.

        After end of file on its pipe a process is exiting: its own exit code or signal is the reason.
        """
        if is_exiting:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_EXITING_S)
        # Does nothing to a process that has ended.
        self._process.kill()
        code = self._process.wait()
        self._ready.close()
        self._from.close()
        with contextlib.suppress(BrokenPipeError):
            self._to.close()
        if code < 0:
            return f"signal {signal.Signals(-code).name}"
        return f"exit code {code}"

    def _receive(self, count: int, deadline: float) -> bytearray:
        data = bytearray(count)
        view, have = memoryview(data), 0
        while have < count:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not self._ready.select(left_s):
                raise TimeoutError
            got = os.readv(self._from.fileno(), [view[have:]])
            if not got:
                raise EOFError
            have += got
        return data
