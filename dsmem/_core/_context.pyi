# Stubs of the contexts and descriptors of the extension module _core._core. _core.pyi imports them.
from collections.abc import Iterable
from typing import Any, NamedTuple

from numpy.typing import ArrayLike, DTypeLike, NDArray
from typing_extensions import Buffer, Self

from ._core import Batch, Pool, Region, Remote, Remotes

_Buffer = Buffer | NDArray[Any]

class Capabilities(NamedTuple):
    """What the fabric and the device of a context can do.

    Attributes
    ----------
    fabric : str
        "shm" or "verbs", with the prefix "fault+" if faults are injected.
    device : str
        Name of the RDMA device; empty on shm.
    port, gid_index, mtu : int
        Port number, index in the GID table, and path MTU in bytes; 0 on shm.
    gid : str
        The GID, as an IPv6 address.
    is_roce : bool
        Whether the port is Ethernet.
    local_memory : bool
        Whether attached memory is mapped in this process, so that views of it can be taken.
    register_private : bool
        Whether :meth:`Context.register` accepts any buffer. It is False on shm; use :meth:`Context.copy` there.
    atomic_domain : str
        What the atomic ops are atomic with respect to: "cpu", "nic" (this NIC only), "global" (NIC and CPU) or "none"
        (no atomics).
    max_inline : int
        Size of the largest write, in bytes, whose data is sent within the request.
    max_reads : int
        Maximum number of outstanding reads and atomics on one connection.
    depth : int
        Maximum number of requests in a send queue.
    max_region : int
        Size of the largest region in bytes.
    address : str
        Address of the context's agent for peers of this fabric: "unix:@NAME" or "tcp:HOST:PORT".
    """

    fabric: str
    device: str
    port: int
    gid: str
    gid_index: int
    mtu: int
    is_roce: bool
    local_memory: bool
    register_private: bool
    atomic_domain: str
    max_inline: int
    max_reads: int
    depth: int
    max_region: int
    address: str

class Way(NamedTuple):
    """One way to reach a region.

    Attributes
    ----------
    fabric : str
        "shm" or "verbs"; "fabric N" if it is of a later release.
    address : str
        Address on which the owner's agent listens for it: "unix:@NAME" or "tcp:HOST:PORT".
    """

    fabric: str
    address: str

class Descriptor:
    """Address of a region: a small picklable object with which another process attaches to it.

    A descriptor grants no access by itself: the owner's agent checks the secret and the rights
    (docs/protocols/descriptor.md). It can be sent in any form: pickled, as ``bytes(descriptor)``, or as :meth:`hex`
    digits on a command line.

    Parameters
    ----------
    raw : bytes-like
        The result of ``bytes(descriptor)``.

    Attributes
    ----------
    version : int
        Version of the wire format.
    ways : tuple of Way
        The fabrics by which the region can be reached. :meth:`Context.attach` takes the first that its context has and
        by which the owner answers. Those of the first way are also the attributes ``fabric`` and ``address``.
    bulk : tuple of Way
        More ways, for long reads and writes only: the region's atomics are executed by a device of another fabric
        (:attr:`Remote.bulk_fabric`).
    access : str
        Rights of other processes: letters of "rwa" (read, write, atomics).
    node : bytes
        The owner's 16-byte id.
    region, generation : int
        Number of the region at its owner, and a random number that distinguishes it from later regions with the same
        number.
    nbytes : int
        Length of the region.
    offset : int
        Where the region begins in its pool; 0 if it is not of a pool. The numbers above are then those of the pool.

    Raises
    ------
    DescriptorError
        The bytes are not a descriptor, or the descriptor is damaged.
    VersionError
        The descriptor was written by an incompatible release.

    Examples
    --------
    >>> remote = context.attach(dsmem.Descriptor.fromhex(sys.argv[1]))
    """

    def __init__(self, raw: _Buffer) -> None: ...
    version: int
    ways: tuple[Way, ...]
    bulk: tuple[Way, ...]
    fabric: str
    address: str
    access: str
    node: bytes
    region: int
    generation: int
    nbytes: int
    offset: int
    def __bytes__(self) -> bytes: ...
    def hex(self) -> str:
        """Return the descriptor as hexadecimal digits, for a command line or an environment variable."""

    @classmethod
    def fromhex(cls, text: str) -> Self:
        """Create a descriptor from the digits that :meth:`hex` returned.

        Parameters
        ----------
        text : str
            The digits, in upper or lower case, with or without spaces between bytes.

        Returns
        -------
        Descriptor

        Raises
        ------
        DescriptorError
            The text is not hexadecimal, or is not a descriptor.
        """

class Context:
    """The context of the C core. Programs use the subclass :class:`dsmem.Context`."""

    def __init__(
        self,
        fabric: str,
        *,
        secret: bytes,
        listen: str | None = None,
        advertise: str | None = None,
        peer_timeout: float = 2.0,
        spin: float | None = None,
        registration_cache: int | None = None,
        fault: str | None = None,
        serves: bool = False,
    ) -> None: ...
    @property
    def fabrics(self) -> tuple[Capabilities, ...]:
        """What each fabric of the context and its device can do, in the order of preference."""

    @property
    def capabilities(self) -> Capabilities:
        """Those of the first fabric."""

    @property
    def fabric(self) -> str:
        """Names of the fabrics: "shm", "verbs" or "shm,verbs", each with the prefix "fault+" if faults are injected."""

    @property
    def agent_address(self) -> str:
        """Address on which the agent listens for peers of the first fabric: "unix:@NAME" or "tcp:HOST:PORT"."""

    @property
    def node_id(self) -> bytes:
        """Id of this context: 16 random bytes. Other contexts pass it to :meth:`fence`."""

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been called."""

    @property
    def stats(self) -> dict[str, int]:
        """Counters since the context was opened.

        posts
            Ops posted to the fabric. Ops on mapped memory are not counted.
        doorbells
            Doorbells: how often the device was told of new requests.
        signalled
            Requests that were posted with a completion of their own.
        wakeups
            How often a thread slept on the completion channel.
        connects
            Connections made.
        rejected
            Connections that the agent dropped because they failed to authenticate or violated the protocol.
        failovers
            How often a peer was reached by another path than before.
        bulk
            Ops that went by another fabric than the atomics of their region (:attr:`Remote.bulk_fabric`). They are not
            among the posts, except for one READ that goes ahead of those of a call.
        cache_hits, cache_misses
            Ops whose local buffer the registration cache had, or had not and was asked to keep.
        cache_evicted
            Buffers that the registration cache no longer keeps because others needed the room.
        cache_bytes
            Bytes that the registration cache keeps now.
        """

    def allocate(self, nbytes: int, access: str = "rwa") -> Region:
        """Allocate memory that other processes can reach.

        Parameters
        ----------
        nbytes : int
            Length in bytes, at least 1. The memory is zeroed and page-aligned.
        access : str
            Rights of other processes: letters of "rwa" (read, write, atomics).

        Returns
        -------
        Region

        Raises
        ------
        InvalidArgumentError
            The length or the rights are invalid.
        OutOfMemoryError, LockedMemoryError
            The system cannot provide the memory. The message names the limit.
        """

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike = "u1", access: str = "rwa") -> Region:
        """Allocate an array that other processes can reach.

        Parameters
        ----------
        shape : int or tuple of int
            Shape of ``region.array()``.
        dtype : dtype
            Type of the elements. It must not contain Python objects.
        access : str
            Rights of other processes: letters of "rwa" (read, write, atomics).

        Returns
        -------
        Region
            Its memory is zeroed; its array is in C order.

        Raises
        ------
        InvalidArgumentError
            The shape, the dtype or the rights are invalid.
        OutOfMemoryError, LockedMemoryError
            The system cannot provide the memory. The message names the limit.

        Examples
        --------
        >>> region = context.empty((1000, 4), "f8")
        >>> region.array()[0] = 1.5
        """

    def empty_like(self, array: ArrayLike, access: str = "rwa") -> Region:
        """Allocate an array with the shape and dtype of another array.

        Parameters
        ----------
        array : array_like
            Anything that NumPy can convert to an array, except arrays of Python objects. The contents are not copied.
        access : str
            Rights of other processes: letters of "rwa" (read, write, atomics).

        Returns
        -------
        Region
            Its memory is zeroed; its array is in C order.

        Raises
        ------
        InvalidArgumentError
            The argument is not an array, or is an empty one, or is an array of Python objects.
        OutOfMemoryError, LockedMemoryError
            The system cannot provide the memory. The message names the limit.
        """

    def copy(self, array: ArrayLike, access: str = "rwa") -> Region:
        """Copy an array into memory that other processes can reach, on any fabric.

        Parameters
        ----------
        array : array_like
            Anything that NumPy can convert to an array, except arrays of Python objects.
        access : str
            Rights of other processes: letters of "rwa" (read, write, atomics).

        Returns
        -------
        Region
            A copy with the same shape and dtype, in C order. Later changes to ``array`` do not affect it.

        Raises
        ------
        InvalidArgumentError
            The argument is not an array, or is an empty one, or is an array of Python objects.
        OutOfMemoryError, LockedMemoryError
            The system cannot provide the memory. The message names the limit.

        Examples
        --------
        >>> region = context.copy(numpy.eye(4))
        >>> shared = region.array()  # use this instead of the original
        """

    def register(self, buffer: _Buffer, access: str = "r") -> Region:
        """Make an existing buffer reachable for other processes, without a copy.

        Parameters
        ----------
        buffer : buffer
            A writable, C-contiguous array, bytearray or the like. It stays in use until the region is closed.
        access : str
            Rights of other processes: letters of "rwa" (read, write, atomics).

        Returns
        -------
        Region

        Raises
        ------
        NotShareableError
            The fabric is shm, and other processes cannot map private memory. Use :meth:`Context.copy`.
        ReadOnlyBufferError, NonContiguousError
            The buffer is read-only, or is not C-contiguous.
        LockedMemoryError
            The limit on locked memory is too low.
        """

    def register_many(self, buffers: Iterable[_Buffer], access: str = "r") -> list[Region]:
        """Register many buffers in one call. If it raises, none of them is registered.

        Parameters
        ----------
        buffers : iterable of buffer
            The buffers, as for :meth:`register`. Adjacent buffers may share one registration with the device.
        access : str
            Rights of other processes to all of them.

        Returns
        -------
        list of Region
            One region for each buffer, in the same order.

        Raises
        ------
        NotShareableError, ReadOnlyBufferError, NonContiguousError, LockedMemoryError
            As for :meth:`register`.
        """

    def attach(self, descriptor: Descriptor | _Buffer, *, timeout: float | None = None) -> Remote:
        """Attach to a region of another process, or of this one.

        Parameters
        ----------
        descriptor : Descriptor or bytes-like
            The region's ``descriptor``, or its bytes.
        timeout : float, optional
            Seconds to wait for the owner. The default is the peer timeout of the context.

        Returns
        -------
        Remote

        Raises
        ------
        StaleDescriptorError
            The region has been closed.
        PeerDeadError
            The owner's process has ended.
        AuthenticationError
            The two sides have different secrets, or belong to different users of the same host.
        FencedError
            The owner has fenced this context.
        TimeoutError
            The owner did not answer in time.
        DescriptorError, VersionError
            The descriptor is damaged, or was written by an incompatible release.
        """

    def pool(self, nbytes: int, access: str = "rwa") -> Pool:
        """Allocate memory from which many regions are cut.

        Parameters
        ----------
        nbytes : int
            Length in bytes, at least 1; it is rounded up to a multiple of 64. The memory is zeroed.
        access : str
            Rights of other processes to all regions: letters of "rwa" (read, write, atomics).

        Returns
        -------
        Pool

        Raises
        ------
        InvalidArgumentError
            The length or the rights are invalid.
        OutOfMemoryError, LockedMemoryError
            The system cannot provide the memory. The message names the limit.
        """

    def attach_many(self, descriptors: _Buffer, *, timeout: float | None = None) -> Remotes:
        """Attach to many regions: all or none, without an object for each.

        The owner of a pool is asked for all of its regions in one exchange, and the pool is mapped once.

        Parameters
        ----------
        descriptors : ndarray or bytes-like
            Descriptors one behind another, of any pools, regions and owners: what :meth:`Pool.allocate_many` returned,
            elements of it, or ``b"".join(bytes(d) for d in descriptors)``.
        timeout : float, optional
            Seconds for the whole call. The default is the peer timeout of the context.

        Returns
        -------
        Remotes

        Raises
        ------
        StaleDescriptorError
            One of the regions has been closed or freed; ``error.index`` says which.
        DescriptorError, VersionError
            A descriptor is damaged, cut off, or was written by an incompatible release.
        PeerDeadError, AuthenticationError, FencedError, TimeoutError
            As for :meth:`attach`.
        """

    def batch(self, timeout: float | None = None, *, continue_on_error: bool = False) -> Batch:
        """Create a batch of ops that are posted together, in one call of the core, at the end of a ``with`` block.

        Parameters
        ----------
        timeout : float, optional
            Seconds for all ops together. By default the core's own limits apply.
        continue_on_error : bool
            Whether an op that fails leaves the others alone: those behind it that certainly were not executed are
            posted again, in order, on a new connection, within the same timeout. No op is sent twice, except reads of a
            batch of reads. The end of the block then raises nothing for ops; :attr:`Batch.errors` and
            :attr:`Batch.statuses` say what became of them.

        Returns
        -------
        Batch

        Raises
        ------
        InvalidArgumentError
            The timeout is not a valid number of seconds.
        """

    def fence(self, node_id: bytes) -> None:
        """Cut another context off. When the call returns, that context can no longer access memory of this one. What it
        held there over tcp or verbs (locks and the like) goes to others from then on, as that of a process that has
        died; not on verbs with atomics of domain "global".

        Parameters
        ----------
        node_id : bytes
            The other context's :attr:`node_id`.

        Raises
        ------
        UnsupportedError
            One of the fabrics is shm. The other context is disconnected, but memory that it has mapped stays mapped.
        TransportError
            A device of verbs did not close what the other context has used. Open another context, and close this one.
        InvalidArgumentError
            The id does not have 16 bytes.
        """

    def close(self) -> None:
        """Close the context with its regions and remotes. Closing twice has no effect.

        Raises
        ------
        BusyError
            A region or a remote has views or objects open on it, or calls are in progress in other threads. In this
            case nothing has been closed.
        """

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def __del__(self) -> None: ...
    def _closed_by_destructor(self) -> None: ...
