"""What a client knows of a change whose outcome it does not know (docs/protocols/pages.md, "A change in doubt")."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from paging import SIZE

NUMBERS = (1 << 40) - 1
FREE = 4095


@dataclass
class Doubt:
    pid: int
    head: int  # that was to be
    version: int
    header: bytes = bytes(64)

    def packed(self):
        return struct.pack("<QQQQ", self.pid, 0, self.head, self.version) + self.header


def word(store, offset):
    return struct.unpack("<Q", part(store, offset, 8))[0]


def part(store, offset, nbytes):
    raw = bytearray(nbytes)
    store._memory.remote.read(offset, raw)
    return bytes(raw)


def head_of(store, pid):
    members, chunks = store._shape["members"], word(store, 88)
    return word(store, -(-(192 + 16 * members + 8 * chunks) // 64) * 64 + 8 * (pid & NUMBERS))


def frame_at(store, head):
    return word(store, 80) + (head & 0xFFFFFF) * (64 + SIZE)


def last(store, pid):
    """The change that has made the page what it is, as its client knows it."""
    head = head_of(store, pid)
    framed = head >> 52 == 0
    header = part(store, frame_at(store, head), 64) if framed else bytes(64)
    version = struct.unpack_from("<Q", header, 8)[0] if framed else head >> 24 & 0xFFFFFFF
    return Doubt(pid, head, version, header)


def made(head, version, state=0, low=0):
    return state << 52 | (version & 0xFFFFFFF) << 24 | low


def never(store, pid):
    """A change of the page that was not made."""
    version = store.version(pid) + 1
    return Doubt(pid, made(0, version), version, b"x" * 64)
