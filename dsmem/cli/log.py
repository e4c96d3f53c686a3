"""What ``dsmem serve`` logs: one line for each event, with its time, on standard error.

A terminal that is stopped, or a pipe that no process reads, must not stop what logs: lines wait for a thread of their
own, and are counted and left out where too many wait.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

_MOST = 1000  # lines that wait
_END_SECONDS = 1.0  # for what waits at the end


class _Lines(logging.Handler):
    """Formats records, and leaves it to a thread to write them."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._waiting: queue.Queue[str | None] = queue.Queue(_MOST)
        self._left_out = 0
        self._thread = threading.Thread(target=self._run, name="dsmem-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Let the line be written."""
        try:
            line = self.format(record)
            if self._left_out:
                line = f"{line}\n({self._left_out} lines before this one were left out)"
            self._waiting.put_nowait(line)
            self._left_out = 0
        except queue.Full:
            self._left_out += 1

    def _run(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # no process reads it, or it is closed
            while (line := self._waiting.get()) is not None:
                self._stream.write(f"{line}\n")
                self._stream.flush()

    def end(self) -> None:
        """Write what waits, unless that takes long."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
            self._thread.join(_END_SECONDS)


@contextlib.contextmanager
def logged(quiet: bool) -> Iterator[None]:
    """Show what dsmem logs on standard error during the block. quiet: only what has failed for good."""
    logger = logging.getLogger("dsmem")
    before, level = logger.level, logging.ERROR if quiet else logging.INFO
    handler = _Lines(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    handler.setLevel(level)
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
        handler.end()
