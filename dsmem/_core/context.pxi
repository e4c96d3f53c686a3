# Included by _core.pyx: Descriptor and Context.

Way = namedtuple("Way", ["fabric", "address"], module="dsmem")


cdef class Descriptor:
    cdef bytes raw
    cdef dict fields

    def __init__(self, raw):
        cdef c.dsm_descriptor d
        try:
            self.raw = bytes(memoryview(raw))
        except TypeError:
            raise errors.DescriptorError(f"{type(raw).__name__} is not a bytes-like object") from None
        cdef const char *p = self.raw
        cdef int rc = c.dsm_descriptor_parse(p, len(self.raw), &d)
        if rc:
            raise error_from_core(rc, "parse")
        every = tuple([Way(FABRICS.get(d.ways[i].fabric, f"fabric {d.ways[i].fabric}"), d.ways[i].address.decode())
                       for i in range(d.nways + d.nbulk)])
        ways, bulk = every[:d.nways], every[d.nways:]
        self.fields = {
            "version": d.version, "access": letters(d.access), "node": (<char *> d.node)[:16],
            "region": d.region, "generation": d.generation, "ways": ways, "bulk": bulk,
            "nbytes": d.part.nbytes if d.part.generation else d.nbytes, "offset": d.part.offset,
            "fabric": ways[0].fabric, "address": ways[0].address,
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

    @classmethod
    def fromhex(cls, text):
        try:
            return cls(bytes.fromhex(text))
        except (TypeError, ValueError) as error:
            if isinstance(error, errors.DsmemError):
                raise
            raise errors.DescriptorError(f"{text!r:.80}: {error}; what descriptor.hex() gave") from None

    def __reduce__(self):
        return Descriptor, (self.raw,)

    def __eq__(self, other):
        return isinstance(other, Descriptor) and self.raw == (<Descriptor> other).raw

    def __hash__(self):
        return hash(self.raw)

    def __repr__(self):
        where = " or ".join([f"{way.fabric} at {way.address}" for way in self.ways])
        return f"<Descriptor {self.nbytes} bytes '{self.access}' by {where}>"


Capabilities = namedtuple("Capabilities", [
    "fabric", "device", "port", "gid", "gid_index", "mtu", "is_roce", "local_memory", "register_private",
    "atomic_domain",
    "max_inline", "max_reads", "depth", "max_region", "address"], module="dsmem")


cdef class Context(Handle):
    cdef c.dsm_ctx *ptr     # NULL: closed, or never opened
    cdef object __weakref__
    cdef readonly tuple fabrics
    cdef readonly str fabric
    cdef readonly bytes node_id
    cdef dict children      # weak references, by id, to the regions and remotes that are not closed
    cdef str device
    cdef bint waits         # some of its ops are not complete when posted
    cdef dict pending       # by address, asynchronous ops of all event loops that are not known to be complete
    cdef uint64_t cache_limit
    cdef dict arrays        # by id: the Allocation of each array that the registration cache has been asked to keep
    cdef list watches       # one LoopWatch for each event loop that waits for its ops

    def __init__(self, fabric, *, secret, listen=None, advertise=None, peer_timeout=2.0, spin=None,
                 registration_cache=None, fault=None, bint serves=False):
        cdef c.dsm_options o
        cdef int rc
        cdef c.dsm_ctx *ptr = NULL
        c.dsm_options_init(&o)
        fabric_b = fabric.encode()
        listen_b = None if listen is None else listen.encode()
        advertise_b = None if advertise is None else advertise.encode()
        fault_b = None if fault is None else fault.encode()
        secret_b = bytes(secret)
        o.fabric = <const char *> fabric_b
        if listen_b is not None:
            o.listen = <const char *> listen_b
        if advertise_b is not None:
            o.advertise = <const char *> advertise_b
        if fault_b is not None:
            o.fault = <const char *> fault_b
        o.serves = serves
        o.secret = <const char *> secret_b
        o.secret_len = len(secret_b)
        o.peer_timeout_ns = nanoseconds(peer_timeout, "peer_timeout")
        if o.peer_timeout_ns <= 0:
            raise error_of(c.DSM_EINVAL, f"peer_timeout={peer_timeout!r}: seconds, more than 0")
        o.spin_ns = nanoseconds(spin, "spin")
        if registration_cache is not None:
            o.cache_bytes = cache_bytes_of(registration_cache)
        self.cache_limit = o.cache_bytes
        if self.children is not None:  # checked after the conversions, which may run code that opens the context
            raise error_of(c.DSM_EINVAL, "the context has been opened before; make another one")
        self.children = {}
        self.pending = {}
        self.arrays = {}
        self.watches = []
        with nogil:
            rc = c.dsm_open(&o, &ptr)
        if rc:
            self.children = None
            raise error_from_core(rc, "open")
        self.ptr = ptr
        self.live = True
        self._describe()

    cdef _describe(self):
        cdef c.dsm_caps k
        cdef uint8_t node[16]
        cdef size_t i = 0
        cdef list found = []
        c.dsm_node_id(self.ptr, node)
        self.node_id = (<char *> node)[:16]  # first: close() needs it, and what follows runs Python code
        while c.dsm_capabilities(self.ptr, i, &k) == 0:
            found.append(Capabilities(
                fabric=k.fabric.decode(), device=k.device.decode(), port=k.port, gid=k.gid.decode(),
                gid_index=k.gid_index, mtu=k.mtu, is_roce=bool(k.is_roce), local_memory=bool(k.local_memory),
                register_private=bool(k.register_private), atomic_domain=DOMAINS[k.atomic_domain],
                max_inline=k.max_inline, max_reads=k.max_reads, depth=k.depth, max_region=k.max_region,
                address=c.dsm_agent_address(self.ptr, i).decode()))
            i += 1
        self.fabrics = tuple(found)
        self.fabric = ",".join([each.fabric for each in found])
        self.device = next((each.device for each in found if each.device), None)
        self.waits = not all([each.local_memory for each in found])

    @property
    def capabilities(self):
        return self.fabrics[0]

    @property
    def agent_address(self):
        return self.fabrics[0].address

    cdef int check(self) except -1:
        if not self.live:
            self.refuse_closed()
        if c.dsm_forked(self.ptr):
            self.refuse_fork("context")
        return 0

    cdef int refuse_fork(self, str what) except -1:
        text = f"the {what} was opened before the fork"
        if getattr(self, "_of_cluster", False):  # the program does not know of the context
            text = f"{text}; in the child call dsmem.connect() with the address again, and open the objects there"
        raise error_of(c.DSM_EFORK, text)

    cdef str noun(self):
        return "context"

    cdef int adopt(self, Handle child) except -1:
        """From now on the child is closed with the context, unless it is closed before. Runs no Python code."""
        self.children[<size_t> <void *> child] = PyWeakref_NewRef(child, None)
        return 0

    cdef int forget(self, Handle child) except -1:
        self.children.pop(<size_t> <void *> child, None)
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
                "connects": s.connects, "rejected": s.rejected, "failovers": s.failovers, "bulk": s.bulk,
                "cache_hits": s.cache_hits, "cache_misses": s.cache_misses, "cache_evicted": s.cache_evicted,
                "cache_bytes": s.cache_bytes}

    # -- memory --

    def allocate(self, nbytes, access="rwa"):
        cdef uint32_t bits
        cdef uint64_t size
        cdef c.dsm_region *r = NULL
        cdef int rc
        self.enter()
        try:
            bits, size = rights(access), nbytes_of(nbytes)
            self.check()
            with nogil:
                rc = c.dsm_alloc(self.ptr, size, bits, &r)
            if rc:
                raise error_from_core(rc, "allocate", None, self.device)
            return new_region(self, r, "u1", None)
        finally:
            self.leave()

    def empty(self, shape, dtype="u1", access="rwa"):
        kind = dtype_of(dtype)
        if kind.hasobject:
            raise errors.ArgumentTypeError(f"dtype {kind} holds Python objects, which mean nothing in another process")
        shape = shape_of(shape)
        region = self.allocate(math.prod(shape) * kind.itemsize, access)
        (<Region> region).kind, (<Region> region).shape = kind, shape
        return region

    def empty_like(self, array, access="rwa"):
        array = array_of(array)
        return self.empty(array.shape, array.dtype, access)

    def copy(self, array, access="rwa"):
        cdef Region region
        cdef ndarray plain
        cdef void *to
        cdef const void *from_
        cdef size_t nbytes
        array = array_of(array)
        plain = np.ascontiguousarray(array)
        region = self.empty(array.shape, array.dtype, access)
        region.enter()  # no Python code runs from here on, so a signal handler that raises cannot leak the region
        to, from_, nbytes = c.dsm_region_data(region.ptr), PyArray_DATA(plain), region.nbytes
        with nogil:
            memcpy(to, from_, nbytes)
        region.leave()
        return region

    def register(self, buffer, access="r"):
        return self.register_many([buffer], access)[0]

    def register_many(self, buffers, access="r"):
        self.enter()
        try:
            return self._register(list(items_of(buffers, "buffers")), rights(access))
        finally:
            self.leave()

    cdef list _register(self, list of, uint32_t bits):
        cdef list made = []
        cdef size_t n = len(of), taken = 0, i
        cdef int rc = 0
        if not n:
            self.check()
            return made
        cdef Py_buffer *views = <Py_buffer *> malloc(n * sizeof(Py_buffer))
        cdef void **p = <void **> malloc(n * sizeof(void *))
        cdef uint64_t *sizes = <uint64_t *> malloc(n * sizeof(uint64_t))
        cdef c.dsm_region **out = <c.dsm_region **> malloc(n * sizeof(c.dsm_region *))
        try:
            if not views or not p or not sizes or not out:
                raise error_of(c.DSM_ENOMEM, f"{n} buffers")
            for buffer in of:
                get_buffer(buffer, &views[taken], True)
                p[taken] = views[taken].buf
                sizes[taken] = views[taken].len
                taken += 1
            self.check()
            with nogil:
                rc = c.dsm_register_many(self.ptr, n, p, sizes, bits, out)
            if rc:
                raise error_from_core(rc, "register", None, self.device)
            self._adopt(out, views, n, made)
        finally:
            for i in range(len(made), taken):  # regions own the others
                PyBuffer_Release(&views[i])
            free(views)
            free(p)
            free(sizes)
            free(out)
        return made

    cdef int _adopt(self, c.dsm_region **out, Py_buffer *views, size_t n, list made) except -1:
        """Create all regions or none. Each region takes ownership of its view."""
        cdef size_t i = 0, k
        try:
            for i in range(n):
                region = new_region(self, out[i], "u1", None)
                (<Region> region).source = views[i]
                (<Region> region).registered = True
                made.append(region)
        except BaseException:  # out of memory
            for k in range(i + 1, n):
                with nogil:
                    c.dsm_region_close(out[k])
            for region in made:
                region.close()
            raise
        return 0

    def attach(self, descriptor, *, timeout=None):
        cdef int64_t ns
        cdef c.dsm_remote *r = NULL
        cdef int rc
        cdef const char *p
        cdef size_t n
        cdef bytes raw
        self.enter()
        try:
            ns = nanoseconds(timeout)
            try:
                raw = (bytes(memoryview(descriptor)) if PyObject_CheckBuffer(descriptor) else
                       (<Descriptor?> descriptor).raw)
            except TypeError:
                raise errors.DescriptorError(f"{type(descriptor).__name__} is neither a Descriptor nor bytes") from None
            p, n = raw, len(raw)
            self.check()
            with nogil:
                rc = c.dsm_attach(self.ptr, p, n, ns, &r)
            if rc:
                raise error_from_core(rc, "attach", None, self.device)
            return new_remote(self, r)
        finally:
            self.leave()

    def pool(self, nbytes, access="rwa"):
        cdef uint32_t bits
        cdef uint64_t size
        cdef c.dsm_pool *p = NULL
        cdef int rc
        self.enter()
        try:
            bits, size = rights(access), nbytes_of(nbytes)
            self.check()
            with nogil:
                rc = c.dsm_pool_open(self.ptr, size, bits, &p)
            if rc:
                raise error_from_core(rc, "pool", None, self.device)
            return new_pool(self, p)
        finally:
            self.leave()

    def attach_many(self, descriptors, *, timeout=None):
        cdef int64_t ns
        cdef c.dsm_remotes *r = NULL
        cdef size_t failed = 0, n
        cdef int rc
        cdef bytes raw
        cdef const char *p
        self.enter()
        try:
            ns = nanoseconds(timeout)
            raw = bytes_of(descriptors)
            p, n = raw, len(raw)
            self.check()
            with nogil:
                rc = c.dsm_attach_many(self.ptr, p, n, ns, &r, &failed)
            if rc:
                raise at_index(error_from_core(rc, "attach_many", None, self.device), failed, n)
            return new_remotes(self, r)
        finally:
            self.leave()

    def batch(self, timeout=None, *, continue_on_error=False):
        self.check()
        return Batch(self, timeout, continue_on_error)

    def fence(self, node_id):
        cdef bytes node
        cdef const char *p
        cdef int rc
        self.enter()
        try:
            try:
                node = bytes(memoryview(node_id))
            except TypeError:
                what = f"{type(node_id).__name__} is not a node id; pass its 16 bytes"
                raise errors.ArgumentTypeError(what) from None
            p = node
            self.check()
            if len(node) != 16:
                raise error_of(c.DSM_EINVAL, f"a node id has 16 bytes, not {len(node)}")
            with nogil:
                rc = c.dsm_fence(self.ptr, <const uint8_t *> p)
            if rc:
                raise error_from_core(rc, "fence")
        finally:
            self.leave()

    # -- asyncio --

    cdef submit(self, Started op):
        """Start an op or a batch and return its future. The caller has entered the remotes.

        All steps that may fail come before start(), so that after a failure the core does not know of the op.
        """
        cdef int rc = -1
        self.enter()
        try:
            op.loop = asyncio.get_running_loop()
            op.future = op.loop.create_future()
            if self.waits:
                self._watch(op.loop)
            self.check()
            # before the thread of another loop can see that it is complete
            self.pending[<uintptr_t> op.posted_ops()] = op
            try:
                rc = op.start(self.ptr)
            finally:
                if rc:
                    del self.pending[<uintptr_t> op.posted_ops()]
            if rc < 0:
                op.release()
                raise op.failure(rc, self.device)
            if rc:
                op.finish(self.device)
                op.resolve()
            return op.future
        finally:
            self.leave()

    cdef _watch(self, loop):
        cdef LoopWatch watch
        for watch in self.watches:
            if watch.loop is loop:
                return
        watch = LoopWatch(self, loop)
        watch.begin()
        self.watches = [known for known in self.watches if not (<LoopWatch> known).loop.is_closed()] + [watch]

    cdef _settle(self, loop):
        cdef Started op
        cdef c.dsm_ticket *ticket
        while True:
            ticket = c.dsm_completed(self.ptr)
            if ticket == NULL:
                return
            op = self.pending.pop(<uintptr_t> c.dsm_ticket_ops(ticket))
            op.finish(self.device)
            if op.loop is loop:
                op.resolve()
            elif not op.loop.is_closed():
                with contextlib.suppress(RuntimeError):  # the loop has just been closed
                    op.loop.call_soon_threadsafe(op.resolve)

    cdef _stop_watching(self):
        here = asyncio._get_running_loop()
        if self.pending:
            with nogil:
                c.dsm_cancel(self.ptr)
            self._settle(here)
        watches, self.watches = self.watches, []
        for watch in watches:
            (<LoopWatch> watch).stop(here)

    # -- closing --

    def close(self):
        cdef Handle child
        cdef list children = []
        if self.ptr == NULL:
            return
        # No Python code runs until all are marked, so no call can begin between the check of the counts and the mark.
        self.catch_up()
        self.refuse_in_use()
        for ref in self.children.values():
            child = ref()
            if child is not None:
                child.catch_up()
                child.refuse_in_use()
                children.append(child)
        self.live = False
        for child in children:
            child.live = False
        self.uses += 1  # refuses a concurrent close(); after an exception a later one continues where this one stopped
        try:
            self.finish_closing(children)
        finally:
            self.leave()

    cdef int finish_closing(self, list children) except -1:
        cdef Handle child
        cdef c.dsm_ctx *ptr
        if not c.dsm_forked(self.ptr):  # otherwise the loops and the ops belong to the parent
            self._stop_watching()
        for child in children:
            child.free()
        ptr = self.ptr
        self.ptr = NULL
        forget_allocations(self)
        with nogil:
            c.dsm_close(ptr)
        return 0

    def __reduce__(self):
        raise not_pickled("context", "open one in the other process")

    def __enter__(self):
        self.check()
        return self

    def __exit__(self, *error):
        self.close_after(error)

    def __del__(self):
        if self.ptr != NULL:
            try:
                warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)  # raises where a filter says so
            finally:
                try:
                    self.close()
                finally:  # a signal's handler may have raised in a subclass's close(); no Python code runs in this one
                    Context.close(self)
                    self._closed_by_destructor()

    def _closed_by_destructor(self):
        """For subclasses: it was dropped open, and is closed now, whatever has been raised before."""

    def __repr__(self):
        return f"<{type(self).__name__} {self.fabric}{' closed' if self.ptr == NULL else ''}>"


@cython.final
@cython.auto_pickle(False)
cdef class LoopWatch:
    """An event loop that watches for a context's completions, with a file descriptor that only this object closes.

    If the descriptor were closed elsewhere, its number could refer to another file by the time that the loop stops
    watching it.
    """
    cdef Context context
    cdef object loop
    cdef int fd
    cdef bint opened  # fd is valid, and owned by this object

    def __cinit__(self, Context context not None, loop):
        cdef int fd = c.dsm_event_fd(context.ptr)
        if fd < 0:
            raise error_from_core(fd, "event_fd")
        self.context, self.loop = context, loop
        self.fd = os.dup(fd)
        self.opened = True

    cdef begin(self):
        self.loop.add_reader(self.fd, self.on_event)

    def on_event(self):
        """Called in the loop. It handles ops of other loops, too: the first loop that runs gets the event."""
        cdef Context context = self.context
        if not context.live:
            self.end()
            return
        context.enter()
        try:
            context._settle(self.loop)
        finally:
            context.leave()

    cdef stop(self, here):
        if self.loop.is_closed():
            return
        if self.loop is here or not self.loop.is_running():
            self.end()
        else:
            with contextlib.suppress(RuntimeError):  # the loop has just been closed
                self.loop.call_soon_threadsafe(self.end)

    def end(self):
        """Called in the loop, or while the loop does not run."""
        if self.opened:
            self.loop.remove_reader(self.fd)
            self.opened = False
            posix_close(self.fd)

    def __dealloc__(self):
        if self.opened:
            posix_close(self.fd)
