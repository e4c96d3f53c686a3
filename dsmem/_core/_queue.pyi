# Stubs of the queues of the extension module _core._core. _core.pyi imports them.
from collections.abc import Iterable
from typing import Any, overload

from numpy.typing import NDArray
from typing_extensions import Buffer

from ._core import Region, Remote

_Buffer = Buffer | NDArray[Any]

class Queue:
    """A handle of a queue and its lanes (docs/protocols/ring.md) on memory that holds one.

    Parameters
    ----------
    remote : Remote
        The memory. It cannot be closed before the queue.
    region : Region, optional
        The region, if this process owns the memory and the remote is not mapped.
    spin : float, optional
        Seconds to poll before sleeping in a call that waits. The default is 20 µs.

    Raises
    ------
    CorruptError, VersionError, MismatchError
        The memory does not hold a queue, or holds one of an incompatible release.
    NotMappedError
        The queue was created for processes of one host, and its memory is not mapped in this process.
    ClosedError, ForkError
        Raised by every method: the handle is closed, or the process is a forked child and the memory belongs to a
        context.

    Notes
    -----
    ``block`` and ``timeout`` have the same meaning as in :class:`queue.Queue`. Signal handlers run while a call waits.
    """

    def __init__(self, remote: Remote, region: Region | None = None, *, spin: float | None = None) -> None: ...
    @property
    def remote(self) -> Remote:
        """The memory that holds the queue."""

    @property
    def region(self) -> Region | None:
        """The region that was passed when the queue was opened, or None."""

    @property
    def closed(self) -> bool:
        """Whether this handle is closed."""

    @property
    def properties(self) -> dict[str, Any]:
        """Options chosen at creation: lanes, lane_bytes, max_message (bytes), many_consumers, drop_oldest, checked."""

    @property
    def counts(self) -> dict[str, int]:
        """Counters of the queue. They are read one after another, not at one moment.

        messages, bytes
            Messages in the queue, and bytes in the fullest lane, headers included.
        puts, gets, dropped
            Messages that were put, taken and, with ``drop_oldest``, dropped. The last operations of a killed process
            may be missing.
        full
            How often a producer on this host found no room and waited or gave up.
        producers
            Producers that are alive.
        shutdown
            0 open, 1 shut down, 2 shut down at once.

        Notes
        -----
        From memory that is not mapped the bytes of all messages are read, in a few round trips for each producer, and
        ``gets`` lacks what a consumer at another host has taken last.
        """

    def producers(self) -> list[int]:
        """Return the identities of the processes that have a lane, one for each lane that is taken."""

    def consumer(self) -> int | None:
        """Return the identity of the consuming process, or None if there is none or many may consume."""

    def break_(self, holder: int) -> bool:
        """Take the roles of a producer or consumer that is known to be dead, although its death is not proven here.

        Parameters
        ----------
        holder : int
            An identity that :meth:`producers` or :meth:`consumer` returned. All handles of a process on this host share
            one identity.

        Returns
        -------
        bool
            False if that process has no role.

        Raises
        ------
        InvalidArgumentError
            The argument is not an identity.
        TransportError, PeerDeadError, TimeoutError
            An op on another process's memory failed.

        Notes
        -----
        Another producer can take the lane with its contents; another consumer continues where the broken one stopped.
        The call is safe only if the holder can never access the memory again, for example because its host is off. A
        holder that is alive gets NotHeldError from its next put or get, over the network within 10 ms, and has to close
        its handle.
        """

    def produce(self) -> None:
        """Become a producer: take a lane, as the first put does.

        Raises
        ------
        TooManyMembersError
            Every lane has a living producer.
        """

    def consume(self) -> None:
        """Become a consumer, as the first get does.

        Raises
        ------
        BusyError
            The queue was created for one consumer, and another one is alive.
        NotMappedError
            The queue has many consumers, and the memory is another process's behind a device whose atomics do not
            exclude those of the owner's processor.
        """

    def put(self, data: _Buffer, block: bool = True, timeout: float | None = None, *, flush: bool = True) -> None:
        """Put a message.

        Parameters
        ----------
        data : bytes-like
            The message. All its bytes are copied.
        block : bool
            Whether to wait for room.
        timeout : float, optional
            Seconds to wait; None: no limit.
        flush : bool
            False: the message is staged in this handle, and sent with others in one op, in order: by :meth:`flush`,
            :meth:`close` or :meth:`shutdown`, by any other put of the handle, and when 64 KiB or a quarter of the lane
            are staged or the lane is full. Until then no consumer sees it, and it is lost if the process is killed.

        Raises
        ------
        FullError
            There was no room in time.
        MessageTooLargeError
            The message has more than ``max_message`` bytes.
        ShutDownError
            The queue was shut down.
        TooManyMembersError
            Every lane has a producer that is alive.
        TransportError, PeerDeadError, TimeoutError
            An op on another process's memory failed. If the exception's ``placed`` is 1, the message is staged in this
            handle and may have arrived. The next put, :meth:`flush` or :meth:`close` sends it again, which has no
            effect if it has arrived. Do not put it again. If ``placed`` is 0, the error occurred before the message was
            staged. Messages that were staged before stay staged in either case.

        Notes
        -----
        An op on another process's memory takes no longer than the timeout and the context's ``peer_timeout``, but is
        given at least 20 ms, because giving an op up breaks the connection. The first put also takes a lane.

        In mapped memory a message with ``flush=False`` is there at once; only sleeping consumers are woken later.
        What an error of :meth:`flush` or of a put means for messages that were staged before: TransportError and
        TimeoutError leave them staged; after ShutDownError, PeerDeadError, StaleDescriptorError, FencedError or
        NotHeldError they never go in, except those that an earlier failed send may have brought there.

        Examples
        --------
        >>> for reading in readings:
        ...     queue.put(reading, flush=False)
        >>> queue.flush()
        """

    def flush(self) -> None:
        """Send what is staged: messages put with ``flush=False``, and those of a put that failed.

        Errors are as for :meth:`put`. When it has returned, all that this handle has put is in the queue.
        """

    @property
    def staged(self) -> int:
        """Number of messages that are staged in this handle and not known to be in the queue. 0 in mapped memory."""

    def put_nowait(self, data: _Buffer, *, flush: bool = True) -> None:
        """Put a message without waiting: ``put(data, block=False)``.

        Parameters
        ----------
        data : bytes-like
            The message.
        flush : bool
            False: staged only, as by :meth:`put`.

        Raises
        ------
        FullError
            There is no room.
        MessageTooLargeError, ShutDownError, TooManyMembersError, TransportError, PeerDeadError, TimeoutError
            As for :meth:`put`.
        """

    def put_many(
        self, items: Iterable[_Buffer] | NDArray[Any], block: bool = True, timeout: float | None = None
    ) -> int:
        """Put many messages in one call.

        Parameters
        ----------
        items : iterable of bytes-like, or ndarray
            The messages. Each row of an array is one message.
        block : bool
            Whether to wait for room.
        timeout : float, optional
            Seconds to wait for room, for all messages together; None: no limit.

        Returns
        -------
        int
            Number of messages that were put: all, unless there was no room in time. Consumers may see the first message
            before the last one has been put.

        Raises
        ------
        MessageTooLargeError, ShutDownError, TooManyMembersError, TransportError, PeerDeadError, TimeoutError
            As for :meth:`put`. The attribute ``placed`` of an exception, even of one that the iterable raised, is the
            number of items, from the first, that were put or are staged.
        """

    def reserve(self, length: int, block: bool = True, timeout: float | None = None) -> memoryview:
        """Reserve room for a message in the queue's own memory. The caller fills it and then commits or cancels it.

        Parameters
        ----------
        length : int
            Length of the message in bytes.
        block : bool
            Whether to wait for room.
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        memoryview
            The reserved bytes, writable. A handle can have one reservation at a time.

        Raises
        ------
        FullError, MessageTooLargeError, ShutDownError, TooManyMembersError
            As for :meth:`put`.
        BusyError
            Another reservation is open.

        Examples
        --------
        >>> with queue.reserve(4096) as room:
        ...     n = file.readinto(room)
        >>> queue.commit(n)
        """

    def commit(self, length: int | None = None, *, _kind: int = ...) -> None:
        """Put the message that was reserved.

        Parameters
        ----------
        length : int, optional
            Length of the message in bytes, if it is shorter than the reservation.

        Raises
        ------
        BusyError
            There are views of the reserved bytes.
        InvalidArgumentError
            Nothing is reserved, or fewer than ``length`` bytes are.
        """

    def cancel(self) -> None:
        """Give up the reservation. It raises BusyError if there are views of the reserved bytes."""

    def get(self, block: bool = True, timeout: float | None = None) -> bytes:
        """Take the next message.

        Parameters
        ----------
        block : bool
            Whether to wait for a message.
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        bytes
            The message.

        Raises
        ------
        EmptyError
            There was no message in time.
        ShutDownError
            The queue was shut down and is empty, or was shut down with ``immediate=True``.
        BusyError
            The queue was created for one consumer, and another one is alive.
        CorruptError
            The memory does not hold a valid message.
        NotHeldError
            The role of the one consumer was taken by :meth:`break_`.
        TransportError, TimeoutError, PeerDeadError
            The memory is another process's, and an op failed. No message is lost: with one consumer the next call
            returns what was taken.
        OutcomeUnknownError
            Likewise, with many consumers: the message was taken, and no process gets it; or it is still there.

        Notes
        -----
        From memory that is not mapped messages are copied up to 64 KiB at a time, and each call then costs one round
        trip, by which they are taken: ``get_many`` takes many with one.
        """

    def get_nowait(self) -> bytes:
        """Take the next message without waiting: ``get(block=False)``. Errors are as for :meth:`get`."""

    def _get_kind(self, block: bool = True, timeout: float | None = None) -> tuple[int, bytes]: ...
    def _put_parts(
        self,
        parts: Iterable[_Buffer],
        kind: int,
        block: bool = True,
        timeout: float | None = None,
        flush: bool = True,
    ) -> None: ...
    @overload
    def get_many(
        self, n: int | None = None, block: bool = True, timeout: float | None = None, *, out: None = None
    ) -> list[bytes]:
        """Take the messages that are in the queue.

        Parameters
        ----------
        n : int, optional
            Maximum number of messages. Without it, at most as many as the queue has room for, and at most 2**20, so
            that the call returns however fast messages arrive.
        block : bool
            Whether to wait for the first message. The call does not wait for more.
        timeout : float, optional
            Seconds to wait; None: no limit.
        out : ndarray, optional
            A writable C-ordered array. Each message fills one of its rows, and must have the length of a row.

        Returns
        -------
        list of bytes, or int
            The messages, at least one. With ``out``, the number of rows that were filled, at least one.

        Raises
        ------
        EmptyError
            No message arrived in time.
        ShutDownError
            The queue was shut down and is empty, or was shut down with ``immediate=True``.
        MismatchError
            The next message does not have the length of a row of ``out``. It stays in the queue.
        CorruptError
            The memory does not hold a valid message.

        Notes
        -----
        From memory that is not mapped a call takes what lies together in one producer's lane, up to 64 KiB, so that an
        exception always tells of all that it has taken.
        """

    @overload
    def get_many(
        self, n: int | None = None, block: bool = True, timeout: float | None = None, *, out: NDArray[Any]
    ) -> int: ...
    def peek(self, block: bool = True, timeout: float | None = None) -> memoryview:
        """Return a view of the next message in place. The message stays in the queue until :meth:`release`.

        Parameters
        ----------
        block : bool
            Whether to wait for a message.
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        memoryview
            The message, read-only.

        Raises
        ------
        EmptyError, ShutDownError, BusyError, CorruptError
            As for :meth:`get`.
        UnsupportedError
            The queue has many consumers or ``drop_oldest``, so another process could remove the message at any time.
        """

    def release(self) -> None:
        """Remove the message that :meth:`peek` returned. It raises BusyError if there are views of the message."""

    def qsize(self) -> int:
        """Return the approximate number of messages in the queue. It costs as much as ``counts``."""

    def empty(self) -> bool:
        """Return whether qsize() is 0."""

    def full(self) -> bool:
        """Return whether the fullest lane may have no room for a message of ``max_message`` bytes."""

    def shutdown(self, immediate: bool = False) -> None:
        """Shut the queue down for all its users and wake all waiters. No more messages can be put.

        Parameters
        ----------
        immediate : bool
            If True, no more messages can be taken either, and what is staged in this handle is given up. Otherwise it
            is sent first.

        Raises
        ------
        TransportError, PeerDeadError, TimeoutError
            An op on another process's memory failed.
        ShutDownError
            The queue was shut down before, and messages that are staged in this handle are lost.

        Notes
        -----
        A put that is in progress in another process may still succeed, even after a consumer has seen the shutdown. A
        producer on another process's memory checks for the shutdown every 10 ms, and while it waits for room.
        """

    def fileno(self) -> int:
        """Return a file descriptor for select() and the like.

        It is readable when there may be a message, until a get() finds none. From the first call on, a thread watches
        the queue while the descriptor is not readable. The call makes the handle a consumer. Errors are as for
        :meth:`consume`.
        """

    @property
    def _far(self) -> bool: ...
    async def _get_async(self, n: int | None = None) -> list[bytes]: ...
    async def _put_async(self, data: Buffer) -> None: ...
    def _drop_kept(self) -> bool: ...  # whether messages were given up that no call has returned
    def _dup_items(self) -> int: ...
    def _dup_room(self) -> int: ...
    def _arm_room(self, length: int) -> None: ...
    def _abandon(self) -> None: ...
    def close(self) -> None:
        """Give up the roles of this handle. Closing twice has no effect.

        Raises
        ------
        BusyError
            Calls are in progress in other threads, there are views of a message, or the handle keeps messages that were
            taken for tasks which were cancelled, or by a get that failed: ``get_many(block=False)`` returns them.
        TransportError, TimeoutError
            A role could not be given up. The handle is still open; close it again.
        """

def queue_nbytes(
    lanes: int,
    lane_bytes: int,
    max_message: int,
    *,
    many_consumers: bool = False,
    drop_oldest: bool = False,
    checked: bool = False,
) -> int:
    """Return the size of a queue in bytes, or raise InvalidArgumentError, which names the invalid parameter."""

def queue_format(
    memory: _Buffer,
    lanes: int,
    lane_bytes: int,
    max_message: int,
    *,
    many_consumers: bool = False,
    drop_oldest: bool = False,
    checked: bool = False,
) -> None:
    """Write an empty queue into zeroed memory. No other process may see the memory yet."""
