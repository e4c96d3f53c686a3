"""The exceptions of dsmem: one tree, and one class per row of csrc/base/err.def.

Every class is a :class:`DsmemError` and also the built-in exception that fits it, so both ``except DsmemError`` and
``except TimeoutError`` work. A message gives the cause and, after a semicolon, the remedy. A detail with both is the
whole message. A detail with only the cause is followed by the class's ``text``.

An argument of a wrong type, whatever its value, raises :class:`ArgumentTypeError`, which is a TypeError; one of a right
type and a wrong value :class:`InvalidArgumentError` or a class of its own, which is a ValueError. The first is one of
the second, so ``except InvalidArgumentError`` takes both.
"""

from __future__ import annotations

import builtins
import errno
import logging
import os
import queue
import threading
from typing import TYPE_CHECKING, Any

__all__ = [
    "AccessDeniedError",
    "AlignmentError",
    "ArgumentRangeError",
    "ArgumentTypeError",
    "AuthenticationError",
    "BrokenBarrierError",
    "BusyError",
    "CanceledError",
    "ClockDriftError",
    "ClosedError",
    "ConflictError",
    "CorruptError",
    "DescriptorError",
    "DsmemError",
    "EmptyError",
    "FabricUnavailableError",
    "FencedError",
    "ForkError",
    "FullError",
    "InvalidArgumentError",
    "InvalidNameError",
    "LocalMemoryError",
    "LockedMemoryError",
    "MessageTooLargeError",
    "MismatchError",
    "NameExistsError",
    "NameNotFoundError",
    "NoDeviceError",
    "NonContiguousError",
    "NotHeldError",
    "NotMappedError",
    "NotShareableError",
    "OutOfBoundsError",
    "OutOfMemoryError",
    "OutcomeUnknownError",
    "OutcomeUnknownPeerDeadError",
    "OutcomeUnknownTimeoutError",
    "PageNotFoundError",
    "PathLostError",
    "PeerDeadError",
    "PermitError",
    "PoolFullError",
    "ProtocolError",
    "ProviderMissingError",
    "ReadOnlyBufferError",
    "ShutDownError",
    "StaleDescriptorError",
    "StoreFullError",
    "SystemCallError",
    "TimeoutError",
    "TooFewCopiesError",
    "TooManyMembersError",
    "TransportError",
    "UnsupportedError",
    "VersionError",
]

if TYPE_CHECKING:

    class ShutDown(Exception):
        """The exception of queue.Queue after its shutdown."""

else:  # Python 3.13 has it
    ShutDown = getattr(queue, "ShutDown", None) or type("ShutDown", (Exception,), {"__module__": __name__})


# Remedies by the errno of a failed system call; more specific than the text of the class.
_BY_ERRNO = {
    errno.EMFILE: "this process may open no more files; close handles, or raise its limit with 'ulimit -n 65536'",
    errno.ENFILE: "this host may open no more files; close some, or raise its limit with 'sysctl fs.file-max=N'",
    errno.EAGAIN: "the kernel gives this process no more threads; raise what limits it: 'ulimit -u', a container's "
    "--pids-limit, 'sysctl vm.max_map_count'",
    errno.ENOMEM: "the kernel gives this process no more memory; free some, or raise what limits it: 'ulimit -v', "
    "'ulimit -l', 'sysctl vm.max_map_count', the container's memory",
    errno.EFBIG: "no file of this size is allowed; raise RLIMIT_FSIZE of this process: 'ulimit -f', or ask for less",
    errno.EADDRINUSE: "another process listens there; take another port, or leave the port out for a free one",
    errno.EADDRNOTAVAIL: "it is no address of this host; 'ip address' shows which there are, 0.0.0.0 is all of them",
    errno.ENOSPC: "no room is left; free some, or ask for less",
}


class DsmemError(Exception):
    """Base class of all errors that dsmem raises.

    Parameters
    ----------
    detail : str
        What went wrong: the call, the path. The message is this, the text of ``sys``, and the class's ``text`` unless
        the detail gives a remedy itself.
    sys : int
        The errno of the failed system call, or 0. If the class is an OSError, ``errno`` and ``strerror`` are set to it.
    status : int
        The status of the work completion (enum ibv_wc_status), or 0.
    vendor : int
        The device's own error code, or 0.
    peer : str, optional
        The node that owns the memory, in hexadecimal digits.
    device : str, optional
        The device that carried the op.
    op : str, optional
        The op: "read", "write", "fetch_add", "compare_swap", "attach" and so on.

    Attributes
    ----------
    code : int
        The number of the error in the C core and in the control protocol. A class attribute; 0 for DsmemError itself.
    text : str
        The general cause and the remedy. A class attribute.
    detail, sys, status, vendor, peer, device, op
        As passed to the constructor.
    placed : int
        For an exception raised by a queue's put: how many messages were put nevertheless. 0 otherwise.
    index : int or None
        For the exception of an op of a batch: the index of the op. None otherwise.
    """

    # of changes of a store: what their pages are asked for in its next epoch; of many, which were made
    _doubts: bytes = b""
    _versions: Any = None

    code: int = 0
    text: str = ""
    placed: int = 0
    index: int | None = None

    def __init__(
        self,
        detail: str = "",
        *,
        sys: int = 0,
        status: int = 0,
        vendor: int = 0,
        peer: str | None = None,
        device: str | None = None,
        op: str | None = None,
    ) -> None:
        if sys and not isinstance(self, (FileExistsError, FileNotFoundError)) and os.strerror(sys) not in detail:
            what, semicolon, remedy = detail.partition("; ")
            detail = ": ".join(filter(None, (what, os.strerror(sys)))) + semicolon + remedy
        super().__init__(self._message(detail, sys))
        self.detail = detail
        self.sys = sys
        self.status = status
        self.vendor = vendor
        self.peer = peer
        self.device = device
        self.op = op
        if sys and isinstance(self, OSError):
            vars(OSError)["errno"].__set__(self, sys)
            vars(OSError)["strerror"].__set__(self, os.strerror(sys))

    def _message(self, detail: str, sys: int) -> str:
        if "; " in detail:
            return detail
        general = self.text
        if isinstance(self, (SystemCallError, OutOfMemoryError)):
            general = _BY_ERRNO.get(sys, general)
        if detail and "; " not in general and isinstance(self, (InvalidArgumentError, SystemCallError)):
            return detail  # the detail is enough: the class has no remedy
        return ": ".join(filter(None, (detail, general)))

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {name: getattr(self, name) for name in ("sys", "status", "vendor", "peer", "device", "op")}
        return _rebuild, (type(self), self.detail, fields)


def _rebuild(cls: type[DsmemError], detail: str, fields: dict[str, Any]) -> DsmemError:
    return cls(detail, **fields)


class InvalidArgumentError(DsmemError, ValueError):
    """An argument has an invalid value or, where it is an :exc:`ArgumentTypeError`, an invalid type."""

    code = 1
    text = "invalid argument"


class OutOfMemoryError(DsmemError, OSError):
    """No memory is left on this host."""

    code = 2
    text = "no memory left on this host; free some or ask for less"


class OutOfBoundsError(DsmemError, ValueError):
    """The access would leave the region."""

    code = 3
    text = "the access leaves the region; check offset and length against remote.nbytes"


class AccessDeniedError(DsmemError, OSError):
    """The region does not grant the right that the op needs."""

    code = 4
    text = "the region does not grant this right; its owner chooses rights with access="


class AlignmentError(DsmemError, ValueError):
    """An atomic op at an offset that is not a multiple of 8."""

    code = 5
    text = "atomics work on 8-byte words; the offset must be a multiple of 8"


class StaleDescriptorError(DsmemError, ConnectionError):
    """The memory behind a descriptor is gone."""

    code = 6
    text = "the memory behind this descriptor is gone; get a fresh descriptor from its owner"


class DescriptorError(DsmemError, ValueError):
    """Bytes that are not a descriptor, or a damaged one."""

    code = 7
    text = "not a dsmem descriptor, or a damaged one; pass on the bytes unchanged"


class VersionError(DsmemError, ValueError):
    """Bytes, an object or a peer of a dsmem with another wire version."""

    code = 8
    text = (
        "made by a dsmem with another wire version; run the same release on both sides, and make again what the other "
        "one has made"
    )


class ClosedError(DsmemError, ValueError):
    """The object is closed."""

    code = 9
    text = "the object is closed"


class PeerDeadError(DsmemError, ConnectionError):
    """The process that owns the memory is gone."""

    code = 10
    text = "the owner of the memory is gone; attach again when it is back"


class AuthenticationError(DsmemError, ConnectionError):
    """The two sides have different secrets or users, or another program answers at the address."""

    code = 11
    text = (
        "the two sides do not belong together; give both the same DSMEM_SECRET or secret file, "
        "and on one host run both as the same user"
    )


class ProtocolError(DsmemError, ConnectionError):
    """The other side does not speak the control protocol."""

    code = 12
    text = "the other side does not speak dsmem's control protocol"


class TimeoutError(DsmemError, builtins.TimeoutError):
    """The deadline passed."""

    code = 13
    text = "the deadline passed"


class TransportError(DsmemError, ConnectionError):
    """The transport failed the op."""

    code = 14
    text = "the transport failed the operation"


class CanceledError(TransportError):
    """Another failure on the same connection, or an abort, ended the op. A write or atomic op was not executed."""

    code = 15
    text = "another failure on the same connection, or an abort, ended the operation before it was executed; repeat it"


class LockedMemoryError(DsmemError, OSError):
    """The limit on locked memory is too low."""

    code = 16
    text = (
        "the limit on locked memory is too low; raise it with 'ulimit -l unlimited' or memlock in "
        "/etc/security/limits.conf"
    )


class NoDeviceError(DsmemError, OSError):
    """No usable device for this fabric."""

    code = 17
    text = "no usable device for this fabric; run 'dsmem doctor'"


class ProviderMissingError(DsmemError, OSError):
    """The kernel has an RDMA device, but its user-space provider is missing."""

    code = 18
    text = "the kernel has an RDMA device but the user-space provider is missing; apt install ibverbs-providers"


class FabricUnavailableError(DsmemError, OSError):
    """The fabric is not available here."""

    code = 19
    text = "this fabric is not available here; run 'dsmem doctor'"


class ForkError(DsmemError, OSError):
    """The process has forked."""

    code = 20
    text = (
        "the process has forked and registrations do not survive that; open a context in the child, and pass the "
        "object's .ref to dsmem.attach() with it"
    )


class NotShareableError(DsmemError, BufferError):
    """Private memory that this fabric cannot share."""

    code = 21
    text = (
        "private memory cannot be reached by another process on this fabric; use ctx.copy(array), or"
        " ctx.empty_like(array) and fill it"
    )


class UnsupportedError(DsmemError, OSError):
    """The fabric cannot do this."""

    code = 22
    text = "the fabric cannot do this; see ctx.capabilities"


class BusyError(DsmemError, BufferError):
    """The object is in use."""

    code = 23
    text = "the object is in use; drop its views and finish its operations first"


class FencedError(DsmemError, ConnectionError):
    """The owner has fenced this node: it has no access any more."""

    code = 24
    text = "the owner has fenced this node and refuses it; close all of it, and connect() or make a Context again"


class SystemCallError(DsmemError, OSError):
    """A system call failed."""

    code = 25
    text = "a system call failed"


class ReadOnlyBufferError(DsmemError, BufferError):
    """A local buffer that cannot be written, given as a destination."""

    code = 26
    text = "the local buffer is read-only and can't be a destination; pass a bytearray or a writable array"


class NonContiguousError(DsmemError, BufferError):
    """A local buffer that is not C-contiguous."""

    code = 27
    text = "the local buffer is not C-contiguous; pass numpy.ascontiguousarray(x), or one op per row in a batch"


class FullError(DsmemError, queue.Full):
    """The queue has no room."""

    code = 28
    text = "the queue has no room for the message"


class EmptyError(DsmemError, queue.Empty):
    """The queue has no message."""

    code = 29
    text = "the queue has no message"


class ShutDownError(DsmemError, ShutDown):
    """The queue has been shut down."""

    code = 30
    text = (
        "the queue has been shut down; nothing goes in, and what is left in it can be taken; unlink it to make another"
    )


class CorruptError(DsmemError, OSError):
    """Shared memory that was corrupted or truncated."""

    code = 31
    text = "the shared memory does not hold what its header says; unlink the name and make the object again"


class MismatchError(DsmemError, ValueError):
    """The object has another shape, dtype, kind or size than was asked for."""

    code = 32
    text = "the object exists with other properties; attach without them, or with the same"


class NameExistsError(DsmemError, FileExistsError):
    """The name is taken."""

    code = 33
    text = "the name is taken; attach with create=None or False, or unlink it first"


class NameNotFoundError(DsmemError, FileNotFoundError):
    """No object has this name."""

    code = 34
    text = "no object has this name here; create=True or None makes one, 'dsmem ls' lists the names"


class InvalidNameError(DsmemError, ValueError):
    """Not a valid name."""

    code = 35
    text = "a name has 1 to 200 letters, digits or any of . _ - + and begins with a letter or digit"


class NotHeldError(DsmemError, RuntimeError):
    """A release of something that the caller does not hold."""

    code = 36
    text = "the caller does not hold it; it was never taken, was released, or another node has taken it over"


class BrokenBarrierError(DsmemError, threading.BrokenBarrierError):
    """The barrier was aborted, or a party died or timed out in it."""

    code = 37
    text = "the barrier is broken; all parties must leave it and reset() it"


class MessageTooLargeError(DsmemError, ValueError):
    """A message larger than the queue takes."""

    code = 38
    text = "the message is larger than the queue's max_message; the creator of the queue chooses that"


class TooManyMembersError(DsmemError, OSError):
    """All entries for participants are in use."""

    code = 39
    text = "all places are taken by processes that are not proven dead; close handles, or create it with more"


class NotMappedError(DsmemError, BufferError):
    """A view of memory that is not mapped in this process."""

    code = 40
    text = (
        "the memory is not mapped in this process, so there is no view of it; read it into a buffer and write it back"
    )


class ClockDriftError(DsmemError, ValueError):
    """A stamp that is too far ahead of the wall clock, or of the clock that receives it.

    Attributes
    ----------
    message : tuple of int and bytes, or None
        Stamp and body of the message that :meth:`dsmem.queue.Stamped.get` had taken when its clock refused the stamp.
    """

    message: tuple[int, bytes] | None = None

    code = 41
    text = (
        "a stamp is too far ahead of this node's wall clock; let NTP or PTP set the clocks of all nodes, or allow more "
        "with max_drift="
    )


class OutcomeUnknownError(TransportError):
    """The answer to a write or an atomic op was lost: the op may or may not have taken effect.

    Any other error of such an op says that it was not executed. ``__cause__`` is the reason why no answer came. If that
    is a TimeoutError or a PeerDeadError, the exception is of that class, too.
    """

    code = 42
    text = (
        "the answer was lost: the operation may or may not have taken effect; read the memory, and never send an "
        "atomic again before you know"
    )


class PoolFullError(DsmemError, OSError):
    """No free run of a pool is long enough. The message says how full the pool is."""

    code = 43
    text = "the pool has no free run of this length; close or free regions, or make a larger pool"


class PathLostError(DsmemError, ConnectionError):
    """Atomics can't be executed now: each device of the owner has a domain of its own, and one of them executes all."""

    code = 44
    text = (
        "the path to the only device of the owner that executes atomics is lost, and nothing was executed; "
        "reads and writes go on by another path, atomics are tried again after the peer timeout"
    )


class PageNotFoundError(DsmemError, LookupError):
    """No page of the store has the id: it was never allocated, or has been freed."""

    code = 45
    text = "no page has this id: it was never allocated here, or has been freed"


class StoreFullError(DsmemError, OSError):
    """The store has no free pages. Nothing was allocated."""

    code = 46
    text = "the store has no free pages; free some, or make a larger store"


class ConflictError(DsmemError, RuntimeError):
    """A page has changed since it was read, or does not have the version that was expected. Nothing was written.

    Of a transaction it says in ``detail`` which version was seen and which one is there, or in which slot the client is
    that is changing the page. On this host it also says which transaction has changed it.
    """

    #: Of a transaction: the id of the page.
    page: int | None = None

    code = 47
    text = "the page has changed meanwhile; read it and try again"


class LocalMemoryError(DsmemError, OSError):
    """The device of this process could not use the buffer of the op. It says nothing of the owner or of the path."""

    code = 48
    text = (
        "the device could not use the local memory of the operation; keep it allocated, mapped and writable until the "
        "operation has ended"
    )


class TooFewCopiesError(DsmemError, ConnectionError):
    """A change of a store whose ``min_copies`` is greater than the number of copies that count. Nothing was changed."""

    code = 49
    text = (
        "fewer copies count than this handle demands, and nothing was changed; health() says what is missing, try "
        "again when it is there"
    )


class OutcomeUnknownTimeoutError(OutcomeUnknownError, TimeoutError):
    """The deadline passed while the op was under way: it may or may not have taken effect."""


class OutcomeUnknownPeerDeadError(OutcomeUnknownError, PeerDeadError):
    """The owner ended, or could not be reached, while the op was under way: it may or may not have taken effect."""


class ArgumentTypeError(InvalidArgumentError, TypeError):
    """An argument of a type that is not taken, whatever its value: a TypeError, as Python raises it.

    Names and descriptors have classes of their own, for wrong types too: :exc:`InvalidNameError` and
    :exc:`DescriptorError`.
    """


class ArgumentRangeError(InvalidArgumentError, OverflowError):
    """A number out of range, such as a timeout of centuries."""


class PermitError(NotHeldError, ValueError):
    """A release of more permits of a semaphore than the handle has."""


def is_noted(block: tuple[object, ...], failed: DsmemError) -> bool:
    """Whether the block of a with statement has raised, by the arguments of ``__exit__``.

    If so, that exception comes out, and gets a note of the clean-up that has failed; before Python 3.11 a line is
    logged.
    """
    if not block or block[0] is None:
        return False
    text = f"the clean-up after it has failed, too: {type(failed).__name__}: {failed}"
    if hasattr(block[1], "add_note"):
        block[1].add_note(text)
    else:
        logging.getLogger("dsmem").warning("%r: %s", block[1], text)
    return True


BY_CODE: dict[int, type[DsmemError]] = {
    cls.code: cls
    for cls in vars().values()
    if isinstance(cls, type) and issubclass(cls, DsmemError) and vars(cls).get("code")
}
