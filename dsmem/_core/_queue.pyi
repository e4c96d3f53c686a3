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
        The memory, near or far; it can't be closed before the queue.
    region : Region, optional
        Where this process owns the memory and the remote is not near.
    spin : float, optional
        Seconds to poll before sleeping in a call that waits; by default 20 µs.

    Raises
    ------
    CorruptError, VersionError, MismatchError
        No queue, or one of another release.
    FarMemoryError
        The queue was made for processes of one host, and its memory is not mapped here.

    Notes
    -----
    block and timeout mean what they mean to queue.Queue; timeouts are in seconds. A signal handler runs while a call
    waits. All methods raise ClosedError, and ForkError in a child of the process that made the handle.
    """

    def __init__(self, remote: Remote, region: Region | None = None, *, spin: float | None = None) -> None: ...
    @property
    def remote(self) -> Remote:
        """The memory, as given."""

    @property
    def region(self) -> Region | None:
        """As given."""

    @property
    def closed(self) -> bool:
        """Whether this handle was closed."""

    @property
    def properties(self) -> dict[str, Any]:
        """lanes, lane_bytes, max_message (bytes), many_consumers, drop_oldest, checked."""

    @property
    def counts(self) -> dict[str, int]:
        """messages, puts, gets, dropped, full (times that a producer nearby found no room and waited or gave up),
        bytes (in the fullest lane), producers (alive), shutdown (0, 1, 2); seen one after another. puts, gets and
        dropped may miss what a killed process did last. FarMemoryError from afar."""

    def producers(self) -> list[int]:
        """The identities of those that have a lane, one for each lane."""

    def consumer(self) -> int | None:
        """The identity of the one consumer; None: nobody consumes, or many may."""

    def break_(self, holder: int) -> bool:
        """Take the roles of a producer or consumer that is known to be gone, though nothing here proves it.

        Another one gets the lane, with what is in it, or goes on taking where the consumer stopped. Safe where the
        holder will never again touch the memory: its host is off. One that lives all the same gets NotHeldError from
        its next put or get, elsewhere within 10 ms, and closes its handle.

        Parameters
        ----------
        holder : int
            As :meth:`producers` or :meth:`consumer` gave it. A process of this host has one for all its handles.

        Returns
        -------
        bool
            False: that one has no role.
        """

    def produce(self) -> None:
        """Take a lane.

        Raises
        ------
        TooManyMembersError
            Every lane has a living producer.
        """

    def consume(self) -> None:
        """Become a consumer.

        Raises
        ------
        BusyError
            The queue was made for one, which lives.
        FarMemoryError
            Messages are taken where the memory is.
        """

    def put(self, data: _Buffer, block: bool = True, timeout: float | None = None) -> None:
        """Put the bytes of data.

        Raises
        ------
        FullError
            No room, until the timeout.
        MessageTooLargeError
            More than max_message.
        ShutDownError
            The queue was shut down.
        TransportError, PeerDeadError, TimeoutError
            Into another process's memory. Where the exception's ``placed`` is 1, the message is staged in this handle
            and may or may not have arrived: the next put, or flush(), sends it again, which does no harm where it has,
            so do not put it again. Where it is 0, there was no message yet: the error came while looking for room.

        Notes
        -----
        No op into another process's memory lasts longer than the timeout, nor than the context's peer_timeout; giving
        one up breaks a connection, so it gets 20 ms at least. The first put takes a lane, which may last as long as the
        peer_timeout, besides.
        """

    def flush(self) -> None:
        """Send what an earlier call could not send to another process's memory; errors as of put()."""

    def put_nowait(self, data: _Buffer) -> None:
        """put(data, False)."""

    def put_many(
        self, items: Iterable[_Buffer] | NDArray[Any], block: bool = True, timeout: float | None = None
    ) -> int:
        """Put all items, each as one message, or all rows of an array; returns how many went in: all, unless there was
        no room until the timeout. Consumers may see the first before the last is in. Of an exception, also one that the
        iterable raised, ``placed`` says how many of the items went in, or are staged, as with put(): the first ones.
        """

    def reserve(self, length: int, block: bool = True, timeout: float | None = None) -> memoryview:
        """Room for a message in the queue's own memory, to be filled and then committed or cancelled. One at a time."""

    def commit(self, length: int | None = None, *, _kind: int = ...) -> None:
        """Put what was reserved, or its first length bytes. BusyError while views of the room are left."""

    def cancel(self) -> None:
        """Give the reservation up."""

    def get(self, block: bool = True, timeout: float | None = None) -> bytes:
        """Take the next message.

        Raises
        ------
        EmptyError
            No message, until the timeout.
        ShutDownError
            The queue was shut down, and is empty or was to end at once.
        CorruptError
            The memory was scribbled on.
        """

    def get_nowait(self) -> bytes:
        """get(False)."""

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
            A two-dimensional C-ordered array. Each message is copied into a row and must have the length of one.

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
        """The next message where it lies, read-only; it stays in the queue until release(). UnsupportedError with many
        consumers or drop_oldest, where others may take it meanwhile."""

    def release(self) -> None:
        """Take the message that was peeked at. BusyError while views of it are left."""

    def qsize(self) -> int:
        """Messages in the queue, about."""

    def empty(self) -> bool:
        """Whether qsize() is 0."""

    def full(self) -> bool:
        """Whether the fullest lane may have no room for a message of max_message bytes."""

    def shutdown(self, immediate: bool = False) -> None:
        """Nothing more goes in; immediate: nothing more comes out either. All who wait are woken.

        A put that is under way in another process meanwhile may still go in, also after a consumer saw the shutdown. A
        producer of another process's memory looks for it every 10 ms, and while it waits for room.
        """

    def fileno(self) -> int:
        """A file descriptor for select: readable when there may be a message, until a get() has found none. A thread
        watches the queue from the first call on, while nothing is readable.

        Who waits for messages is a consumer: this takes the role as :meth:`consume` does, and raises as it does."""

    def _dup_items(self) -> int: ...
    def _dup_room(self) -> int: ...
    def _arm_room(self, length: int) -> None: ...
    def _abandon(self) -> None: ...
    def close(self) -> None:
        """Leave the roles; again does nothing. BusyError while other threads are in a call or views are left. After a
        TransportError or TimeoutError it still has a role, and is open: close it again."""

def queue_nbytes(
    lanes: int,
    lane_bytes: int,
    max_message: int,
    *,
    many_consumers: bool = False,
    drop_oldest: bool = False,
    checked: bool = False,
) -> int:
    """Bytes of memory that such a queue takes. InvalidArgumentError says what does not fit."""

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
    """Make a queue of zeroed memory that nobody else knows yet."""
