# Contexts and descriptors, of the module _core._core: see there.
from collections.abc import Iterable
from typing import Any, NamedTuple

from numpy.typing import ArrayLike, DTypeLike, NDArray
from typing_extensions import Buffer, Self

from ._core import Batch, Region, Remote

_Buffer = Buffer | NDArray[Any]

class Capabilities(NamedTuple):
    """What the fabric and the device of a context can do.

    Attributes
    ----------
    fabric : str
        "shm" or "verbs"; "fault+" before it where faults are injected.
    device : str
        Name of the RDMA device; empty on shm.
    port, gid_index, mtu : int
        Port, index in the GID table, and path MTU in bytes; 0 on shm.
    gid : str
        The GID, as an IPv6 address.
    is_roce : bool
        Whether the port is Ethernet.
    local_memory : bool
        Whether attached memory is mapped in this process, so that there are views of it.
    register_private : bool
        Whether :meth:`Context.register` takes any buffer. False on shm: use :meth:`Context.copy`.
    atomic_domain : str
        With what the atomic ops are atomic: "cpu", "nic", "global" or "none".
    max_inline : int
        Bytes of a write that travel within the request.
    max_reads : int
        Reads and atomics under way on one connection.
    depth : int
        Requests in a send queue.
    max_region : int
        Bytes of the largest region.
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

class Descriptor:
    """Address of a region: a small picklable object with which another process attaches to it.

    It grants nothing: the owner's agent checks the secret and the rights (docs/protocols/descriptor.md). Send it in any
    way: pickled, as ``bytes(descriptor)``, or as :meth:`hex` digits on a command line.

    Parameters
    ----------
    raw : bytes-like
        What ``bytes(descriptor)`` returned.

    Attributes
    ----------
    version : int
        Of the wire format.
    fabric : str
        "shm" or "verbs".
    access : str
        The rights that others have: letters of "rwa" (read, write, atomics).
    node : bytes
        The owner's 16-byte id.
    region, generation : int
        Number of the region at its owner, and a random number that tells it from later ones with that number.
    nbytes : int
        Length of the region.
    base, key : int
        Remote address and key, for the device.
    address : str
        Where the owner's agent listens.

    Raises
    ------
    DescriptorError
        The bytes are not a descriptor, or a damaged one.
    VersionError
        Another release wrote it.

    Examples
    --------
    >>> remote = context.attach(dsmem.Descriptor.fromhex(sys.argv[1]))
    """

    def __init__(self, raw: _Buffer) -> None: ...
    version: int
    fabric: str
    access: str
    node: bytes
    region: int
    generation: int
    nbytes: int
    base: int
    key: int
    address: str
    def __bytes__(self) -> bytes: ...
    def hex(self) -> str:
        """The descriptor as hexadecimal digits, for a command line or an environment variable."""

    @classmethod
    def fromhex(cls, text: str) -> Self:
        """The descriptor whose digits :meth:`hex` returned.

        Parameters
        ----------
        text : str
            The digits, in upper or lower case, with or without spaces.

        Returns
        -------
        Descriptor

        Raises
        ------
        DescriptorError
            The text is not hexadecimal, or not that of a descriptor.
        """

class Context:
    """The C core's context; users open :class:`dsmem.Context`."""

    def __init__(
        self,
        fabric: str,
        *,
        secret: bytes,
        device: str = "",
        port: int = 0,
        gid_index: int = -1,
        mtu: int = 0,
        listen: str | None = None,
        peer_timeout: float = 2.0,
        spin: float | None = None,
        depth: int = 0,
        service_level: int = 0,
        traffic_class: int = 0,
        fault: str | None = None,
    ) -> None: ...
    @property
    def capabilities(self) -> Capabilities:
        """What its fabric and device can do."""

    @property
    def fabric(self) -> str:
        """Name of the fabric: "shm" or "verbs"; "fault+" before it where faults are injected."""

    @property
    def agent_address(self) -> str:
        """Where its agent listens: "unix:@NAME" or "tcp:HOST:PORT"."""

    @property
    def node_id(self) -> bytes:
        """16 random bytes by which others know this context; :meth:`fence` takes them."""

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been called."""

    @property
    def stats(self) -> dict[str, int]:
        """Counters since the context was opened.

        posts
            Ops given to the fabric. Ops on mapped memory are not counted.
        doorbells
            Times that the device was told of new requests.
        signalled
            Requests with a completion of their own.
        wakeups
            Sleeps on the completion channel.
        connects
            Connections made.
        rejected
            Connections that the agent dropped because they failed to authenticate or broke the protocol.
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
            A length or rights that are invalid.
        OutOfMemoryError, LockedMemoryError
            The system gives no such memory; the message names the limit.
        """

    def empty(self, shape: int | tuple[int, ...], dtype: DTypeLike = "u1", access: str = "rwa") -> Region:
        """Allocate an array that other processes can reach.

        Parameters
        ----------
        shape : int or tuple of int
            Shape of ``region.array()``.
        dtype : dtype
            Type of the elements, not of Python objects.
        access : str
            Rights of other processes: letters of "rwa" (read, write, atomics).

        Returns
        -------
        Region
            Zeroed, in C order.

        Raises
        ------
        InvalidArgumentError
            A shape, dtype or rights that are invalid.
        OutOfMemoryError, LockedMemoryError
            The system gives no such memory; the message names the limit.

        Examples
        --------
        >>> region = context.empty((1000, 4), "f8")
        >>> region.array()[0] = 1.5
        """

    def empty_like(self, array: ArrayLike, access: str = "rwa") -> Region:
        """Allocate an array of the shape and dtype of another one.

        Parameters
        ----------
        array : array_like
            Anything that NumPy makes an array of, but not of Python objects. It is not copied.
        access : str
            Rights of other processes: letters of "rwa" (read, write, atomics).

        Returns
        -------
        Region
            Zeroed, in C order.

        Raises
        ------
        InvalidArgumentError
            Not an array, or an empty one, or one of Python objects.
        OutOfMemoryError, LockedMemoryError
            The system gives no such memory; the message names the limit.
        """

    def copy(self, array: ArrayLike, access: str = "rwa") -> Region:
        """Copy an array into memory that other processes can reach, on any fabric.

        Parameters
        ----------
        array : array_like
            Anything that NumPy makes an array of, but not of Python objects.
        access : str
            Rights of other processes: letters of "rwa" (read, write, atomics).

        Returns
        -------
        Region
            Of the same shape and dtype, in C order. Later changes of ``array`` do not show in it.

        Raises
        ------
        InvalidArgumentError
            Not an array, or an empty one, or one of Python objects.
        OutOfMemoryError, LockedMemoryError
            The system gives no such memory; the message names the limit.

        Examples
        --------
        >>> region = context.copy(numpy.eye(4))
        >>> shared = region.array()  # use this in place of the original
        """

    def register(self, buffer: _Buffer, access: str = "r") -> Region:
        """Let other processes reach a buffer that exists, without a copy.

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
            The fabric is shm, where other processes can't map private memory. Use :meth:`Context.copy`.
        ReadOnlyBufferError, NonContiguousError
            The buffer can't be registered as it is.
        LockedMemoryError
            The limit on locked memory is too low.
        """

    def register_many(self, buffers: Iterable[_Buffer], access: str = "r") -> list[Region]:
        """Register many buffers in one call: all of them or, after an exception, none.

        Parameters
        ----------
        buffers : iterable of buffer
            As of :meth:`register`. Buffers that touch share one registration of the device.
        access : str
            Rights of other processes to all of them.

        Returns
        -------
        list of Region
            One for each buffer, in the same order.

        Raises
        ------
        NotShareableError, ReadOnlyBufferError, NonContiguousError, LockedMemoryError
            As of :meth:`register`.
        """

    def attach(self, descriptor: Descriptor | _Buffer, *, timeout: float | None = None) -> Remote:
        """Attach to a region of another process, or of this one.

        Parameters
        ----------
        descriptor : Descriptor or bytes-like
            The region's ``descriptor``, or its bytes.
        timeout : float, optional
            Seconds to wait for the owner; by default the peer timeout of the context.

        Returns
        -------
        Remote

        Raises
        ------
        StaleDescriptorError
            The region has been closed.
        PeerDeadError
            The owner's process is gone.
        AuthenticationError
            The two sides have different secrets, or different users on one host.
        FencedError
            The owner has cut this context off.
        TimeoutError
            The owner did not answer in time.
        DescriptorError, VersionError
            The descriptor is damaged, or another release wrote it.
        """

    def batch(self, timeout: float | None = None) -> Batch:
        """Ops to be posted together, in one call of the core, at the end of a ``with`` block.

        Parameters
        ----------
        timeout : float, optional
            Seconds for all of them; by default the core's own limits hold.

        Returns
        -------
        Batch

        Raises
        ------
        InvalidArgumentError
            The timeout is not a number of seconds.
        """

    def fence(self, node_id: bytes) -> None:
        """Cut another context off: when the call returns, it can no longer reach memory of this one.

        Parameters
        ----------
        node_id : bytes
            The other context's :attr:`node_id`.

        Raises
        ------
        UnsupportedError
            The fabric is shm: memory that a process has mapped stays mapped.
        InvalidArgumentError
            Not 16 bytes.
        """

    def close(self) -> None:
        """Close the context with its regions and remotes. Closing twice has no effect.

        Raises
        ------
        BusyError
            A region has views, or calls are under way in other threads. Nothing has been closed then.
        """

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
