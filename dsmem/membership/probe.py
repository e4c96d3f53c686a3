"""Whether memory of a node is reached by one-sided reads. A process may answer though its adapter or link is dead."""

from __future__ import annotations

import contextlib
import time

from dsmem import _core, errors

_WORD = 8


class Probe:
    """Reads a word of the region that a node keeps for it.

    Parameters
    ----------
    context : Context
        Through which the node is reached.
    """

    def __init__(self, context: _core.Context) -> None:
        self._context = context
        self._descriptor = b""
        self._remote: _core.Remote | None = None
        self._word = bytearray(_WORD)

    def read(self, descriptor: bytes, seconds: float) -> None:
        """Raise the error with which a read has failed. ClosedError: the context is closed."""
        end = time.monotonic() + seconds
        if self._remote is None or descriptor != self._descriptor:
            self.close()
            self._remote = self._context.attach(descriptor, timeout=seconds)
            self._descriptor = descriptor
        try:
            self._remote.read(0, self._word, timeout=max(0.0, end - time.monotonic()))
        except errors.DsmemError:
            self.close()  # the next one finds its own way
            raise

    def close(self) -> None:
        """Let go of the region."""
        remote, self._remote = self._remote, None
        if remote is not None:
            with contextlib.suppress(errors.DsmemError):
                remote.detach()
