"""Objects of this host, read and written by what docs/protocols says of them, without dsmem.

Nothing of dsmem is imported here, and no byte layout is taken from its code: where the documents are not enough for
this program, they are fixed. It needs x86-64: there a store of 8 aligned bytes by a memoryview is one store, and
stores are seen in their order. It has no compare-swap. So it takes a role or a lock only while no other does.

As a program it is a process of its own: python independent.py COMMAND CLUSTER.
"""

import ast
import contextlib
import ctypes
import fcntl
import functools
import math
import mmap
import os
import random
import stat
import struct
import sys
import time
import zlib
from pathlib import Path

PAGE = 4096
SECONDS = 60  # no wait is longer
TYPES = (
    "segment",
    "queue",
    "lock",
    "rwlock",
    "semaphore",
    "event",
    "condition",
    "barrier",
    "once",
    "spinlock",
    "clock",
)
FUTEX, WAKE = 202, 1  # of x86-64
_libc = ctypes.CDLL(None)


def waits(what):
    """Yields until what() holds, at most SECONDS."""
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline
        yield


def rounded(n, unit):
    return -(-n // unit) * unit


# ---- names.md ----


def user_folder():
    return Path("/dev/shm", f"dsmem-{os.geteuid()}")


def make(cluster, name, data, nbytes):
    """A name of nbytes that begin with data: whole or not there."""
    folder = user_folder() / cluster
    (folder / ".owned").mkdir(0o700, parents=True, exist_ok=True)
    for path, mode in ((folder.parent, 0o711), (folder, 0o700)):
        path.chmod(mode)
    fd = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.posix_fallocate(fd, 0, rounded(nbytes, PAGE))
    os.pwrite(fd, data, 0)
    os.link(f"/proc/self/fd/{fd}", folder / name, src_dir_fd=fd, follow_symlinks=True)
    os.close(fd)


# ---- objects.md ----


def header(kind, nbytes):
    return struct.pack(
        "<8sIIQQ32x", b"dsmemobj", 2, TYPES.index(kind) + 1, nbytes, int.from_bytes(os.urandom(8), "little") | 1
    )


def locked(fd, command, number):
    """fcntl with a lock of one byte, for F_OFD_SETLK and F_OFD_GETLK. The type that comes back."""
    done = fcntl.fcntl(fd, command, struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, number, 1, 0))
    return struct.unpack("@hhqqi4x", done)[0]


_FILE = Path(f"/dev/shm/dsmem-{os.geteuid()}.living")
_kept = []


@functools.cache
def identity():
    """This process's; no other may get one meanwhile, since there are no atomics here. Children can't call it."""
    fd = os.open(_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    assert os.fstat(fd).st_uid == os.geteuid() and not os.fstat(fd).st_mode & 0o022
    os.posix_fallocate(fd, 0, 65536)
    mapped = mmap.mmap(fd, 65536)
    mapped.madvise(mmap.MADV_DONTFORK)
    words = memoryview(mapped).cast("Q")
    user = os.geteuid()
    rest = 46 if user < 1 << 16 else 30
    base = user << rest | (rest == 30) << 62
    if not 0 < words[0] - base < 1 << rest - 2:
        words[0] = base + (random.getrandbits(rest - 2) | 1)
    number, words[1] = words[0] + words[1], words[1] + 1
    locked(fd, fcntl.F_OFD_SETLK, number)
    entry = (64 + 16 * ((words[1] - 1) % 4092)) // 8
    words[entry + 1] = os.getpid() | Path("/proc/self/ns/pid").stat().st_ino << 32
    words[entry] = number
    os.close(fd)
    _kept.append(words)  # with it the mapping, which has a descriptor of its own
    return number


def ended(number):
    """Whether the process of an identity of this user's is proven dead."""
    with _FILE.open("rb") as file:
        first, given = struct.unpack("<QQ", file.read(16))
        return bool(first) and 0 <= number - first < given and locked(file, fcntl.F_OFD_GETLK, number) == fcntl.F_UNLCK


class Object:
    """A name, mapped; words[offset / 8] are its 8-byte words."""

    def __init__(self, cluster, name, kind):
        path = user_folder() / cluster / name
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        info = os.fstat(fd)
        assert stat.S_ISREG(info.st_mode) and info.st_size % PAGE == 0
        self.map = mmap.mmap(fd, 0)
        os.close(fd)
        self.bytes = memoryview(self.map)
        self.words = self.bytes.cast("Q")
        magic, version, number, self.nbytes, self.id, zero = struct.unpack_from("<8sIIQQ16x16s", self.bytes)
        assert magic == b"dsmemobj" and version == 2 and TYPES[number - 1] == kind
        assert 64 <= self.nbytes <= info.st_size and self.id and not any(zero)

    def close(self):
        self.words.release()
        self.bytes.release()
        self.map.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def ring(self, at):
        """Wake all waiters of the eventcount at an offset. Returns how many; no other may do so meanwhile."""
        sequence, _ = struct.unpack_from("<II", self.bytes, at)
        struct.pack_into("<I", self.bytes, at + 4, 0)
        struct.pack_into("<I", self.bytes, at, (sequence + 1) % 2**32)
        word = ctypes.c_uint32.from_buffer(self.map, at)
        return _libc.syscall(FUTEX, ctypes.byref(word), WAKE, 2**31 - 1, None, None, 0)


# ---- segment.md ----

IDLE, LIVE, COPY = range(3)


def segment(shape, dtype, itemsize, capacity, versioned):
    """The bytes of a segment up to its data, and how many bytes it has in all."""
    text = repr(dtype).encode()
    row = itemsize * math.prod(shape[1:])
    room = rounded(capacity * row, PAGE)
    shadow = PAGE + room if versioned else 0
    nbytes = PAGE + room + (room if versioned else 0)
    fixed = header("segment", nbytes)
    fixed += struct.pack("<QQQQIII", capacity, row, PAGE, shadow, len(shape), itemsize, len(text))
    rest = struct.pack("<128s16x", struct.pack(f"<{len(shape)}Q", *shape))
    check = zlib.crc32(fixed + bytes(4) + rest + text)
    state = struct.pack("<QQ112x", shape[0], shape[0])
    return fixed + struct.pack("<I", check) + rest + state + text, nbytes


class Segment(Object):
    """An array of numbers that struct can read."""

    def __init__(self, cluster, name):
        super().__init__(cluster, name, "segment")
        fixed = struct.unpack_from("<QQQQIIII16Q16s", self.bytes, 64)
        self.capacity, self.row, self.data, self.shadow, axes, self.itemsize, length, check = fixed[:8]
        text = bytes(self.bytes[384 : 384 + length])
        assert check == zlib.crc32(bytes(self.bytes[:108]) + bytes(4) + bytes(self.bytes[112:256]) + text)
        self.dtype, self.axes = ast.literal_eval(text.decode("ascii")), fixed[8 : 8 + axes]
        assert self.data == PAGE and self.shadow % PAGE == 0
        self.format = {"<i8": "q", "<u8": "Q", "<f8": "d", "<i4": "i", "|u1": "B"}[self.dtype]

    @property
    def shape(self):
        return (self.words[256 // 8], *self.axes[1:])

    def _values(self, at, rows):
        return list(self.bytes[at : at + rows * self.row].cast(self.format))

    def values(self):
        """What lies there now, in C order."""
        return self._values(self.data, self.words[256 // 8])

    def put(self, index, value):
        """Store an element and ring. How many were woken."""
        self.bytes[self.data :].cast(self.format)[index] = value
        return self.ring(320)

    def snapshot(self):
        """Version and values of it; no half of another one."""
        while True:
            head = self.words[272 // 8]
            version, phase = head >> 2, head & 3
            rows, at = (256, self.data) if phase == COPY else (264, self.shadow)
            values = self._values(at, self.words[rows // 8])
            again = self.words[272 // 8]
            if again == head if phase == COPY else again >> 2 == version and again & 3 != COPY:
                return version, values

    def publish(self, value, die_after=7):
        """A version in which every element has the value; die after one of the steps."""
        version = self.words[272 // 8] >> 2
        nbytes = self.words[256 // 8] * self.row
        data = self.bytes[self.data : self.data + nbytes].cast(self.format)

        def fill():
            for i in range(len(data)):
                data[i] = value

        def copy():
            self.bytes[self.shadow : self.shadow + nbytes] = self.bytes[self.data : self.data + nbytes]

        steps = (
            lambda: self._store(280, identity()),
            lambda: self._store(272, version << 2 | LIVE),
            fill,
            lambda: self._store(272, version + 1 << 2 | COPY),
            copy,
            lambda: self._store(272, version + 1 << 2 | IDLE),
            lambda: self._store(280, 0),
        )
        for step in steps[:die_after]:
            step()
        if die_after < len(steps):
            os._exit(0)

    def _store(self, at, word):
        self.words[at // 8] = word


# ---- ring.md ----

MANY_CONSUMERS, DROP_OLDEST, CHECKED = 1, 2, 4
PADDING = 255


def queue_map(lanes, lane_bytes):
    """Offsets of the lanes' use, lines and bytes, and how many bytes the queue has in all."""
    used = 256 + rounded(8 * lanes, 64)
    lines = used + rounded(lanes, 64)
    data = rounded(lines + 256 * lanes, PAGE)
    return used, lines, data, data + lanes * lane_bytes


def queue(lanes, flags, lane_bytes, max_message):
    """The bytes of a queue up to its lanes' lines, and how many bytes it has in all."""
    nbytes = queue_map(lanes, lane_bytes)[3]
    return header("queue", nbytes) + struct.pack("<IIQQ", lanes, flags, lane_bytes, max_message), nbytes


def fold(total, word):
    total = (total ^ word) * 0x9E3779B97F4A7C15 % 2**64
    return total ^ total >> 29


class Queue(Object):
    """One process's end of a queue, as a producer or as the one consumer."""

    def __init__(self, cluster, name):
        super().__init__(cluster, name, "queue")
        self.lanes, self.flags, self.size, self.max_message = struct.unpack_from("<IIQQ", self.bytes, 64)
        self.used, self.lines, self.data, nbytes = queue_map(self.lanes, self.size)
        assert nbytes == self.nbytes
        self.unit = 16 if self.flags & CHECKED else 8
        self.lane = None

    def _line(self, lane, at):
        return (self.lines + 256 * lane + at) // 8

    def _place(self, lane, p):
        return self.data + lane * self.size + p % self.size

    def _check(self, p, head, payload):
        total = fold(fold(self.id, p), head)
        full = len(payload) // 8 * 8
        for (word,) in struct.iter_unpack("<Q", payload[:full]):
            total = fold(total, word)
        return fold(total, int.from_bytes(payload[full:], "little") ^ len(payload) - full << 56)

    def record(self, lane, p):
        """Kind, payload and the next position of the record at p; None: there is none yet."""
        at = self._place(lane, p)
        head = self.words[at // 8]
        length, kind = head % 2**32, head >> 32 & 0xFF
        if not head or head >> 40 != p // self.size % 2**24:
            return None
        payload = bytes(self.bytes[at + self.unit : at + self.unit + length])
        if self.flags & CHECKED and self.words[at // 8 + 1] != self._check(p, head, payload):
            return None
        if kind == PADDING:
            return kind, b"", p + self.size - p % self.size
        return kind, payload, p + self.unit + rounded(length, self.unit)

    # -- consumer --

    def consume(self):
        assert not self.words[128 // 8] and not self.flags & (MANY_CONSUMERS | DROP_OLDEST)
        self.words[128 // 8] = identity()

    def get(self):
        """Kind and payload of the next message of any lane, or None."""
        for lane in range(self.lanes):
            tail = self._line(lane, 64)
            found = self.bytes[self.used + lane] and self.record(lane, self.words[tail])
            if found and found[0] == PADDING:
                found = self.record(lane, found[2])
            if found:
                self.words[tail] = found[2]
                self.words[tail + 1] += 1
                self.ring(self.lines + 256 * lane + 128)
                return found[:2]
        return None

    # -- producer --

    def produce(self):
        self.lane = next(i for i in range(self.lanes) if not self.words[256 // 8 + i])
        self.words[256 // 8 + self.lane] = identity()
        head = self._line(self.lane, 64 if self.flags & CHECKED else 0)
        self.head = self.words[head]
        while self.head < self.words[head] + self.size and (found := self.record(self.lane, self.head)):
            self.head = found[2]
        self.bytes[self.used + self.lane] = 1

    def _write(self, p, kind, payload):
        """The record at p, the header last."""
        at = self._place(self.lane, p)
        head = len(payload) | kind << 32 | p // self.size % 2**24 << 40
        self.bytes[at + self.unit : at + self.unit + len(payload)] = payload
        if self.flags & CHECKED:
            self.words[at // 8 + 1] = self._check(p, head, payload)
        self.words[at // 8] = head

    def put(self, payload, kind=1):
        """False where there is no room."""
        assert not struct.unpack_from("<I", self.bytes, 136)[0]
        size = self.unit + rounded(len(payload), self.unit)
        left = self.size - self.head % self.size
        p = self.head + (left if size > left else 0)
        tail = self.words[self._line(self.lane, 64)]
        if p + size + 8 - tail > self.size:
            return False
        if not self.flags & CHECKED:
            self.words[self._place(self.lane, p + size) // 8] = 0
        self._write(p, kind, payload)
        if p != self.head:
            self._write(self.head, PADDING, b"")
        self.head = p + size
        line = self._line(self.lane, 0)
        self.words[line] = self.head
        self.words[line + 1] += 1
        self.ring(192)
        return True

    def leave(self):
        """Give back the roles that this process has."""
        if self.lane is not None:
            self.words[256 // 8 + self.lane] = 0
        if self.words[128 // 8] == identity():
            self.words[128 // 8] = 0


# ---- lock.md ----


def lock(members):
    nbytes = 256 + rounded(8 * members, 64)
    return header("lock", nbytes) + struct.pack("<I", members), nbytes


class Lock(Object):
    """The word and the members of a lock."""

    def __init__(self, cluster, name):
        super().__init__(cluster, name, "lock")
        self.count = struct.unpack_from("<I", self.bytes, 64)[0]
        assert self.nbytes == 256 + rounded(8 * self.count, 64)

    def word(self):
        """Identity of the holder or None, owner_died, token."""
        word = self.words[128 // 8]
        holder = self.members()[word % 2**10] if word >> 10 & 1 else None
        return holder, word >> 11 & 1, word >> 12

    def members(self):
        return list(self.words[256 // 8 : 256 // 8 + self.count])

    def take(self):
        word = self.words[128 // 8]
        assert not word >> 10 & 1
        self.entry = self.members().index(0)
        self.words[256 // 8 + self.entry] = identity()
        self.words[128 // 8] = (word >> 12) + 1 << 12 | word & 1 << 11 | 1 << 10 | self.entry

    def release(self):
        self.words[128 // 8] = self.words[128 // 8] >> 12 << 12
        self.ring(192)
        self.words[256 // 8 + self.entry] = 0


# ---- clock.md ----


class Clock(Object):
    """The two words of a clock."""

    def __init__(self, cluster, name):
        super().__init__(cluster, name, "clock")

    def hybrid(self):
        """Milliseconds since 1970 and the counter."""
        return divmod(self.words[64 // 8], 2**16)

    def lamport(self):
        return self.words[128 // 8]


# ---- processes of their own ----


def echo(cluster):
    """Put what comes in 'in' into 'out', kinds and all, until an empty message has come."""
    with Queue(cluster, "in") as source, Queue(cluster, "out") as sink:
        source.consume()
        sink.produce()
        while True:
            found = []
            for _ in waits(lambda found=found: found.append(source.get()) or found[-1]):
                pass
            kind, payload = found[-1]
            for _ in waits(lambda kind=kind, payload=payload: sink.put(payload, kind)):
                pass
            if not payload:
                break
        source.leave()
        sink.leave()


def die_with_lock(cluster):
    Lock(cluster, "lock").take()
    os._exit(0)


def die_writing(cluster, step):
    Segment(cluster, "a").publish(int(step), int(step))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        {"echo": echo, "die_with_lock": die_with_lock, "die_writing": die_writing}[sys.argv[1]](*sys.argv[2:])
