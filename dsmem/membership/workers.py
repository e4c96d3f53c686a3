"""The threads of a coordinator: one for each memory node, which asks whether it is there and what else is to be done.

A node gets one request at a time, so what was asked first is done first.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from dsmem import _core, errors
from dsmem.membership import events, messages
from dsmem.membership.events import Event
from dsmem.membership.standing import Standing
from dsmem.membership.state import Node
from dsmem.names import wire
from dsmem.names.wire import Request

_log = logging.getLogger("dsmem")


@dataclass(frozen=True)
class Job:
    """A request to a node, and what its answer means."""

    request: bytes
    done: Callable[[bytes], Event]
    refused: Callable[[errors.DsmemError], Event] | None
    limit: float = 0.0  # seconds for which the node may be busy with it; at least those after which it counts as silent


class Worker:
    """Asks one memory node.

    Parameters
    ----------
    context : Context
        Through which the node is reached.
    node : Node
        The node.
    tell : callable
        Called with events, by the worker's thread.
    interval : float
        Seconds between two questions whether it is there.
    limit : float
        Seconds without an answer, after which it counts as silent.
    standing : callable
        Returns what the coordinator says of its state.
    """

    def __init__(
        self,
        context: _core.Context,
        node: Node,
        tell: Callable[[Event], None],
        interval: float,
        limit: float,
        standing: Callable[[], Standing],
    ) -> None:
        self.node = node
        self._standing = standing
        self._refusal = ""
        self._tell = tell
        self._interval, self._limit = interval, limit
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._stopped = False
        self._service = _core.Service(context, node.address.replace("tcp://", "tcp:"))
        self._thread = threading.Thread(target=self._run, name=f"dsmem-node-{node.address}", daemon=True)
        self._jobs.put(None)  # it is asked at once
        self._thread.start()

    def do(self, job: Job) -> None:
        """Ask the node for something, behind what it was asked for before."""
        self._jobs.put(job)

    def look(self) -> None:
        """Ask it now whether it is there."""
        if self._jobs.empty():
            self._jobs.put(None)

    def end(self) -> None:
        """Let the thread end soon. What was not asked for yet is not."""
        self._stopped = True
        self._jobs.put(None)

    def ended(self, until: float) -> bool:
        """Wait for the end of the thread until a time of time.monotonic(), and say whether it has come."""
        self._thread.join(max(0.0, until - time.monotonic()))
        return not self._thread.is_alive()

    def _run(self) -> None:
        with contextlib.suppress(errors.ClosedError):
            while not self._stopped:
                job = None
                with contextlib.suppress(queue.Empty):
                    job = self._jobs.get(timeout=self._interval)
                if not self._stopped and self._is_there() and job is not None:
                    self._do(job)
        with contextlib.suppress(errors.DsmemError):
            self._service.close()

    def _call(self, request: bytes, limit: float) -> bytes:
        """A connection may have broken though its node lives: then there is a new one."""
        try:
            return self._service.call(request, limit)
        except errors.PeerDeadError:
            return self._service.call(request, limit)

    def _is_there(self) -> bool:
        try:
            request = messages.to_node(Request.NODE, self.node.id, self._standing())
            reply = wire.answered(self._call(request, self._limit))
            found = reply.number()
        except errors.ClosedError:
            raise
        except errors.FencedError as error:
            self._outdated(error)
            return False
        except errors.DsmemError as error:
            self._refuses(error.detail if isinstance(error, errors.ConflictError) else "")
            self._tell(events.Silent(self.node.id))
            return False
        self._refuses("")
        if found != self.node.id:
            self._tell(events.Gone(self.node.id))
            return False
        self._tell(events.Heard(self.node.id))
        return True

    def _outdated(self, error: errors.FencedError) -> None:
        self._tell(events.Outdated(f"{self.node.address}: {error.detail}"))

    def _refuses(self, reason: str) -> None:
        """Log once that a node is there, and obeys another coordinator."""
        if reason not in ("", self._refusal):
            _log.warning("the memory node at %s refuses this coordinator: %s", self.node.address, reason)
        self._refusal = reason

    def _do(self, job: Job) -> None:
        try:
            raw = self._call(job.request, max(self._limit, job.limit))
        except errors.ClosedError:
            raise
        except errors.DsmemError:
            self._tell(events.Silent(self.node.id))
            return
        try:
            told = job.done(wire.answered(raw).rest())
        except errors.FencedError as error:
            self._outdated(error)
            return
        except errors.DsmemError as error:
            if job.refused is None:
                return
            told = job.refused(error)
        self._tell(told)
