"""Queues of messages between processes: ring buffers in shared memory, one lane for each producer.

Methods and exceptions are those of :class:`queue.Queue`: :class:`dsmem.errors.FullError` is a ``queue.Full``, and
:class:`~dsmem.errors.EmptyError` a ``queue.Empty``. Messages are bytes. :class:`Pickled` sends objects, and
:class:`Stamped` sends bytes with the stamp of a logical clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import struct
import warnings
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

from typing_extensions import Buffer

from dsmem import _core, errors
from dsmem.clock import HybridClock, Lamport
from dsmem.memory import Memory
from dsmem.names.base import Format
from dsmem.objects import NamedObject, Owner

_PICKLED, _STAMPED = 2, 3  # kinds of messages
__all__ = ["Pickled", "Queue", "Stamped"]

_MANY = 16  # producers, if "many" is given
_SAID = {  # parameters of Cluster.queue, and their names in the core
    "capacity_bytes": "lane_bytes",
    "producers": "lanes",
    "consumers": "many_consumers",
    "max_message": "max_message",
    "drop_oldest": "drop_oldest",
}


def _shape(
    capacity_bytes: int | None = None,
    producers: str | int | None = None,
    consumers: str | None = None,
    max_message: int | None = None,
    drop_oldest: bool | None = None,
    checked: bool = False,
) -> dict[str, Any]:
    capacity = _core.checked_int(1 << 20 if capacity_bytes is None else capacity_bytes, 1)
    if capacity is None:
        raise _core.refused(capacity_bytes, int, f"capacity_bytes={capacity_bytes!r}: bytes, at least 1")
    lane = max(4096, 1 << (capacity - 1).bit_length())
    words = {"one": 1, "many": _MANY}
    producers, consumers = "one" if producers is None else producers, "one" if consumers is None else consumers
    lanes = words.get(producers) if isinstance(producers, str) else _core.checked_int(producers, 1)
    if lanes is None or not isinstance(consumers, str) or consumers not in words:
        given = f"producers={producers!r}, consumers={consumers!r}"
        text = f"{given}: 'one' or 'many'; producers also their greatest number"
        if not isinstance(consumers, str):
            raise errors.ArgumentTypeError(text)
        raise _core.refused(producers, str if isinstance(producers, str) else int, text)
    longest = _core.checked_int(lane // 4 if max_message is None else max_message, 1)
    if longest is None:
        raise _core.refused(max_message, int, f"max_message={max_message!r}: bytes, at least 1")
    return {
        "lanes": lanes,
        "lane_bytes": lane,
        "max_message": longest,
        "many_consumers": consumers == "many",
        "drop_oldest": bool(drop_oldest),
        "checked": checked,
    }


def _said(key: str, shape: dict[str, Any]) -> str:
    if key == "many_consumers":
        return "'many'" if shape[key] else "'one'"
    return f"{shape[key]}"


class Queue(NamedObject, _core.Queue):
    """A queue under a name; :meth:`dsmem.Cluster.queue` creates and finds one.

    A handle becomes a producer with its first put() and a consumer with its first get(), or by :meth:`produce` and
    :meth:`consume`. The threads that share a handle are one producer and one consumer.

    Raises
    ------
    ClosedError, ForkError
        From any method: the handle is closed; the process is a forked child and the memory belongs to a context.
    InvalidArgumentError
        An argument is invalid.
    TransportError, PeerDeadError, TimeoutError
        The memory belongs to another process, and an op failed.

    Notes
    -----
    Order: messages of one producer come out in the order in which they were put. There is no order between messages of
    different producers. With ``consumers="many"`` each consumer sees each producer's messages in order, and no message
    comes out twice.

    Deaths: a message is in the queue once put() has written its header word, and out of it once a consumer has moved
    the lane's tail. A process that is killed or stopped at any other instruction has changed nothing for the others.
    The next producer takes over the lane of a dead producer with its messages. The role of a dead consumer is free.

    Examples
    --------
    >>> queue = cluster.queue("jobs", producers="many", create=None)
    >>> queue.put(b"resize 1.png")
    >>> queue.get(timeout=1)
    b'resize 1.png'
    """

    @classmethod
    def _layout(cls, **properties: Any) -> tuple[int, Format]:
        properties.pop("spin", None)
        shape = _shape(**properties)
        return _core.queue_nbytes(**shape), lambda memory: _core.queue_format(memory, **shape)

    @classmethod
    def _open(cls, memory: Memory, cluster: Owner | None, name: str, **properties: Any) -> Queue:
        queue = cls(memory.remote, memory.region, spin=properties.pop("spin", None))
        NamedObject.__init__(queue, memory, cluster, name)
        wanted, there = _shape(**properties), queue.properties
        differ = [
            f"{given} is {_said(key, there)}, {_said(key, wanted)} is wanted"
            for given, key in _SAID.items()
            if properties.get(given) is not None and wanted[key] != there[key]
        ]
        if differ:
            _core.Queue.close(queue)
            raise errors.MismatchError(", ".join(differ))
        return queue

    _name = "being opened"  # until NamedObject.__init__ sets the name and the memory

    def __init__(self, remote: _core.Remote, region: _core.Region | None = None, *, spin: float | None = None) -> None:
        self._readers, self._writers = _Waiters(), _Waiters()
        _core.Queue.__init__(self, remote, region, spin=spin)
        _open.add(self)

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""
        return bool(_core.Queue.closed.__get__(self))

    # -- asyncio --

    async def get_async(self) -> bytes:
        """Take the next message, waiting in the event loop.

        Raises
        ------
        ShutDownError
            The queue was shut down, and is empty or was shut down with ``immediate=True``.
        BusyError
            The queue was created for one consumer, and another one is alive.

        Notes
        -----
        At a server or in a context a thread takes the message, and the loop goes on meanwhile. If the task is cancelled
        after that, the next get of the handle returns the message, and close() raises BusyError before.

        Examples
        --------
        >>> async def serve(queue):
        ...     async for message in queue:  # until it is shut down
        ...         handle(message)
        """
        if self._far:
            return (await self._get_async(1))[0]
        while True:
            try:
                return self.get_nowait()
            except errors.EmptyError:
                await self._readers.wait(self._dup_items)

    async def get_many_async(self, n: int | None = None) -> list[bytes]:
        """Take the messages that are in the queue, waiting in the event loop for the first.

        Parameters
        ----------
        n : int, optional
            Greatest number of messages to take; the default is that of :meth:`get_many`.

        Returns
        -------
        list of bytes
            The messages, at least one.

        Raises
        ------
        ShutDownError, BusyError
            As of :meth:`get_async`.
        """
        if self._far:
            return await self._get_async(n)
        while True:
            try:
                return self.get_many(n, False)
            except errors.EmptyError:
                await self._readers.wait(self._dup_items)

    async def put_async(self, data: Buffer) -> None:
        """Put a message, waiting for room in the event loop.

        Parameters
        ----------
        data : bytes-like
            The message.

        Raises
        ------
        MessageTooLargeError, ShutDownError, TooManyMembersError, TransportError, PeerDeadError, TimeoutError
            As of :meth:`put`.

        Notes
        -----
        At a server or in a context a thread puts the message. A task that is cancelled meanwhile gets a CancelledError
        whose ``placed`` is 1 if the message was put, 0 if it was not and will not be, and None if that is not known
        because the owner does not answer, or since the op has failed (its exception is the cause).
        """
        if self._far:
            return await self._put_async(data)
        while True:
            try:
                return self.put(data, False)
            except errors.FullError:
                length = memoryview(data).nbytes
                self._arm_room(min([length, *self._writers.lengths()]))
                await self._writers.wait(self._dup_room, length)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self.get_async()
        except errors.ShutDownError:
            raise StopAsyncIteration from None

    # -- the end --

    def close(self) -> None:
        """Send what is staged, close this handle and give up its roles. Messages stay. Closing twice has no effect.

        Raises
        ------
        BusyError
            Calls are under way in other threads, there are views of a message, or the handle keeps messages that were
            taken for tasks which were cancelled, or by a get that failed: ``get_many(block=False)`` returns them.
        TransportError, TimeoutError
            In another process's memory: staged messages could not be sent, or a role could not be given up. The handle
            stays open; call close() again. At the end of a with statement it is closed, and they are lost.
        ShutDownError, PeerDeadError, StaleDescriptorError, FencedError, NotHeldError
            There are staged messages (:meth:`put`), and they can never be sent: they are lost, and the handle is
            closed. Not raised if another call has raised it for them already.

        Notes
        -----
        Tasks that wait in an ``_async`` method get ClosedError, in all event loops.
        """
        try:
            _core.Queue.close(self)
        finally:
            if self.closed:  # also where it says that messages are lost
                self._readers.close()
                self._writers.close()
                NamedObject.close(self)

    def _leave(self) -> None:
        try:
            self.close()
        except (errors.TransportError, errors.TimeoutError):  # no caller is left to close it again
            self._abandon()
            self.close()
            raise

    def _leave_at_end(self, deadline: int) -> None:
        self._readers.close()
        self._writers.close()
        super()._leave_at_end(deadline)  # type: ignore[misc]
        self._forget_kept()

    def __del__(self) -> None:
        if not self.closed and not hasattr(
            self, "_memory"
        ):  # an interrupt ended _open(), whose caller closes the memory
            with contextlib.suppress(errors.DsmemError):
                _core.Queue.close(self)
        elif not self.closed:
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            finally:  # where a filter makes an error of the warning, too
                self._close_quietly()

    def _forget_kept(self) -> None:
        if self._drop_kept():
            text = "%r: messages are lost that were taken for tasks which were cancelled, or by a get that failed"
            logging.getLogger("dsmem").warning(text, self)

    def _close_quietly(self) -> None:
        self._forget_kept()
        try:
            self._leave()
        except errors.DsmemError as error:  # no caller gets it
            logging.getLogger("dsmem").warning("%r could not be closed properly: %s", self, error)


class _Waiters:
    """Tasks that wait for one descriptor to become readable, in any event loops of any threads.

    A loop that has waiting tasks watches a duplicate of the descriptor, which only that loop closes: the number of a
    descriptor that another thread closes may be another file's immediately afterwards. A future is completed in its own
    loop. The state of a loop is changed in its own thread only, with one exception: another thread may remove all
    futures of a loop from _futures, in one step.
    """

    def __init__(self) -> None:
        self._descriptors: dict[asyncio.AbstractEventLoop, int] = {}
        self._futures: dict[asyncio.AbstractEventLoop, dict[asyncio.Future[None], int]] = {}
        self._closed = False

    def lengths(self) -> list[int]:
        """Lengths of the messages for which tasks wait for room."""
        self._forget_closed()
        return [length for futures in list(self._futures.values()) for length in list(futures.values())]

    async def wait(self, duplicate: Callable[[], int], length: int = 0) -> None:
        """Wait until the descriptor is readable. Spurious returns are possible."""
        self._forget_closed()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if loop not in self._descriptors:
            self._descriptors[loop] = duplicate()
            loop.add_reader(self._descriptors[loop], self._end, None)
        self._futures.setdefault(loop, {})[future] = length
        try:
            if self._closed:  # checked after the future is stored: close() sets _closed, then takes the futures
                raise errors.ClosedError("queue")
            await future
        finally:
            self._futures.get(loop, {}).pop(future, None)
            self._unwatch(loop)

    def close(self) -> None:
        """End the waits of all tasks with ClosedError, also those that begin later."""
        self._closed = True
        self._end(errors.ClosedError("queue"))

    def _end(self, error: Exception | None) -> None:
        """Wake all tasks. A task that then finds nothing arms the descriptor again and waits."""
        here = asyncio._get_running_loop()
        for loop in list(self._futures):
            futures = self._futures.pop(loop, {})
            if loop is here:
                self._settle(loop, futures, error)
            else:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(self._settle, loop, futures, error)
        self._forget_closed()

    def _forget_closed(self) -> None:
        """Drop loops that were closed with waiting tasks: they watch nothing, and their tasks never continue."""
        for loop in list(self._descriptors):
            if loop.is_closed():
                self._futures.pop(loop, None)
                descriptor = self._descriptors.pop(loop, None)
                if descriptor is not None:
                    os.close(descriptor)

    def _settle(
        self, loop: asyncio.AbstractEventLoop, futures: dict[asyncio.Future[None], int], error: Exception | None
    ) -> None:
        for future in futures:
            if future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        self._unwatch(loop)

    def _unwatch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stop watching, unless a task of the loop waits. The descriptor stays readable until it is armed again."""
        if not self._futures.get(loop):
            self._futures.pop(loop, None)
            descriptor = self._descriptors.pop(loop, None)
            if descriptor is not None:
                loop.remove_reader(descriptor)
                os.close(descriptor)


_open: weakref.WeakSet[Queue] = weakref.WeakSet()


def _after_fork() -> None:
    """Forget tasks and loops: they are the parent's, and the descriptors that they watch are shared with it."""
    for queue in list(_open):
        queue._readers, queue._writers = _Waiters(), _Waiters()


os.register_at_fork(after_in_child=_after_fork)


class Pickled:
    """A queue of Python objects, by pickle protocol 5. Large buffers are sent out of band and copied once.

    Parameters
    ----------
    queue : Queue
        The queue. It stays open and belongs to the caller. Both sides wrap it. Plain messages come out as bytes.

    Warnings
    --------
    Unpickling runs code that the message names. Use it only if every producer may run arbitrary code in this process.

    Examples
    --------
    >>> jobs = dsmem.queue.Pickled(cluster.queue("jobs", create=None))
    >>> jobs.put({"image": array, "size": (64, 64)})
    """

    def __init__(self, queue: Queue) -> None:
        self.queue = queue

    def put(self, item: object, block: bool = True, timeout: float | None = None, *, flush: bool = True) -> None:
        """Put an object.

        Parameters
        ----------
        item : object
            Any object that can be pickled.
        block : bool
            Wait for room.
        timeout : float, optional
            Seconds to wait; None: no limit.
        flush : bool
            False: staged only, as by :meth:`Queue.put`.

        Raises
        ------
        FullError, MessageTooLargeError, ShutDownError and others
            As of :meth:`Queue.put`; also what pickle raises.
        """
        buffers: list[pickle.PickleBuffer] = []
        body = pickle.dumps(item, protocol=5, buffer_callback=buffers.append)
        parts = [memoryview(body), *(b.raw() for b in buffers)]
        head = struct.pack(f"<{1 + len(parts)}Q", len(parts), *(p.nbytes for p in parts))
        self.queue._put_parts([head, *parts], _PICKLED, block, timeout, flush)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the next object.

        Parameters
        ----------
        block : bool
            Wait for a message.
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        object
            The object, or bytes if the message was put without :class:`Pickled`.

        Raises
        ------
        EmptyError, ShutDownError and others
            As of :meth:`Queue.get`; also what pickle raises.
        """
        kind, data = self.queue._get_kind(block, timeout)
        if kind != _PICKLED:
            return data
        view = memoryview(data)
        (count,) = struct.unpack_from("<Q", view)
        sizes = struct.unpack_from(f"<{count}Q", view, 8)
        at, parts = 8 * (1 + count), []
        for size in sizes:
            parts.append(view[at : at + size])
            at += size
        return pickle.loads(parts[0], buffers=[bytearray(p) for p in parts[1:]])

    def put_nowait(self, item: object, *, flush: bool = True) -> None:
        """Put an object without waiting: ``put(item, block=False)``.

        Parameters
        ----------
        item : object
            Any object that can be pickled.
        flush : bool
            False: staged only, as by :meth:`Queue.put`.

        Raises
        ------
        FullError and others
            As of :meth:`put`.
        """
        self.put(item, False, flush=flush)

    def flush(self) -> None:
        """Send what was put with ``flush=False``. Errors are as of :meth:`Queue.put`."""
        self.queue.flush()

    def get_nowait(self) -> Any:
        """Take the next object without waiting: ``get(block=False)``."""
        return self.get(False)

    def qsize(self) -> int:
        """About how many messages are in the queue."""
        return self.queue.qsize()

    def empty(self) -> bool:
        """Whether qsize() is 0."""
        return self.queue.empty()

    def full(self) -> bool:
        """Whether the fullest lane may have no room for a message of ``max_message`` bytes."""
        return self.queue.full()


class Stamped:
    """A queue whose messages carry the stamps of a logical clock, to order messages of several producers.

    Parameters
    ----------
    queue : Queue
        The queue. It stays open and belongs to the caller. Both sides wrap it. Plain messages come out with stamp 0.
    clock : Lamport or HybridClock
        The clock of this side. Its stamps after a get() are greater than that of the message.

    Examples
    --------
    >>> stamped = dsmem.queue.Stamped(queue, dsmem.clock.HybridClock())
    >>> stamp = stamped.put(b"reading 17")
    """

    def __init__(self, queue: Queue, clock: Lamport | HybridClock) -> None:
        self.queue, self.clock = queue, clock

    def put(self, data: Buffer, block: bool = True, timeout: float | None = None, *, flush: bool = True) -> int:
        """Put a message with a new stamp.

        Parameters
        ----------
        data : bytes-like
            The message.
        block : bool
            Wait for room.
        timeout : float, optional
            Seconds to wait; None: no limit.
        flush : bool
            False: staged only, as by :meth:`Queue.put`.

        Returns
        -------
        int
            The stamp. It is taken before the wait for room, so messages of threads that share a handle may not be in
            the order of their stamps.

        Raises
        ------
        ArgumentTypeError
            ``data`` is not bytes-like.
        ClockDriftError
            The clock's ``send()`` raised it. Nothing was put.
        FullError and others
            As of :meth:`Queue.put`.
        """
        try:
            body = memoryview(data).cast("B")
        except TypeError as error:
            raise errors.ArgumentTypeError(f"data: {error}") from None
        with body:
            stamp = self.clock.send()
            self.queue._put_parts([struct.pack("<Q", stamp), body], _STAMPED, block, timeout, flush)
        return stamp

    def flush(self) -> None:
        """Send what was put with ``flush=False``. Errors are as of :meth:`Queue.put`."""
        self.queue.flush()

    def get(self, block: bool = True, timeout: float | None = None) -> tuple[int, bytes]:
        """Take the next message.

        Parameters
        ----------
        block : bool
            Wait for a message.
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        stamp : int
            The stamp of the message, which the clock has received.
        data : bytes
            The message.

        Raises
        ------
        ClockDriftError
            The clock refuses the stamp. The message has been taken: it is the error's attribute ``message``.
        EmptyError and others
            As of :meth:`Queue.get`.
        """
        kind, data = self.queue._get_kind(block, timeout)
        if kind != _STAMPED:
            return 0, data
        (stamp,) = struct.unpack_from("<Q", data)
        message = stamp, data[8:]
        try:
            self.clock.receive(stamp)
        except errors.ClockDriftError as error:
            error.message = message
            raise
        return message
