# Queues, of the module _core._core: see there.
from collections.abc import Iterable
from typing import Any, overload

from numpy.typing import NDArray
from typing_extensions import Buffer

from ._core import Region, Remote

_Buffer = Buffer | NDArray[Any]

class Queue:
    """The lanes of a queue (docs/protocols/ring.md) on memory that holds one.

    Parameters
    ----------
    remote : Remote
        The memory. It can't be closed before the queue.
    region : Region, optional
        The region, where this process owns the memory and the remote is not mapped.
    spin : float, optional
        Seconds to poll before sleeping in a call that waits; by default 20 µs.

    Raises
    ------
    CorruptError, VersionError, MismatchError
        The memory does not hold a queue, or holds one of another release.
    NotMappedError
        The queue was made for processes of one host, and its memory is not mapped here.
    ClosedError, ForkError
        Out of each method: the handle is closed; the process is a forked child and the memory belongs to a context.

    Notes
    -----
    ``block`` and ``timeout`` mean what they mean in :class:`queue.Queue`. Signal handlers run while a call waits.
    """

    def __init__(self, remote: Remote, region: Region | None = None, *, spin: float | None = None) -> None: ...
    @property
    def remote(self) -> Remote:
        """The memory that the queue is on."""

    @property
    def region(self) -> Region | None:
        """The region, where this process owns the memory and was given it; otherwise None."""

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""

    @property
    def properties(self) -> dict[str, Any]:
        """What its creator chose: lanes, lane_bytes, max_message (bytes), many_consumers, drop_oldest, checked."""

    @property
    def counts(self) -> dict[str, int]:
        """Counters of the queue, read one after another.

        messages, bytes
            Messages in it, and bytes in the fullest lane.
        puts, gets, dropped
            Messages that were put, taken and, with ``drop_oldest``, dropped. What a killed process did last may be
            missing.
        full
            Times that a producer on this host found no room and waited or gave up.
        producers
            Producers that live.
        shutdown
            0 open, 1 shut down, 2 shut down at once.

        Raises
        ------
        NotMappedError
            The memory is not mapped in this process.
        """

    def producers(self) -> list[int]:
        """Identities of the processes that have a lane, one for each lane."""

    def consumer(self) -> int | None:
        """Identity of the process that consumes; None: none does, or many may."""

    def break_(self, holder: int) -> bool:
        """Take the roles of a producer or consumer that is known to be gone, although no death is proven here.

        Parameters
        ----------
        holder : int
            What :meth:`producers` or :meth:`consumer` returned. All handles of a process of this host have one.

        Returns
        -------
        bool
            False: that process has no role.

        Raises
        ------
        InvalidArgumentError
            Not an identity.
        TransportError, PeerDeadError, TimeoutError
            An op on another process's memory failed.

        Notes
        -----
        Another producer gets the lane with what is in it; another consumer goes on where that one stopped. Safe if
        the holder can never again touch the memory: its host is off. A holder that lives gets NotHeldError from its
        next put or get, over the network within 10 ms, and closes its handle.
        """

    def produce(self) -> None:
        """Take a lane, as the first put does.

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
            The queue was made for one consumer, which lives.
        NotMappedError
            Messages are taken on the host of the memory only.
        """

    def put(self, data: _Buffer, block: bool = True, timeout: float | None = None) -> None:
        """Put a message.

        Parameters
        ----------
        data : bytes-like
            The message: all its bytes are copied.
        block : bool
            Wait for room.
        timeout : float, optional
            Seconds to wait; None: no limit.

        Raises
        ------
        FullError
            There was no room in time.
        MessageTooLargeError
            The message has more than ``max_message`` bytes.
        ShutDownError
            The queue was shut down.
        TooManyMembersError
            Every lane has a living producer.
        TransportError, PeerDeadError, TimeoutError
            An op on another process's memory failed. If the exception's ``placed`` is 1, the message is staged in this
            handle and may have arrived: the next put, or :meth:`flush`, sends it again, which is harmless if it has.
            Do not put it again. If ``placed`` is 0, the error came before there was a message.

        Notes
        -----
        An op on another process's memory lasts no longer than the timeout and the context's ``peer_timeout``, but at
        least 20 ms, as giving one up breaks a connection. The first put also takes a lane.
        """

    def flush(self) -> None:
        """Send what earlier calls could not send to another process's memory; errors as of :meth:`put`."""

    def put_nowait(self, data: _Buffer) -> None:
        """Put a message without waiting: ``put(data, block=False)``.

        Parameters
        ----------
        data : bytes-like
            The message.

        Raises
        ------
        FullError
            There is no room.
        MessageTooLargeError, ShutDownError, TooManyMembersError, TransportError, PeerDeadError, TimeoutError
            As of :meth:`put`.
        """

    def put_many(
        self, items: Iterable[_Buffer] | NDArray[Any], block: bool = True, timeout: float | None = None
    ) -> int:
        """Put many messages in one call.

        Parameters
        ----------
        items : iterable of bytes-like, or ndarray
            The messages; of an array each row is one.
        block : bool
            Wait for room.
        timeout : float, optional
            Seconds to wait for room, for all of them; None: no limit.

        Returns
        -------
        int
            How many were put: all, unless there was no room in time. Consumers may see the first before the last is
            in.

        Raises
        ------
        MessageTooLargeError, ShutDownError, TooManyMembersError, TransportError, PeerDeadError, TimeoutError
            As of :meth:`put`. ``placed`` of an exception, also of one that the iterable raised, says how many of the
            items were put, or are staged: the first ones.
        """

    def reserve(self, length: int, block: bool = True, timeout: float | None = None) -> memoryview:
        """Reserve room for a message in the queue's own memory, to be filled and then committed or cancelled.

        Parameters
        ----------
        length : int
            Bytes of the message.
        block : bool
            Wait for room.
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        memoryview
            The room, writable. There is one reservation at a time.

        Raises
        ------
        FullError, MessageTooLargeError, ShutDownError, TooManyMembersError
            As of :meth:`put`.
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
            Only its first bytes, so many.

        Raises
        ------
        BusyError
            There are views of the room.
        InvalidArgumentError
            Nothing is reserved, or less than ``length``.
        """

    def cancel(self) -> None:
        """Give up the reservation. Raises BusyError if there are views of the room."""

    def get(self, block: bool = True, timeout: float | None = None) -> bytes:
        """Take the next message.

        Parameters
        ----------
        block : bool
            Wait for a message.
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
            The queue was shut down, and is empty or was to end at once.
        BusyError
            The queue was made for one consumer, and another one lives.
        CorruptError
            The memory does not hold a valid message.
        """

    def get_nowait(self) -> bytes:
        """Take the next message without waiting: ``get(block=False)``. Errors as of :meth:`get`."""

    def _get_kind(self, block: bool = True, timeout: float | None = None) -> tuple[int, bytes]: ...
    def _put_parts(
        self, parts: Iterable[_Buffer], kind: int, block: bool = True, timeout: float | None = None
    ) -> None: ...
    @overload
    def get_many(
        self, n: int | None = None, block: bool = True, timeout: float | None = None, *, out: None = None
    ) -> list[bytes]:
        """Take the messages that are there.

        Parameters
        ----------
        n : int, optional
            At most so many. Without it, at most as many as the queue has room for (and 2**20), so that the call ends
            however fast messages arrive.
        block : bool
            Wait for the first message; later ones are not waited for.
        timeout : float, optional
            Seconds to wait; None: no limit.
        out : ndarray, optional
            A writable C-ordered array. Each message fills one of its rows, and must have that length.

        Returns
        -------
        list of bytes, or int
            The messages, at least one. With ``out``: the number of rows that were filled, at least one.

        Raises
        ------
        EmptyError
            No message arrived in time.
        ShutDownError
            The queue was shut down, and is empty or was to end at once.
        MismatchError
            The next message is not as long as a row of ``out``. It stays in the queue.
        CorruptError
            The memory does not hold a valid message.
        """

    @overload
    def get_many(
        self, n: int | None = None, block: bool = True, timeout: float | None = None, *, out: NDArray[Any]
    ) -> int: ...
    def peek(self, block: bool = True, timeout: float | None = None) -> memoryview:
        """View the next message in place. It stays in the queue until :meth:`release`.

        Parameters
        ----------
        block : bool
            Wait for a message.
        timeout : float, optional
            Seconds to wait; None: no limit.

        Returns
        -------
        memoryview
            The message, read-only.

        Raises
        ------
        EmptyError, ShutDownError, BusyError, CorruptError
            As of :meth:`get`.
        UnsupportedError
            With many consumers or ``drop_oldest`` others may take the message meanwhile.
        """

    def release(self) -> None:
        """Take the message that was peeked at. Raises BusyError if there are views of it."""

    def qsize(self) -> int:
        """About how many messages are in the queue."""

    def empty(self) -> bool:
        """Whether qsize() is 0."""

    def full(self) -> bool:
        """Whether the fullest lane may have no room for a message of ``max_message`` bytes."""

    def shutdown(self, immediate: bool = False) -> None:
        """Shut the queue down for all its users: nothing more goes in. All that wait are woken.

        Parameters
        ----------
        immediate : bool
            Nothing more comes out either.

        Raises
        ------
        TransportError, PeerDeadError, TimeoutError
            An op on another process's memory failed.

        Notes
        -----
        A put that is under way in another process may still go in, also after a consumer has seen the shutdown. A
        producer on another process's memory looks for the shutdown every 10 ms, and while it waits for room.
        """

    def fileno(self) -> int:
        """File descriptor for select() and the like: readable when there may be a message, until a get() finds none.

        From the first call on, a thread watches the queue while the descriptor is not readable. The handle becomes a
        consumer by this call, with the errors of :meth:`consume`.
        """

    def _dup_items(self) -> int: ...
    def _dup_room(self) -> int: ...
    def _arm_room(self, length: int) -> None: ...
    def _abandon(self) -> None: ...
    def close(self) -> None:
        """Give up the roles of this handle. Closing twice has no effect.

        Raises
        ------
        BusyError
            Calls are under way in other threads, or there are views of a message.
        TransportError, TimeoutError
            A role could not be given up. The handle is open still: close it again.
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
    """Bytes of memory that such a queue takes; InvalidArgumentError says what does not fit."""

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
    """Write an empty queue into zeroed memory, before any other process sees that."""
