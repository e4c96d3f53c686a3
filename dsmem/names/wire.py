"""Requests for names at a server, and replies: docs/protocols/names.md, "At a server".

What is read here comes from another host. Each field is checked, and nothing but numbers and short texts is made of it.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from dsmem import errors
from dsmem.names.base import NameInfo, check_name

VERSION = 2
MOST = 1024  # bytes of a request and of a reply
NO_MODE = 0xFFFFFFFF
RELEASED_MOST = 100  # numbers in a request
_HEAD = struct.Struct("<BBH")  # version; request, or of a reply 0, or 1 to be asked again; 0 or the number of an error
_INFO = struct.Struct("<QdB")  # bytes, time of creation, whether its creator is dead
_PAGE = struct.Struct("<II")  # items in all, items in this reply


class NotYetError(errors.TimeoutError):
    """The server can't say it yet, and has changed nothing: it is to be asked again."""


class Request(enum.IntEnum):
    """What a client asks for."""

    FIND = (
        1  # cluster, kind, name, u64 number, u64 id or 0, u64 least bytes, u8 whether to make it longer -> descriptor
    )
    ALLOCATE = 2  # cluster, name, u64 number, u64 bytes -> u64 time, descriptor
    NAME = 3  # u64 number, u32 mode, name
    RELEASE = 4  # u64 numbers
    LIST = 5  # cluster, u64 number, u32 index of the first -> page of infos
    UNLINK = 6  # cluster, u64 id or 0, name
    GC = 7  # cluster, u64 number, u32 index of the first -> page of names

    PLACE = 8  # -> u64 that says where the names are

    # of a coordinator: docs/protocols/epochs.md
    COORDINATES = 16  # -> nothing, or UnsupportedError
    JOIN = (
        17  # u64 node, address, domain, the standing of the coordinator that it has heard of, u8 whether that knew it,
        # u64 most bytes that its objects may hold, fabrics by which they are reached
    )
    STORE_MAKE = 18  # cluster, name, u32 page size, u64 pages, u32 members, u32 copies, u32 extents if > 1 -> u64 id
    STORE_FIND = 19  # cluster, name, u64 id or 0, u64 epoch that is known, u64 lease that is given back or 0 -> phase
    # u64 id, u64 epoch, u64 lease, a report of the client if there is one
    STORE_LEASE = 20  # -> u8 whether it is the present one
    STORE_COPIES = 21  # cluster, name, u64 id or 0 -> how it is, and where its copies are
    NODES = 22  # cluster, u64 number, u32 index of the first -> page of nodes
    NODE_FORGET = 23  # address
    NODE_DRAIN = 24  # address, whether it is to have no copies
    STORE_CALLS = 25  # cluster, name, u64 id or 0 -> what clients have reported of late

    # of a memory node; before the fields u64 node, and the standing of the coordinator: u64 folder, run, began, written
    NODE = 32  # -> u64 node
    COPY_MAKE = 33  # u64 store, u64 epoch, u64 number, u64 making, u32 copy, shape as of STORE_MAKE -> descriptor
    COPY_CLOSE = 34  # u64 store, u64 epoch, u64 number -> descriptor
    COPY_DROP = 35  # u64 store, u64 making


def text(value: str) -> bytes:
    """Encode a text of at most 255 bytes."""
    raw = value.encode("utf-8", "replace")[:255]
    return bytes([len(raw)]) + raw


def number(value: int, nbytes: int = 8) -> bytes:
    """Encode a number."""
    return value.to_bytes(nbytes, "little")


def request(kind: Request, *fields: bytes) -> bytes:
    """Encode a request."""
    return _HEAD.pack(VERSION, kind, 0) + b"".join(fields)


def success(*fields: bytes) -> bytes:
    """Encode the reply to a request that has been executed."""
    return _HEAD.pack(VERSION, 0, 0) + b"".join(fields)


def failure(error: errors.DsmemError) -> bytes:
    """Encode the reply to a request that has failed."""
    code = error.code or errors.SystemCallError.code
    sys = error.sys if 0 <= error.sys < 1 << 16 else 0
    again = isinstance(error, NotYetError)
    return (_HEAD.pack(VERSION, again, code) + number(sys, 2) + error.detail.encode("utf-8", "replace"))[:MOST]


class Reader:
    """The fields of a message, in their order.

    Raises
    ------
    ProtocolError
        The message ends too early, or has something else at this place.
    """

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def take(self, nbytes: int) -> bytes:
        """Return the next bytes."""
        if len(self._raw) < nbytes:
            raise errors.ProtocolError("a message about names that ends too early")
        taken, self._raw = self._raw[:nbytes], self._raw[nbytes:]
        return taken

    def number(self, nbytes: int = 8) -> int:
        """Return a number."""
        return int.from_bytes(self.take(nbytes), "little")

    def text(self) -> str:
        """Return a text."""
        try:
            return self.take(self.number(1)).decode()
        except UnicodeDecodeError:
            raise errors.ProtocolError("a message about names with a text that is not UTF-8") from None

    def name(self) -> str:
        """Return the name of an object, a cluster or a kind."""
        return check_name(self.text())

    def rest(self) -> bytes:
        """Return all bytes that are left."""
        return self.take(len(self._raw))

    @property
    def goes_on(self) -> bool:
        """Whether bytes are left: fields that a message has only where they say something."""
        return bool(self._raw)

    def end(self) -> None:
        """Check that no bytes are left."""
        if self._raw:
            raise errors.ProtocolError("a message about names that goes on after its end")


def opened(raw: bytes) -> tuple[Request, Reader]:
    """Begin to read a request."""
    reader = Reader(raw)
    version, kind, zero = _HEAD.unpack(reader.take(_HEAD.size))
    if version != VERSION:
        raise errors.VersionError(f"a request for names of version {version}, this server has {VERSION}")
    if zero or kind not in list(Request):
        raise errors.ProtocolError(f"there is no request {kind} for names")
    return Request(kind), reader


def answered(raw: bytes) -> Reader:
    """Begin to read a reply. If the request has failed at the server, raise its error here."""
    reader = Reader(raw)
    version, again, code = _HEAD.unpack(reader.take(_HEAD.size))
    if version != VERSION or again > bool(code):
        raise errors.VersionError(f"a reply about names of version {version}, this release has {VERSION}")
    if not code:
        return reader
    sys = reader.number(2)
    kind = NotYetError if again else errors.BY_CODE.get(code, errors.ProtocolError)
    raise kind(reader.rest().decode("utf-8", "replace"), sys=sys)


def info(of: NameInfo) -> bytes:
    """Encode what a list says of one name."""
    fixed = _INFO.pack(of.nbytes, of.created, of.left)
    return fixed + text(of.name) + text(of.kind) + text(of.owner) + text(of.lifetime)


def read_info(reader: Reader) -> NameInfo:
    """Read what a list says of one name."""
    nbytes, created, left = _INFO.unpack(reader.take(_INFO.size))
    name, kind, owner, lifetime = (reader.text() for _ in range(4))
    return NameInfo(name, kind, nbytes, owner, created, lifetime, bool(left))


@dataclass
class Pages:
    """Encoded items, of which each reply has as many as fit."""

    items: list[bytes]

    def page(self, first: int) -> tuple[bytes, bool]:
        """Encode the reply with the items from an index on. Return it, and whether it has the last one."""
        room, upto = MOST - _HEAD.size - _PAGE.size, first
        while upto < len(self.items) and len(self.items[upto]) <= room:
            room -= len(self.items[upto])
            upto += 1
        page = success(_PAGE.pack(len(self.items), max(0, upto - first)), *self.items[first:upto])
        return page, upto >= len(self.items)


def read_page(reader: Reader) -> tuple[int, int]:
    """Return how many items there are in all, and how many follow here."""
    total, here = _PAGE.unpack(reader.take(_PAGE.size))
    return total, here
