"""Restore a process that connecting to Ray changes: its SIGTERM handler, environment, fault handler and logger."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import threading
from typing import Any

__all__ = ["ProcessState"]


class ProcessState:
    """The process as it is when this is made. Ray changes its SIGTERM, environment, fault handler and ``ray`` logger.

    Call ``connected`` once Ray is connected, and ``put_back`` when it is not any more.
    """

    def __init__(self) -> None:
        self._environment = dict(os.environ)
        self._changed: dict[str, str] = {}
        self._faults = faulthandler.is_enabled()
        self._sigterm: Any = signal.getsignal(signal.SIGTERM)
        logger = logging.getLogger("ray")
        self._logger = (logger.level, logger.propagate, list(logger.handlers))

    def connected(self) -> None:
        """Restore the program's own SIGTERM handler. Without one, Ray's stays: it ends the cluster with the program."""
        self._changed = {
            name: value for name, value in os.environ.items() if self._environment.get(name) != value
        }
        if callable(self._sigterm):
            self._put_back_sigterm()

    def put_back(self) -> None:
        """Restore everything, except environment variables that the program itself changed meanwhile."""
        self._put_back_sigterm()
        for name, value in self._changed.items():
            if os.environ.get(name) != value:
                continue
            if name in self._environment:
                os.environ[name] = self._environment[name]
            else:
                del os.environ[name]
        logger = logging.getLogger("ray")
        level, logger.propagate, logger.handlers = self._logger
        logger.setLevel(level)
        if not self._faults and faulthandler.is_enabled():
            faulthandler.disable()

    def _put_back_sigterm(self) -> None:
        # Only the main thread may set it, and only there does Ray change it. None: code outside Python set it.
        if threading.current_thread() is threading.main_thread() and self._sigterm is not None:
            signal.signal(signal.SIGTERM, self._sigterm)
