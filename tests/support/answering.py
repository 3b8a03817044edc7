"""A server of the standard library that answers in a thread for the time of a block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseServer

__all__ = ["answering"]

# A server looks so often whether it is to end: by itself every half second, for which each of its tests would wait.
_LOOK_EVERY_S = 0.01


@contextmanager
def answering(server: BaseServer) -> Iterator[None]:
    """Answer requests until the block ends, then close the server."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(_LOOK_EVERY_S,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
