# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=False
"""The Cython layer: buffers in, one call of the core without the GIL where it may block, exceptions out.

Threads: every object may be used from many threads. What counts uses (Remote.busy, Region.exports) is changed under the
GIL only; close() refuses while they are not zero. Near ops on up to NOGIL_FROM bytes keep the GIL: they take less time
than giving it back.
"""
cimport cython
from cpython.buffer cimport (
    PyBUF_SIMPLE, PyBUF_WRITABLE, Py_buffer, PyBuffer_FillInfo, PyBuffer_Release, PyObject_CheckBuffer,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

from dsmem._core cimport cdsm as c

import asyncio
import json
import warnings
import weakref
from collections import namedtuple

import numpy as np

from dsmem import errors

cdef enum:
    NOGIL_FROM = 32768
    BATCH_START = 64

cdef dict RIGHTS = {"r": c.DSM_READ, "w": c.DSM_WRITE, "a": c.DSM_ATOMIC}
cdef tuple DOMAINS = ("cpu", "nic", "global", "none")
cdef dict FABRICS = {1: "shm", 2: "verbs"}


# ---- errors ----

cdef object failure(int rc, str op=None, str peer=None, str device=None):
    """The exception for a code that this thread has just got from the core."""
    cdef const c.dsm_failure *f = c.dsm_last_error()
    cls = errors.BY_CODE.get(-rc, errors.DsmemError)
    if f.code != -rc:
        return cls(op=op, peer=peer, device=device)
    return cls(f.detail.decode("utf-8", "replace"), sys=f.sys, status=f.status, vendor=f.vendor, op=op, peer=peer,
               device=device)


cdef object refused(int code, str detail, str op=None):
    return errors.BY_CODE[code](detail, op=op)


cdef uint32_t rights(object access) except 0:
    cdef uint32_t bits = 0
    if not isinstance(access, str) or not access:
        raise refused(c.DSM_EINVAL, f"access={access!r}: any of the letters r, w and a")
    for letter in access:
        if letter not in RIGHTS:
            raise refused(c.DSM_EINVAL, f"access={access!r}: any of the letters r, w and a")
        bits |= RIGHTS[letter]
    return bits


cdef str letters(uint32_t bits):
    return "".join(k for k, v in RIGHTS.items() if bits & v)


cdef int64_t nanoseconds(object timeout, str name="timeout") except? -2:
    """Seconds, or None for none (-1)."""
    if timeout is None:
        return -1
    t = float(timeout)
    if not t >= 0:
        raise refused(c.DSM_EINVAL, f"{name}={timeout!r}: seconds, at least 0")
    return <int64_t> (t * 1e9) if t < 9e9 else <int64_t> 0x7fffffffffffffff


cdef uint64_t word(object value, str name) except? 0xdead:
    """A 64-bit word; negative numbers in two's complement."""
    if not -(1 << 63) <= value < 1 << 64:
        raise refused(c.DSM_EINVAL, f"{name}={value!r} does not fit 64 bits")
    return <uint64_t> (value & 0xffffffffffffffff)


cdef object wrong_offset(object offset):
    if isinstance(offset, int):
        return errors.OutOfBoundsError(f"offset {offset}")
    return refused(c.DSM_EINVAL, f"offset {offset!r} is not an int")


cdef inline uint64_t offset_of(object offset) except? 0xdead:
    try:
        return <uint64_t?> offset
    except (OverflowError, TypeError):
        pass
    try:
        return offset.__index__()
    except (OverflowError, TypeError, AttributeError):
        raise wrong_offset(offset) from None


# ---- local buffers ----

cdef object explain_buffer(object buffer, bint writable, Exception error):
    if not PyObject_CheckBuffer(buffer):
        return refused(c.DSM_EINVAL, f"{type(buffer).__name__} has neither the buffer protocol nor DLPack on this host")
    view = memoryview(buffer)
    if not view.c_contiguous:
        return refused(c.DSM_ECONTIGUOUS, f"shape {view.shape}, strides {view.strides}")
    if writable and view.readonly:
        return refused(c.DSM_EREADONLY, type(buffer).__name__)
    return refused(c.DSM_EINVAL, str(error))


cdef int take(object buffer, Py_buffer *view, bint writable) except -1:
    """A contiguous view; PyBuffer_Release when done."""
    try:
        PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
        return 0
    except Exception as error:
        if not hasattr(buffer, "__dlpack__") or PyObject_CheckBuffer(buffer):
            raise explain_buffer(buffer, writable, error) from None
    try:
        array = np.from_dlpack(buffer)
    except Exception as error:
        raise refused(c.DSM_EINVAL, f"DLPack of {type(buffer).__name__}: {error}") from None
    try:
        PyObject_GetBuffer(array, view, PyBUF_WRITABLE if writable else PyBUF_SIMPLE)
    except Exception as error:
        raise explain_buffer(array, writable, error) from None
    return 0


# ---- descriptors ----

cdef class Descriptor:
    """See the stub."""
    cdef bytes raw
    cdef dict fields

    def __init__(self, raw):
        cdef c.dsm_descriptor d
        self.raw = bytes(raw)
        cdef const char *p = self.raw
        cdef int rc = c.dsm_descriptor_parse(p, len(self.raw), &d)
        if rc:
            raise failure(rc, "parse")
        self.fields = {
            "version": d.version, "fabric": FABRICS[d.fabric], "access": letters(d.access),
            "node": (<char *> d.node)[:16],
            "region": d.region, "generation": d.generation, "nbytes": d.nbytes, "base": d.base, "key": d.key,
            "address": d.address.decode(),
        }

    def __getattr__(self, name):
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(name) from None

    def __bytes__(self):
        return self.raw

    def hex(self):
        return self.raw.hex()

    def __reduce__(self):
        return Descriptor, (self.raw,)

    def __eq__(self, other):
        return isinstance(other, Descriptor) and self.raw == (<Descriptor> other).raw

    def __hash__(self):
        return hash(self.raw)

    def __repr__(self):
        return f"<Descriptor {self.fabric} {self.nbytes} bytes '{self.access}' at {self.address}>"


# ---- contexts ----

Capabilities = namedtuple("Capabilities", [
    "fabric", "device", "port", "gid", "gid_index", "mtu", "is_roce", "near_memory", "register_private",
    "atomic_domain",
    "max_inline", "max_reads", "depth", "max_region"])


cdef class Context:
    """See the stub."""
    cdef c.dsm_ctx *ptr
    cdef object __weakref__
    cdef readonly object capabilities
    cdef readonly str fabric
    cdef readonly str agent_address
    cdef readonly bytes node_id
    cdef object children    # WeakSet of the open regions and remotes
    cdef str device
    cdef int busy           # calls under way in other threads
    cdef list pending       # asynchronous ops
    cdef object loop        # the event loop that watches them

    def __init__(self, fabric, *, secret, device="", port=0, gid_index=-1, mtu=0, listen=None, peer_timeout=2.0,
                 spin=None, depth=0, fault=None):
        cdef c.dsm_options o
        cdef int rc
        cdef c.dsm_ctx *ptr = NULL
        c.dsm_options_init(&o)
        fabric_b, device_b = fabric.encode(), device.encode()
        listen_b = None if listen is None else listen.encode()
        fault_b = None if fault is None else fault.encode()
        secret_b = bytes(secret)
        o.fabric = <const char *> fabric_b
        o.device = <const char *> device_b
        o.port, o.gid_index, o.mtu, o.depth = port, gid_index, mtu, depth
        if listen_b is not None:
            o.listen = <const char *> listen_b
        if fault_b is not None:
            o.fault = <const char *> fault_b
        o.secret = <const char *> secret_b
        o.secret_len = len(secret_b)
        o.peer_timeout_ns = nanoseconds(peer_timeout, "peer_timeout")
        if o.peer_timeout_ns <= 0:
            raise refused(c.DSM_EINVAL, f"peer_timeout={peer_timeout!r}: seconds, more than 0")
        o.spin_ns = nanoseconds(spin, "spin")
        with nogil:
            rc = c.dsm_open(&o, &ptr)
        if rc:
            raise failure(rc, "open", None, device or None)
        self.ptr = ptr
        self.children = weakref.WeakSet()
        self.pending = []
        self._describe()

    cdef _describe(self):
        cdef c.dsm_caps k
        cdef uint8_t node[16]
        c.dsm_capabilities(self.ptr, &k)
        c.dsm_node_id(self.ptr, node)
        self.fabric = k.fabric.decode()
        self.device = k.device.decode() or None
        self.node_id = (<char *> node)[:16]
        self.agent_address = c.dsm_agent_address(self.ptr).decode()
        self.capabilities = Capabilities(
            fabric=self.fabric, device=k.device.decode(), port=k.port, gid=k.gid.decode(), gid_index=k.gid_index,
            mtu=k.mtu,
            is_roce=bool(k.is_roce), near_memory=bool(k.near_memory), register_private=bool(k.register_private),
            atomic_domain=DOMAINS[k.atomic_domain], max_inline=k.max_inline, max_reads=k.max_reads, depth=k.depth,
            max_region=k.max_region)

    cdef int check(self) except -1:
        if self.ptr == NULL:
            raise refused(c.DSM_ECLOSED, "context")
        return 0

    @property
    def closed(self):
        return self.ptr == NULL

    @property
    def stats(self):
        cdef c.dsm_stats s
        self.check()
        c.dsm_get_stats(self.ptr, &s)
        return {"posts": s.posts, "doorbells": s.doorbells, "signalled": s.signalled, "wakeups": s.wakeups,
                "connects": s.connects, "rejected": s.rejected}

    # -- memory --

    def allocate(self, nbytes, access="rwa"):
        cdef uint32_t bits = rights(access)
        cdef uint64_t size
        cdef c.dsm_region *r = NULL
        cdef int rc
        self.check()
        try:
            size = nbytes
        except (OverflowError, TypeError):
            raise refused(c.DSM_EINVAL, f"nbytes={nbytes!r}: a number of bytes, at least 1") from None
        self.busy += 1
        with nogil:
            rc = c.dsm_alloc(self.ptr, size, bits, &r)
        self.busy -= 1
        if rc:
            raise failure(rc, "allocate", None, self.device)
        return new_region(self, r, "u1", None)

    def empty(self, shape, dtype="u1", access="rwa"):
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise refused(c.DSM_EINVAL, f"dtype {kind} holds Python objects, which mean nothing in another process")
        shape = tuple(shape) if hasattr(shape, "__iter__") else (int(shape),)
        count = 1
        for n in shape:
            if n < 0:
                raise refused(c.DSM_EINVAL, f"shape {shape}")
            count *= int(n)
        region = self.allocate(count * kind.itemsize, access)
        (<Region> region).kind, (<Region> region).shape = kind, shape
        return region

    def register(self, buffer, access="r"):
        return self.register_many([buffer], access)[0]

    def register_many(self, buffers, access="r"):
        cdef uint32_t bits = rights(access)
        cdef list of = list(buffers), made = []
        cdef size_t n = len(of), taken = 0, i
        cdef int rc = 0
        self.check()
        if not n:
            return made
        cdef Py_buffer *views = <Py_buffer *> malloc(n * sizeof(Py_buffer))
        cdef void **p = <void **> malloc(n * sizeof(void *))
        cdef uint64_t *sizes = <uint64_t *> malloc(n * sizeof(uint64_t))
        cdef c.dsm_region **out = <c.dsm_region **> malloc(n * sizeof(c.dsm_region *))
        try:
            if not views or not p or not sizes or not out:
                raise refused(c.DSM_ENOMEM, f"{n} buffers")
            for buffer in of:
                take(buffer, &views[taken], True)
                p[taken] = views[taken].buf
                sizes[taken] = views[taken].len
                taken += 1
            self.busy += 1
            with nogil:
                rc = c.dsm_register_many(self.ptr, n, p, sizes, bits, out)
            self.busy -= 1
            if rc:
                raise failure(rc, "register", None, self.device)
            for i in range(n):
                region = new_region(self, out[i], "u1", None)
                (<Region> region).source = views[i]
                (<Region> region).registered = True
                made.append(region)
            taken = 0
        finally:
            for i in range(taken):
                PyBuffer_Release(&views[i])
            free(views)
            free(p)
            free(sizes)
            free(out)
        return made

    def attach(self, descriptor, *, timeout=None):
        cdef int64_t ns = nanoseconds(timeout)
        cdef c.dsm_remote *r = NULL
        cdef int rc
        self.check()
        try:
            raw = bytes(memoryview(descriptor)) if PyObject_CheckBuffer(descriptor) else (<Descriptor?> descriptor).raw
        except TypeError:
            raise errors.DescriptorError(f"{type(descriptor).__name__} is neither a Descriptor nor bytes") from None
        cdef const char *p = raw
        cdef size_t n = len(raw)
        self.busy += 1
        with nogil:
            rc = c.dsm_attach(self.ptr, p, n, ns, &r)
        self.busy -= 1
        if rc:
            raise failure(rc, "attach", None, self.device)
        return new_remote(self, r)

    def batch(self, timeout=None):
        self.check()
        return Batch(self, timeout)

    def fence(self, node_id):
        cdef bytes node = bytes(node_id)
        cdef const char *p = node
        cdef int rc
        self.check()
        if len(node) != 16:
            raise refused(c.DSM_EINVAL, f"a node id has 16 bytes, not {len(node)}")
        self.busy += 1
        with nogil:
            rc = c.dsm_fence(self.ptr, <const uint8_t *> p)
        self.busy -= 1
        if rc:
            raise failure(rc, "fence")

    # -- asyncio --

    cdef submit(self, Pending op):
        """Starts an op and returns what can be awaited."""
        cdef int rc
        self.busy += 1
        with nogil:
            rc = c.dsm_submit(self.ptr, &op.op, 1, &op.ticket, NULL)
        self.busy -= 1
        if rc:
            op.release()
            raise failure(rc, op.name, op.remote.peer, self.device)
        op.submitted = True
        loop = asyncio.get_running_loop()
        op.future = loop.create_future()
        if c.dsm_test(&op.ticket):
            op.settle(self.device)
            return op.future
        if self.loop is not loop:
            self._watch(loop)
        self.pending.append(op)
        self._on_event()
        return op.future

    cdef _watch(self, loop):
        cdef int fd = c.dsm_event_fd(self.ptr)
        if fd < 0:
            raise failure(fd, "event_fd")
        if self.loop is not None and not self.loop.is_closed():
            self.loop.remove_reader(fd)
        loop.add_reader(fd, self._on_event)
        self.loop = loop

    def _on_event(self):
        """Settles what is complete; while anything is left, the next completion makes an event."""
        self._settle()
        if self.pending:
            c.dsm_arm(self.ptr)
            self._settle()

    cdef _settle(self):
        cdef Pending op
        left = []
        for op in self.pending:
            if c.dsm_test(&op.ticket):
                op.settle(self.device)
            else:
                left.append(op)
        self.pending = left

    cdef _stop_watching(self):
        cdef Pending op
        for op in self.pending:  # the deadline 0: abort, drain, and say so
            op.settle(self.device)
        self.pending = []
        if self.loop is not None and not self.loop.is_closed():
            self.loop.remove_reader(c.dsm_event_fd(self.ptr))
        self.loop = None

    # -- the end --

    def close(self):
        if self.ptr == NULL:
            return
        if self.busy:
            raise refused(c.DSM_EBUSY, f"{self.busy} calls on the context are under way in other threads")
        self._stop_watching()
        children = list(self.children)
        for child in children:
            child._refuse_busy()
        for child in children:
            child.close()
        cdef c.dsm_ctx *ptr = self.ptr
        self.ptr = NULL
        with nogil:
            c.dsm_close(ptr)

    def __enter__(self):
        self.check()
        return self

    def __exit__(self, *error):
        self.close()

    def __del__(self):
        if self.ptr != NULL:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
            self.close()

    def __repr__(self):
        return f"<{type(self).__name__} {self.fabric}{' closed' if self.ptr == NULL else ''}>"


# ---- regions ----

@cython.final
cdef class Region:
    """See the stub."""
    cdef c.dsm_region *ptr
    cdef object __weakref__
    cdef readonly Context context
    cdef readonly uint64_t nbytes
    cdef readonly object access
    cdef uint32_t exports
    cdef object kind, shape
    cdef bint registered
    cdef Py_buffer source

    def __init__(self):
        raise TypeError("made by Context.allocate, .empty and .register")

    cdef int check(self) except -1:
        if self.ptr == NULL:
            raise refused(c.DSM_ECLOSED, "region")
        return 0

    @property
    def closed(self):
        return self.ptr == NULL

    @property
    def descriptor(self):
        cdef uint8_t raw[256]
        self.check()
        cdef int n = c.dsm_region_descriptor(self.ptr, raw)
        return Descriptor(PyBytes_FromStringAndSize(<char *> raw, n))

    def array(self, dtype=None):
        self.check()
        if dtype is None:
            return np.frombuffer(self, self.kind).reshape(self.shape if self.shape is not None else -1)
        kind = np.dtype(dtype)
        if kind.hasobject or not kind.itemsize or self.nbytes % kind.itemsize:
            raise refused(c.DSM_EINVAL, f"{self.nbytes} bytes are no array of {kind}")
        return np.frombuffer(self, kind)

    def __getbuffer__(self, Py_buffer *view, int flags):
        self.check()
        PyBuffer_FillInfo(view, self, c.dsm_region_data(self.ptr), self.nbytes, 0, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1

    def __dlpack__(self, **options):
        return self.array().__dlpack__(**options)

    def __dlpack_device__(self):
        return (1, 0)

    def _refuse_busy(self):
        if self.exports:
            raise refused(c.DSM_EBUSY, f"the region has {self.exports} views (arrays or memoryviews)", "close")

    def close(self):
        if self.ptr == NULL:
            return
        self._refuse_busy()
        cdef c.dsm_region *ptr = self.ptr
        self.ptr = NULL
        self.context.children.discard(self)
        with nogil:
            c.dsm_region_close(ptr)
        if self.registered:
            PyBuffer_Release(&self.source)

    def __enter__(self):
        self.check()
        return self

    def __exit__(self, *error):
        self.close()

    def __del__(self):
        if self.ptr != NULL:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
            self.close()

    def __len__(self):
        return self.nbytes

    def __repr__(self):
        return f"<Region {self.nbytes} bytes '{self.access}'{' closed' if self.ptr == NULL else ''}>"


cdef object new_region(Context context, c.dsm_region *ptr, str kind, object shape):
    cdef Region r = Region.__new__(Region)
    r.ptr = ptr
    r.context = context
    r.nbytes = c.dsm_region_nbytes(ptr)
    r.access = letters(c.dsm_region_access(ptr))
    r.kind, r.shape = kind, shape
    context.children.add(r)
    return r


# ---- remotes ----

@cython.final
cdef class Remote:
    """See the stub."""
    cdef c.dsm_remote *ptr
    cdef bint near
    cdef int busy    # ops under way without the GIL
    cdef readonly uint64_t nbytes
    cdef object __weakref__
    cdef readonly Context context
    cdef readonly str access
    cdef readonly str peer
    cdef readonly str address

    def __init__(self):
        raise TypeError("made by Context.attach")

    cdef object failed(self, int rc, str op):
        return failure(rc, op, self.peer, self.context.device)

    cdef int check(self) except -1:
        if self.ptr == NULL:
            raise refused(c.DSM_ECLOSED, "remote")
        return 0

    @property
    def closed(self):
        return self.ptr == NULL

    def read(self, offset, out, timeout=None):
        cdef Py_buffer view
        cdef int rc
        cdef uint64_t at = offset_of(offset)
        cdef int64_t ns = -1 if timeout is None else nanoseconds(timeout)
        if self.ptr == NULL:
            self.check()
        take(out, &view, True)
        if self.near and view.len <= NOGIL_FROM:
            rc = c.dsm_read(self.ptr, at, view.buf, view.len, ns)
        else:
            self.busy += 1
            with nogil:
                rc = c.dsm_read(self.ptr, at, view.buf, view.len, ns)
            self.busy -= 1
        PyBuffer_Release(&view)
        if rc:
            raise self.failed(rc, "read")

    def write(self, offset, data, timeout=None):
        cdef Py_buffer view
        cdef int rc
        cdef uint64_t at = offset_of(offset)
        cdef int64_t ns = -1 if timeout is None else nanoseconds(timeout)
        if self.ptr == NULL:
            self.check()
        take(data, &view, False)
        if self.near and view.len <= NOGIL_FROM:
            rc = c.dsm_write(self.ptr, at, view.buf, view.len, ns)
        else:
            self.busy += 1
            with nogil:
                rc = c.dsm_write(self.ptr, at, view.buf, view.len, ns)
            self.busy -= 1
        PyBuffer_Release(&view)
        if rc:
            raise self.failed(rc, "write")

    def fetch_add(self, offset, value, timeout=None):
        cdef uint64_t old = 0, at = offset_of(offset), add = word(value, "value")
        cdef int64_t ns = -1 if timeout is None else nanoseconds(timeout)
        cdef int rc
        if self.ptr == NULL:
            self.check()
        if self.near:
            rc = c.dsm_fetch_add(self.ptr, at, add, &old, ns)
        else:
            self.busy += 1
            with nogil:
                rc = c.dsm_fetch_add(self.ptr, at, add, &old, ns)
            self.busy -= 1
        if rc:
            raise self.failed(rc, "fetch_add")
        return old

    def compare_swap(self, offset, expected, desired, timeout=None):
        cdef uint64_t old = 0, at = offset_of(offset), e = word(expected, "expected"), d = word(desired, "desired")
        cdef int64_t ns = -1 if timeout is None else nanoseconds(timeout)
        cdef int rc
        if self.ptr == NULL:
            self.check()
        if self.near:
            rc = c.dsm_compare_swap(self.ptr, at, e, d, &old, ns)
        else:
            self.busy += 1
            with nogil:
                rc = c.dsm_compare_swap(self.ptr, at, e, d, &old, ns)
            self.busy -= 1
        if rc:
            raise self.failed(rc, "compare_swap")
        return old

    cdef many(self, object offsets, object local, object timeout, bint reads):
        cdef Py_buffer where, view
        cdef size_t n, each
        cdef int rc
        cdef int64_t ns = -1 if timeout is None else nanoseconds(timeout)
        cdef str name = "read_many" if reads else "write_many"
        if not isinstance(offsets, np.ndarray) or offsets.dtype != UINT64:
            offsets = as_offsets(offsets)
        take(offsets, &where, False)
        try:
            self.check()
            take(local, &view, reads)
            n = where.len // 8
            each = view.len // n if n else 0
            if n * each != <size_t> view.len or (n and not each):
                PyBuffer_Release(&view)
                raise refused(c.DSM_EINVAL, f"{view.len} bytes do not divide into {n} equal pieces", name)
            if not n:
                rc = 0
            elif self.near and view.len <= NOGIL_FROM:
                rc = (c.dsm_read_many(self.ptr, <uint64_t *> where.buf, n, view.buf, each, ns) if reads else
                      c.dsm_write_many(self.ptr, <uint64_t *> where.buf, n, view.buf, each, ns))
            else:
                self.busy += 1
                with nogil:
                    if reads:
                        rc = c.dsm_read_many(self.ptr, <uint64_t *> where.buf, n, view.buf, each, ns)
                    else:
                        rc = c.dsm_write_many(self.ptr, <uint64_t *> where.buf, n, view.buf, each, ns)
                self.busy -= 1
            PyBuffer_Release(&view)
        finally:
            PyBuffer_Release(&where)
        if rc:
            raise self.failed(rc, name)

    def read_many(self, offsets, out, timeout=None):
        self.many(offsets, out, timeout, True)

    def write_many(self, offsets, data, timeout=None):
        self.many(offsets, data, timeout, False)

    # -- asyncio --

    def read_async(self, offset, out):
        cdef Pending p = Pending(self, "read")
        p.hold(c.DSM_OP_READ, offset_of(offset), out)
        return self.context.submit(p)

    def write_async(self, offset, data):
        cdef Pending p = Pending(self, "write")
        p.hold(c.DSM_OP_WRITE, offset_of(offset), data)
        return self.context.submit(p)

    def fetch_add_async(self, offset, value):
        cdef Pending p = Pending(self, "fetch_add")
        p.atomic(c.DSM_OP_FETCH_ADD, offset_of(offset), word(value, "value"), 0)
        return self.context.submit(p)

    def compare_swap_async(self, offset, expected, desired):
        cdef Pending p = Pending(self, "compare_swap")
        p.atomic(c.DSM_OP_COMPARE_SWAP, offset_of(offset), word(expected, "expected"), word(desired, "desired"))
        return self.context.submit(p)

    # -- the end --

    def _refuse_busy(self):
        if self.busy:
            raise refused(c.DSM_EBUSY, f"{self.busy} calls are under way in other threads", "close")

    def close(self):
        cdef int rc
        if self.ptr == NULL:
            return
        self._refuse_busy()
        rc = c.dsm_remote_close(self.ptr)
        if rc:
            raise self.failed(rc, "close")
        self.ptr = NULL
        self.context.children.discard(self)

    def __enter__(self):
        self.check()
        return self

    def __exit__(self, *error):
        self.close()

    def __del__(self):
        if self.ptr != NULL:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
            self.close()

    def __len__(self):
        return self.nbytes

    def __repr__(self):
        return f"<Remote {self.nbytes} bytes '{self.access}' at {self.address}{' closed' if self.ptr == NULL else ''}>"


cdef object new_remote(Context context, c.dsm_remote *ptr):
    cdef Remote r = Remote.__new__(Remote)
    cdef uint8_t node[16]
    c.dsm_remote_node(ptr, node)
    r.ptr = ptr
    r.context = context
    r.near = context.capabilities.near_memory
    r.nbytes = c.dsm_remote_nbytes(ptr)
    r.access = letters(c.dsm_remote_access(ptr))
    r.peer = (<char *> node)[:16].hex()
    r.address = c.dsm_remote_address(ptr).decode()
    context.children.add(r)
    return r


cdef object UINT64 = np.dtype("uint64")


cdef object as_offsets(object offsets):
    array = np.asarray(offsets)
    if not array.size:
        return np.empty(0, UINT64)
    if array.dtype.kind not in "iu" or (array.dtype.kind == "i" and array.size and array.min() < 0):
        raise refused(c.DSM_EINVAL, f"offsets are numbers of bytes from 0 up, not {array.dtype}")
    return np.ascontiguousarray(array, UINT64)


# ---- asynchronous ops ----

@cython.final
cdef class Pending:
    """One op that an event loop waits for. It keeps buffer, remote and itself where the core has been told they are."""
    cdef c.dsm_op op
    cdef c.dsm_ticket ticket
    cdef Remote remote
    cdef Py_buffer view
    cdef bint held, submitted
    cdef str name
    cdef object future

    def __cinit__(self, Remote remote, str name):
        remote.check()
        memset(&self.op, 0, sizeof(self.op))
        self.remote = remote
        self.name = name
        self.op.remote = remote.ptr

    cdef hold(self, int code, uint64_t offset, object buffer):
        take(buffer, &self.view, code == c.DSM_OP_READ)
        self.held = True
        self.op.code, self.op.offset, self.op.local, self.op.nbytes = code, offset, self.view.buf, self.view.len

    cdef atomic(self, int code, uint64_t offset, uint64_t operand, uint64_t desired):
        self.op.code, self.op.offset, self.op.nbytes = code, offset, 8
        self.op.operand, self.op.desired = operand, desired

    cdef release(self):
        if self.held:
            PyBuffer_Release(&self.view)
            self.held = False

    cdef settle(self, str device):
        """Complete, or given up: after this the core knows nothing of it."""
        cdef int rc
        with nogil:
            rc = c.dsm_finish(&self.ticket, 0, NULL)
        self.submitted = False
        self.release()
        if self.future.done():  # cancelled
            return
        if rc:
            self.future.set_exception(failure(rc, self.name, self.remote.peer, device))
        elif self.op.code >= c.DSM_OP_FETCH_ADD:
            self.future.set_result(self.op.result)
        else:
            self.future.set_result(None)


# ---- batches ----

@cython.final
@cython.freelist(128)
cdef class Result:
    """See the stub."""
    cdef Batch batch
    cdef size_t index

    @property
    def value(self):
        if not self.batch.done:
            raise refused(c.DSM_EBUSY, "the batch has not been executed; its results are there after the with block")
        return self.batch.ops[self.index].result


@cython.final
cdef class Batch:
    """See the stub."""
    cdef Context context
    cdef int64_t timeout_ns
    cdef c.dsm_op *ops
    cdef Py_buffer *views
    cdef size_t n, nviews, room
    cdef list remotes
    cdef Remote last
    cdef readonly bint done

    def __cinit__(self, Context context, timeout=None):
        self.context = context
        self.timeout_ns = nanoseconds(timeout)
        self.remotes = []

    def __dealloc__(self):
        self._release()
        free(self.ops)
        free(self.views)

    cdef void _release(self):
        cdef size_t i
        for i in range(self.nviews):
            PyBuffer_Release(&self.views[i])
        self.nviews = 0

    cdef int _grow(self) except -1:
        cdef size_t room = self.room * 2 if self.room else BATCH_START
        cdef c.dsm_op *ops = <c.dsm_op *> realloc(self.ops, room * sizeof(c.dsm_op))
        if not ops:
            raise refused(c.DSM_ENOMEM, f"a batch of {room} ops")
        self.ops = ops
        cdef Py_buffer *views = <Py_buffer *> realloc(self.views, room * sizeof(Py_buffer))
        if not views:
            raise refused(c.DSM_ENOMEM, f"a batch of {room} ops")
        self.views = views
        self.room = room
        return 0

    cdef c.dsm_op *_next(self, Remote remote, int code, object offset, bint fence) except NULL:
        """Room for one op more; it counts once self.n is raised."""
        cdef uint64_t at = offset_of(offset)
        cdef c.dsm_op *op
        if self.done:
            raise refused(c.DSM_ECLOSED, "the batch has been executed; make a new one")
        if remote is not self.last:
            remote.check()
            if remote.context is not self.context:
                raise refused(c.DSM_EINVAL, "the remote belongs to another context")
            self.last = remote
            self.remotes.append(remote)
        if self.n == self.room:
            self._grow()
        op = &self.ops[self.n]
        memset(op, 0, sizeof(c.dsm_op))
        op.code = code
        op.flags = c.DSM_OP_FENCE if fence else 0
        op.remote = remote.ptr
        op.offset = at
        return op

    cdef int _copy(self, Remote remote, int code, object offset, object buffer, bint fence) except -1:
        cdef c.dsm_op *op = self._next(remote, code, offset, fence)
        cdef Py_buffer *view = &self.views[self.nviews]
        take(buffer, view, code == c.DSM_OP_READ)
        self.nviews += 1
        op.local = view.buf
        op.nbytes = view.len
        self.n += 1
        return 0

    cdef Result _atomic(self, Remote remote, int code, object offset, uint64_t operand, uint64_t desired, bint fence):
        cdef c.dsm_op *op = self._next(remote, code, offset, fence)
        cdef Result result = Result.__new__(Result)
        op.nbytes = 8
        op.operand = operand
        op.desired = desired
        result.batch = self
        result.index = self.n
        self.n += 1
        return result

    def read(self, Remote remote not None, offset, out, *, bint fence=False):
        self._copy(remote, c.DSM_OP_READ, offset, out, fence)

    def write(self, Remote remote not None, offset, data, *, bint fence=False):
        self._copy(remote, c.DSM_OP_WRITE, offset, data, fence)

    def fetch_add(self, Remote remote not None, offset, value, *, bint fence=False):
        return self._atomic(remote, c.DSM_OP_FETCH_ADD, offset, word(value, "value"), 0, fence)

    def compare_swap(self, Remote remote not None, offset, expected, desired, *, bint fence=False):
        return self._atomic(remote, c.DSM_OP_COMPARE_SWAP, offset, word(expected, "expected"), word(desired, "desired"),
                            fence)

    def __len__(self):
        return self.n

    cdef _execute(self):
        cdef size_t failed = 0
        cdef int rc
        cdef Remote remote
        self.context.check()
        for remote in self.remotes:
            remote.check()
        for remote in self.remotes:
            remote.busy += 1
        self.context.busy += 1
        self.done = True
        with nogil:
            rc = c.dsm_execute(self.context.ptr, self.ops, self.n, self.timeout_ns, &failed)
        self.context.busy -= 1
        for remote in self.remotes:
            remote.busy -= 1
        self._release()
        if rc:
            raise batch_failure(self, rc, failed)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is None and self.n:
            self._execute()
        else:
            self.done = kind is None
            self._release()


cdef tuple OP_NAMES = ("", "read", "write", "fetch_add", "compare_swap")


cdef object batch_failure(Batch batch, int rc, size_t failed):
    cdef c.dsm_remote *at = batch.ops[failed].remote
    cdef uint8_t node[16]
    c.dsm_remote_node(at, node)
    error = failure(rc, OP_NAMES[batch.ops[failed].code], (<char *> node)[:16].hex(), batch.context.device)
    error.index = failed
    return error


# ---- without a context ----

def probe(str fabric):
    cdef bytes name = fabric.encode()
    cdef const char *p = name
    cdef int rc
    with nogil:
        rc = c.dsm_probe(p)
    if rc:
        raise failure(rc, "probe")


def inventory(str fabric):
    cdef bytes name = fabric.encode()
    cdef size_t room = 65536
    cdef char *text = <char *> malloc(room)
    cdef const char *p = name
    cdef int rc
    if not text:
        raise refused(c.DSM_ENOMEM, "inventory")
    try:
        with nogil:
            rc = c.dsm_inventory(p, text, room)
        if rc < 0:
            raise failure(rc, "inventory")
        return json.loads(text[:rc])
    finally:
        free(text)


def error_rows():
    cdef size_t n, i
    cdef const c.dsm_error_row *rows = c.dsm_error_rows(&n)
    return [(rows[i].code, rows[i].name.decode(), rows[i].py_class.decode(), rows[i].py_base.decode(),
             rows[i].text.decode()) for i in range(n)]


def hmac_sha256(bytes key, bytes message):
    cdef uint8_t out[32]
    cdef const char *k = key
    cdef const char *m = message
    c.dsm_hmac_sha256(k, len(key), m, len(message), out)
    return (<char *> out)[:32]


def process_start(int pid):
    return c.dsm_process_start(pid)
