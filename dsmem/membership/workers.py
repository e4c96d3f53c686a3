"""The threads of a coordinator: one for each memory node, which asks whether it is there and what else is to be done.

A node gets one request at a time, in order. One that it is not ready with is asked again later, behind others.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dsmem import _core, errors
from dsmem.membership import events, messages
from dsmem.membership.events import Event
from dsmem.membership.probe import Probe
from dsmem.membership.standing import Standing
from dsmem.membership.state import Node
from dsmem.names import wire
from dsmem.names.wire import Request

_log = logging.getLogger("dsmem")
_PAUSE_FIRST, _PAUSE_MOST = 0.001, 0.05  # before a node is asked again that was not ready
_PAUSE_REFUSED = 1.0  # before one that has refused what it has to do at last


@dataclass(frozen=True)
class Job:
    """A request to a node, and what its answer means."""

    request: bytes
    done: Callable[[bytes], Event]
    refused: Callable[[errors.DsmemError], Event] | None = None  # None: it is asked until the answer is another one
    limit: float = 0.0  # seconds in which the node is to be ready with it, else it counts as refused


@dataclass(order=True)
class _Again:
    """A job that a node was not ready with."""

    due: float
    order: int
    job: Job = field(compare=False)
    pause: float = field(compare=False)
    end: float = field(compare=False)


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
    reaches : callable
        Returns whether the coordinator has reached memory of another node since a time.

    Attributes
    ----------
    reached : float
        When the last read of the node's memory that has succeeded was begun, by time.monotonic().
    """

    def __init__(
        self,
        context: _core.Context,
        node: Node,
        tell: Callable[[Event], None],
        interval: float,
        limit: float,
        standing: Callable[[], Standing],
        reaches: Callable[[float], bool],
    ) -> None:
        self.node = node
        self.reached = -1.0
        self._unreached: float | None = None  # since when all reads have failed
        self._standing, self._reaches = standing, reaches
        self._trouble = ""
        self._tell = tell
        self._interval, self._limit = interval, limit
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._again: list[_Again] = []  # a heap
        self._order = itertools.count()
        self._probe = Probe(context)
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
                again = self._next()
                is_there = not self._stopped and self._is_there()
                if is_there and again is not None:
                    self._do(again)
                elif not is_there:
                    self._again.clear()  # what it was asked for before is decided again
        self._probe.close()
        with contextlib.suppress(errors.DsmemError):
            self._service.close()

    def _next(self) -> _Again | None:
        """Wait for the next job until it is time to ask whether the node is there."""
        now = time.monotonic()
        seconds = min(self._interval, max(0.0, self._again[0].due - now)) if self._again else self._interval
        with contextlib.suppress(queue.Empty):
            job = self._jobs.get(timeout=seconds)
            if job is not None:
                return _Again(now, next(self._order), job, _PAUSE_FIRST, now + job.limit)
        if self._again and self._again[0].due <= time.monotonic():
            return heapq.heappop(self._again)
        return None

    def _call(self, request: bytes) -> bytes:
        """A connection may have broken though its node lives: then there is a new one."""
        try:
            return self._service.call(request, self._limit)
        except errors.PeerDeadError:
            return self._service.call(request, self._limit)

    def _is_there(self) -> bool:
        try:
            request = messages.to_node(Request.NODE, self.node.id, self._standing())
            reply = wire.answered(self._call(request))
            found, probe = reply.number(), reply.rest()
        except errors.ClosedError:
            raise
        except errors.FencedError as error:
            self._outdated(error)
            return False
        except errors.DsmemError as error:
            refuses = isinstance(error, errors.ConflictError)
            return self._silent(f"refuses this coordinator: {error.detail}" if refuses else "")
        if found != self.node.id:
            self._tell(events.Gone(self.node.id))
            return False
        reason = self._unread(probe)
        if reason and self._is_unreached():
            return self._silent(f"answers, but its memory can't be read: {reason}")
        self._note("")
        self._tell(events.Heard(self.node.id))
        return True

    def _is_unreached(self) -> bool:
        """Whether no read has succeeded for as long as a node may be silent, though reads at another node have.

        If there is none it may be the coordinator's own device that fails, of which clients need not know.
        """
        since = self._unreached
        return since is not None and time.monotonic() - since >= self._limit and self._reaches(since)

    def _unread(self, descriptor: bytes) -> str:
        """Return why memory of the node can't be read, or nothing."""
        begun = time.monotonic()
        try:
            self._probe.read(descriptor, self._limit / 2)
        except errors.ClosedError:
            raise
        except errors.DsmemError as error:
            self._unreached = begun if self._unreached is None else self._unreached
            return str(error)
        self.reached, self._unreached = begun, None
        return ""

    def _silent(self, trouble: str) -> bool:
        self._note(trouble)
        self._tell(events.Silent(self.node.id, trouble))
        return False

    def _note(self, trouble: str) -> None:
        """Log once why a node that is there is of no use."""
        if trouble not in ("", self._trouble):
            _log.warning("the memory node at %s %s", self.node.address, trouble)
        self._trouble = trouble

    def _outdated(self, error: errors.FencedError) -> None:
        self._tell(events.Outdated(f"{self.node.address}: {error.detail}"))

    def _do(self, again: _Again) -> None:
        job = again.job
        try:
            raw = self._call(job.request)
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
        except wire.NotYetError:
            if job.refused is None or time.monotonic() < again.end:
                self._later(again)
                return
            told = job.refused(errors.TimeoutError(f"it is not ready after {job.limit:.0f} s"))
        except errors.DsmemError as error:
            if job.refused is None:
                again.pause = _PAUSE_REFUSED
                self._later(again)
                return
            told = job.refused(error)
        self._tell(told)

    def _later(self, again: _Again) -> None:
        again.due = time.monotonic() + again.pause
        again.pause = min(2 * again.pause, max(again.pause, _PAUSE_MOST))
        heapq.heappush(self._again, again)
