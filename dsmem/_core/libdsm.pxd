# The declarations of csrc/dsm.h, and no others.
from libc.stddef cimport size_t
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "dsm.h" nogil:
    enum: DSM_READ
    enum: DSM_WRITE
    enum: DSM_ATOMIC
    enum: DSM_DESC_MAX
    enum: DSM_NODE_ID
    enum: DSM_OP_READ
    enum: DSM_OP_WRITE
    enum: DSM_OP_FETCH_ADD
    enum: DSM_OP_COMPARE_SWAP
    enum: DSM_OP_FENCE
    enum: DSM_EINVAL
    enum: DSM_ENOMEM
    enum: DSM_EACCESS
    enum: DSM_ECLOSED
    enum: DSM_EBUSY
    enum: DSM_EFORK
    enum: DSM_EREADONLY
    enum: DSM_ECONTIGUOUS
    enum: DSM_EFULL
    enum: DSM_EEMPTY
    enum: DSM_ESHUTDOWN
    enum: DSM_ENOTHELD
    enum: DSM_ETOOLARGE
    enum: DSM_EMISMATCH
    enum: DSM_ENOTMAPPED
    enum: DSM_ETIME
    enum: DSM_EBROKEN
    enum: DSM_EUNSUPPORTED
    enum: DSM_EPEER
    enum: DSM_ESTALE
    enum: DSM_EFENCED
    enum: DSM_ECANCELED
    enum: DSM_EIO
    enum: DSM_EUNKNOWN
    enum: DSM_EPOOLFULL
    enum: DSM_ESTOREFULL
    enum: DSM_ECONFLICT, DSM_ECORRUPT

    ctypedef struct dsm_ctx:
        pass
    ctypedef struct dsm_region:
        pass
    ctypedef struct dsm_pool:
        pass
    ctypedef struct dsm_remote:
        pass
    ctypedef struct dsm_remotes:
        pass

    ctypedef struct dsm_failure:
        int code, sys, status
        uint32_t vendor
        int cause
        const char *detail  # an array

    ctypedef struct dsm_error_row:
        int code
        const char *name
        const char *py_class
        const char *py_base
        const char *text

    const dsm_failure *dsm_last_error()
    const dsm_error_row *dsm_error_rows(size_t *n)

    ctypedef struct dsm_options:
        const char *fabric
        const char *listen
        const char *advertise
        const void *secret
        size_t secret_len
        int64_t peer_timeout_ns, spin_ns
        uint64_t cache_bytes
        int serves
        const char *fault

    ctypedef struct dsm_caps:
        uint32_t local_memory, register_private, atomic_domain, max_inline, max_reads, depth, mtu, port
        int32_t gid_index
        uint32_t is_roce
        uint64_t max_region
        char fabric[16]
        char device[64]
        char gid[64]

    ctypedef struct dsm_stats:
        uint64_t posts, doorbells, signalled, wakeups, connects, rejected, failovers, bulk
        uint64_t cache_hits, cache_misses, cache_evicted, cache_bytes

    void dsm_options_init(dsm_options *o)
    int dsm_open(const dsm_options *o, dsm_ctx **out)
    void dsm_close(dsm_ctx *c)
    int dsm_capabilities(const dsm_ctx *c, size_t i, dsm_caps *out)
    void dsm_node_id(const dsm_ctx *c, uint8_t *id)
    const char *dsm_agent_address(const dsm_ctx *c, size_t i)
    int dsm_fence(dsm_ctx *c, const uint8_t *node)
    void dsm_get_stats(const dsm_ctx *c, dsm_stats *out)
    int dsm_forked(const dsm_ctx *c)
    const uint32_t *dsm_forks()
    const char *dsm_fabric_name(uint32_t number)
    const char *dsm_fabric_option(uint32_t number, size_t i)
    int dsm_fabric_check(const char *text)
    int dsm_probe(const char *fabric)
    int dsm_inventory(const char *fabric, char *buf, size_t len)

    int dsm_alloc(dsm_ctx *c, uint64_t nbytes, uint32_t access, dsm_region **out)
    int dsm_register_many(dsm_ctx *c, size_t n, void **p, const uint64_t *nbytes, uint32_t access, dsm_region **out)
    int dsm_region_close(dsm_region *r)
    void *dsm_region_data(const dsm_region *r)
    uint64_t dsm_region_nbytes(const dsm_region *r)
    uint32_t dsm_region_access(const dsm_region *r)
    int dsm_region_descriptor(const dsm_region *r, uint8_t *buf)

    int dsm_pool_open(dsm_ctx *c, uint64_t nbytes, uint32_t access, dsm_pool **out)
    int dsm_pool_close(dsm_pool *p)
    const dsm_region *dsm_pool_whole(const dsm_pool *p)
    int dsm_pool_alloc(dsm_pool *p, uint64_t nbytes, dsm_region **out)
    size_t dsm_pool_row(const dsm_pool *p)
    int dsm_pool_alloc_many(dsm_pool *p, size_t n, const uint64_t *nbytes, void *descriptors)
    int dsm_pool_free_many(dsm_pool *p, size_t n, const void *descriptors, size_t *failed)

    struct dsm_part:
        uint64_t number, generation, offset, nbytes
    struct dsm_way:
        uint32_t fabric
        char address[112]
    ctypedef struct dsm_descriptor:
        uint32_t version, access, kind
        uint8_t node[16]
        uint64_t region, generation, nbytes
        dsm_part part
        uint32_t nways, nbulk
        dsm_way ways[4]

    int dsm_descriptor_parse(const void *bytes, size_t len, dsm_descriptor *out)

    enum: DSM_CALL_MAX
    ctypedef struct dsm_service:
        pass
    ctypedef struct dsm_call:
        uint64_t client, number
        uint32_t left, len
        uint8_t bytes[]
    int dsm_service_open(dsm_ctx *c, const char *address, dsm_service **out)
    int dsm_service_call(dsm_service *s, const void *request, size_t len, void *reply, size_t *reply_len,
                         int64_t timeout_ns)
    int dsm_service_close(dsm_service *s)
    int dsm_serve(dsm_ctx *c, int on, int64_t grace_ns)
    int dsm_next_call(dsm_ctx *c, int64_t timeout_ns, dsm_call *out)
    int dsm_reply(dsm_ctx *c, const dsm_call *call, const void *bytes, size_t len)

    int dsm_attach(dsm_ctx *c, const void *descriptor, size_t len, int64_t timeout_ns, dsm_remote **out)
    int dsm_remote_close(dsm_remote *r)
    int dsm_attach_many(dsm_ctx *c, const void *descriptors, size_t n, int64_t timeout_ns, dsm_remotes **out,
                        size_t *failed)
    size_t dsm_remotes_count(const dsm_remotes *r)
    void dsm_remotes_sizes(const dsm_remotes *r, uint64_t *nbytes)
    int dsm_remotes_get(const dsm_remotes *r, size_t i, dsm_remote **out)
    int dsm_remotes_read_many(dsm_remotes *r, const uint64_t *regions, const uint64_t *offsets, size_t n, void *out,
                              uint64_t each, int64_t timeout_ns)
    int dsm_remotes_write_many(dsm_remotes *r, const uint64_t *regions, const uint64_t *offsets, size_t n,
                               const void *data, uint64_t each, int64_t timeout_ns)
    int dsm_remotes_close(dsm_remotes *r)
    int64_t dsm_call_until(int64_t deadline)
    uint64_t dsm_remote_nbytes(const dsm_remote *r)
    uint32_t dsm_remote_access(const dsm_remote *r)
    void dsm_remote_node(const dsm_remote *r, uint8_t *id)
    const char *dsm_remote_address(const dsm_remote *r)
    const char *dsm_remote_fabric(const dsm_remote *r)
    const char *dsm_remote_bulk_fabric(const dsm_remote *r)
    uint64_t dsm_remote_caches(const dsm_remote *r)

    ctypedef struct dsm_allocation:
        uint64_t number
        void *data
        uint64_t nbytes

    ctypedef struct dsm_cached:
        pass

    int dsm_cache_keep(dsm_ctx *c, const dsm_allocation *a, const void *p, uint64_t nbytes)
    void dsm_cache_end(dsm_ctx *c, const void *p, uint64_t nbytes)
    dsm_cached *dsm_cache_take(dsm_ctx *c, uint64_t number)
    void dsm_cached_close(dsm_cached *e)
    int dsm_map(int fd, uint64_t nbytes, uint32_t access, dsm_remote **out)
    int dsm_map_inherited(const dsm_remote *r, dsm_remote **out)
    int dsm_map_again(dsm_remote *r, uint64_t nbytes, dsm_remote **out)
    void *dsm_remote_mapped(const dsm_remote *r)

    ctypedef struct dsm_op:
        uint8_t code, flags
        int32_t status
        dsm_remote *remote
        uint64_t offset
        void *local
        uint64_t nbytes, operand, desired, result
        int16_t cause
        uint16_t wc_status
        uint32_t vendor

    int dsm_read(dsm_remote *r, uint64_t offset, void *out, uint64_t nbytes, int64_t timeout_ns)
    int dsm_write(dsm_remote *r, uint64_t offset, const void *data, uint64_t nbytes, int64_t timeout_ns)
    int dsm_fetch_add(dsm_remote *r, uint64_t offset, uint64_t add, uint64_t *old, int64_t timeout_ns)
    int dsm_compare_swap(dsm_remote *r, uint64_t offset, uint64_t expected, uint64_t desired, uint64_t *old,
                         int64_t timeout_ns)
    int dsm_read_many(dsm_remote *r, const uint64_t *offsets, size_t n, void *out, uint64_t each, int64_t timeout_ns)
    int dsm_write_many(dsm_remote *r, const uint64_t *offsets, size_t n, const void *data, uint64_t each,
                       int64_t timeout_ns)

    ctypedef struct dsm_ticket:
        pass

    ctypedef struct dsm_choice:
        uint32_t go_on
        uint32_t *stop

    int dsm_execute_as(dsm_ctx *c, dsm_op *ops, size_t n, const dsm_choice *how, int64_t timeout_ns, size_t *failed)
    int dsm_start_as(dsm_ctx *c, dsm_op *ops, size_t n, const dsm_choice *how, dsm_ticket **out, size_t *failed)
    void dsm_stop(dsm_ctx *c, dsm_op *ops, size_t n, uint32_t *stop, dsm_ticket *t)

    void dsm_set_interrupt(int (*look)() noexcept nogil)
    int dsm_refuse_reentry(const char *what)
    int dsm_in_handler()
    int dsm_start(dsm_ctx *c, dsm_op *ops, size_t n, dsm_ticket **out, size_t *failed)
    dsm_op *dsm_ticket_ops(const dsm_ticket *t)
    dsm_ticket *dsm_completed(dsm_ctx *c)
    void dsm_cancel(dsm_ctx *c)
    int dsm_finish(dsm_ticket *t, int64_t timeout_ns, size_t *failed)
    int dsm_event_fd(dsm_ctx *c)

    void dsm_hmac_sha256(const void *key, size_t key_len, const void *msg, size_t len, uint8_t *out)
    int dsm_identity(uint64_t *out)
    int dsm_identity_provable()
    int dsm_identity_dead(uint64_t identity)
    int dsm_identity_pid(uint64_t identity)
    int dsm_object_type(dsm_remote *r)
    const char *dsm_type_name(int type)

    enum: DSM_QUEUE_MANY_CONSUMERS
    enum: DSM_QUEUE_DROP_OLDEST
    enum: DSM_QUEUE_CHECKED

    ctypedef struct dsm_queue:
        pass
    ctypedef struct dsm_queue_config:
        uint32_t lanes, flags
        uint64_t lane_bytes, max_message
    ctypedef struct dsm_queue_counts:
        uint64_t messages, puts, gets, dropped, full, bytes
        uint32_t producers, shutdown
    ctypedef struct dsm_queue_part:
        const void *bytes
        uint64_t nbytes
    ctypedef struct dsm_watch:
        pass

    uint64_t dsm_queue_nbytes(const dsm_queue_config *s)
    int dsm_queue_format(void *memory, const dsm_queue_config *s)
    int dsm_queue_open(dsm_remote *r, void *local, dsm_queue **out)
    int dsm_queue_leave(dsm_queue *q)
    bint dsm_queue_discard(dsm_queue *q)
    void dsm_queue_free(dsm_queue *q)
    void dsm_queue_set_timeout(dsm_queue *q, int64_t timeout_ns)
    void dsm_queue_get_config(const dsm_queue *q, dsm_queue_config *out)
    int dsm_queue_produce(dsm_queue *q)
    int dsm_queue_consume(dsm_queue *q)
    int dsm_queue_push(dsm_queue *q, const void *payload, uint64_t length, uint8_t kind)
    int dsm_queue_push_parts(dsm_queue *q, const dsm_queue_part *parts, uint32_t n, uint8_t kind)
    int dsm_queue_stage(dsm_queue *q, const dsm_queue_part *parts, uint32_t n, uint8_t kind)
    bint dsm_queue_is_due(const dsm_queue *q)
    uint64_t dsm_queue_staged(const dsm_queue *q)
    int64_t dsm_queue_push_records(dsm_queue *q, const void *records, uint64_t n, uint64_t each)
    int dsm_queue_flush(dsm_queue *q)
    int dsm_queue_reserve(dsm_queue *q, uint64_t length, void **out)
    int dsm_queue_commit(dsm_queue *q, uint64_t length, uint8_t kind)
    void dsm_queue_cancel(dsm_queue *q)
    int dsm_queue_next(dsm_queue *q, const void **payload, uint64_t *length, uint8_t *kind)
    int dsm_queue_next_here(dsm_queue *q, const void **payload, uint64_t *length, uint8_t *kind)
    int dsm_queue_done(dsm_queue *q)
    void dsm_queue_undo(dsm_queue *q)
    int64_t dsm_queue_pop_records(dsm_queue *q, void *out, uint64_t n, uint64_t each)
    int dsm_queue_wait_room(const dsm_queue *q, uint64_t length, int64_t timeout_ns, int64_t spin_ns, int64_t op_ns)
    int dsm_queue_wait_item(const dsm_queue *q, int64_t timeout_ns, int64_t spin_ns, int64_t op_ns)
    int dsm_queue_count(const dsm_queue *q, dsm_queue_counts *out)
    int dsm_queue_shutdown(dsm_queue *q, int now)
    int dsm_queue_producers(const dsm_queue *q, uint64_t *identities)
    int dsm_queue_consumer(const dsm_queue *q, uint64_t *identity)
    int dsm_queue_break(const dsm_queue *q, uint64_t holder)
    int dsm_watch_open(dsm_queue *q, dsm_watch **out)
    int dsm_watch_fd(const dsm_watch *w)
    void dsm_watch_arm(dsm_watch *w, uint64_t room)
    void dsm_watch_ring(dsm_watch *w)
    void dsm_watch_close(dsm_watch *w)

    uint64_t dsm_sync_bytes(int type, uint32_t members, uint32_t count)
    int dsm_sync_format(void *memory, int type, uint32_t members, uint32_t count, uint64_t lock)

    ctypedef struct dsm_listener:
        int64_t backoff
    enum: DSM_EVENTCOUNT_FIRST, DSM_EVENTCOUNT_SECOND, DSM_EVENTCOUNT_SEGMENT
    void dsm_listener_open(dsm_listener *l, dsm_remote *r, int eventcount)
    void dsm_listener_begin(dsm_listener *l)
    void dsm_listener_sleep(dsm_listener *l)
    bint dsm_listener_notified(const dsm_listener *l)
    void dsm_listener_pass_on(const dsm_listener *l)
    void dsm_listener_end(const dsm_listener *l)

    ctypedef struct dsm_lock:
        pass
    int dsm_lock_open(dsm_remote *r, int64_t spin_ns, dsm_lock **out)
    int dsm_lock_leave(dsm_lock *l)
    void dsm_lock_close(dsm_lock *l)
    int dsm_lock_acquire(dsm_lock *l, int64_t timeout_ns)
    int dsm_lock_release(dsm_lock *l)
    int dsm_lock_release_unused(dsm_lock *l)
    int dsm_lock_held(const dsm_lock *l)
    int dsm_lock_unsure(const dsm_lock *l)
    uint64_t dsm_lock_token(const dsm_lock *l)
    int dsm_lock_recovered(const dsm_lock *l)
    int dsm_lock_locked(dsm_lock *l)
    int dsm_lock_holder(dsm_lock *l, uint64_t *identity)
    int dsm_lock_break(dsm_lock *l, uint64_t holder)

    enum: DSM_SEGMENT_AXES
    enum: DSM_SEGMENT_DTYPE

    ctypedef struct dsm_segment:
        uint32_t axes, itemsize, dtype_length, versioned
        uint64_t shape[16]
        uint64_t capacity, rows, row_bytes, data, shadow, identity
        char dtype[3712]

    int dsm_segment_layout(dsm_segment *s, uint64_t *nbytes)
    int dsm_segment_format(void *memory, uint64_t nbytes, const dsm_segment *s)
    int dsm_segment_open(dsm_remote *r, dsm_segment *s)
    int dsm_segment_rows(dsm_remote *r, const dsm_segment *s, uint64_t *rows)
    uint64_t dsm_segment_rows_mapped(const dsm_remote *r)
    int dsm_segment_set_rows(dsm_remote *r, uint64_t rows)
    void dsm_segment_notify(dsm_remote *r)
    int dsm_segment_wait(dsm_remote *r, uint64_t offset, const void *seen, void *now, uint64_t n, int64_t spin_ns,
                         int64_t timeout_ns)
    int dsm_segment_begin(dsm_remote *r, dsm_segment *s, int64_t timeout_ns, uint64_t *version, uint64_t *rows)
    int dsm_segment_commit(dsm_remote *r, dsm_segment *s, const void *data, uint64_t *version)
    int dsm_segment_abort(dsm_remote *r, dsm_segment *s, uint64_t version)
    int dsm_segment_leave(dsm_remote *r, dsm_segment *s)
    int dsm_segment_writer(dsm_remote *r, uint64_t *identity)
    int dsm_segment_evict(dsm_remote *r, dsm_segment *s, uint64_t holder)
    int dsm_segment_snapshot(dsm_remote *r, dsm_segment *s, void *out, uint64_t *rows, int64_t timeout_ns, int *tries,
                             uint64_t *version)

    ctypedef struct dsm_rwlock:
        pass
    int dsm_rwlock_open(dsm_remote *r, int64_t spin_ns, dsm_rwlock **out)
    int dsm_rwlock_leave(dsm_rwlock *rw)
    void dsm_rwlock_close(dsm_rwlock *rw)
    int dsm_rwlock_read(dsm_rwlock *rw, int64_t timeout_ns)
    int dsm_rwlock_unread(dsm_rwlock *rw)
    int dsm_rwlock_claim(dsm_rwlock *rw, int64_t timeout_ns)
    int dsm_rwlock_drain(dsm_rwlock *rw, int64_t timeout_ns)
    int dsm_rwlock_unclaim(dsm_rwlock *rw, int unused)
    dsm_lock *dsm_rwlock_lock(dsm_rwlock *rw)
    int dsm_rwlock_readers(dsm_rwlock *rw, int *recovered)
    int dsm_rwlock_inside(dsm_rwlock *rw, uint64_t *identities)
    int dsm_rwlock_break(dsm_rwlock *rw, uint64_t holder)

    ctypedef struct dsm_semaphore:
        pass
    int dsm_semaphore_open(dsm_remote *r, int64_t spin_ns, dsm_semaphore **out)
    int dsm_semaphore_leave(dsm_semaphore *m)
    void dsm_semaphore_close(dsm_semaphore *m)
    int dsm_semaphore_acquire(dsm_semaphore *m, int64_t timeout_ns)
    int dsm_semaphore_release(dsm_semaphore *m, uint32_t n)
    int dsm_semaphore_value(dsm_semaphore *m)
    int dsm_semaphore_held(dsm_semaphore *m, int *recovered)
    int dsm_semaphore_unsure(const dsm_semaphore *m)
    int dsm_semaphore_holders(dsm_semaphore *m, uint64_t *values)
    int dsm_semaphore_break(dsm_semaphore *m, uint64_t holder)

    ctypedef struct dsm_counting:
        pass
    int dsm_counting_open(dsm_remote *r, int64_t spin_ns, dsm_counting **out)
    void dsm_counting_close(dsm_counting *c)
    int dsm_counting_acquire(dsm_counting *c, int64_t timeout_ns)
    int dsm_counting_release(dsm_counting *c, uint32_t n)
    int64_t dsm_counting_value(dsm_counting *c)

    ctypedef struct dsm_event:
        pass
    uint64_t DSM_EVENT_NOW
    int dsm_event_open(dsm_remote *r, int64_t spin_ns, dsm_event **out)
    void dsm_event_close(dsm_event *e)
    int dsm_event_set(dsm_event *e)
    int dsm_event_clear(dsm_event *e)
    int dsm_event_is_set(dsm_event *e)
    int dsm_event_wait(dsm_event *e, uint64_t *since, int64_t timeout_ns)

    ctypedef struct dsm_condition:
        pass
    ctypedef struct dsm_waiter:
        pass
    enum: DSM_CONDITION_INHERIT
    int dsm_condition_open(dsm_remote *r, dsm_lock *lock, int64_t spin_ns, dsm_condition **out)
    int dsm_condition_leave(dsm_condition *c)
    void dsm_condition_close(dsm_condition *c)
    dsm_lock *dsm_condition_lock(dsm_condition *c)
    int dsm_condition_begin(dsm_condition *c, dsm_waiter *w)
    int dsm_condition_wait(dsm_waiter *w, int64_t timeout_ns)
    int dsm_condition_finish(dsm_waiter *w, int inherit)
    void dsm_condition_abandon(dsm_waiter *w)
    int dsm_condition_settle(dsm_condition *c)
    int dsm_condition_notify(dsm_condition *c, uint64_t n)

    ctypedef struct dsm_barrier:
        pass
    uint64_t DSM_BARRIER_ANY
    uint32_t DSM_BARRIER_NONE
    int dsm_barrier_open(dsm_remote *r, int64_t spin_ns, dsm_barrier **out)
    int dsm_barrier_leave(dsm_barrier *b)
    void dsm_barrier_close(dsm_barrier *b)
    int dsm_barrier_arrive(dsm_barrier *b, int finish, int64_t timeout_ns, uint64_t *generation, uint32_t *index)
    int dsm_barrier_finish(dsm_barrier *b, uint64_t generation)
    int dsm_barrier_wait(dsm_barrier *b, uint64_t generation, int64_t timeout_ns)
    int dsm_barrier_break(dsm_barrier *b, uint64_t generation)
    int dsm_barrier_reset(dsm_barrier *b)
    int dsm_barrier_waiting(dsm_barrier *b, int *broken)
    uint32_t dsm_barrier_parties(const dsm_barrier *b)
    int dsm_barrier_waiters(dsm_barrier *b, uint64_t *identities)
    int dsm_barrier_evict(dsm_barrier *b, uint64_t holder)

    ctypedef struct dsm_once:
        pass
    enum: DSM_ONCE_RUN
    int dsm_once_open(dsm_remote *r, int64_t spin_ns, dsm_once **out)
    int dsm_once_leave(dsm_once *o)
    void dsm_once_close(dsm_once *o)
    int dsm_once_begin(dsm_once *o, int64_t timeout_ns)
    int dsm_once_end(dsm_once *o, int done)
    int dsm_once_done(dsm_once *o)
    dsm_lock *dsm_once_lock(dsm_once *o)

    ctypedef struct dsm_clock:
        dsm_remote *remote
        uint64_t offset
        uint64_t *own

    uint64_t dsm_clock_bytes()
    int dsm_clock_format(void *memory)
    int dsm_clock_open(dsm_remote *r, int hybrid, dsm_clock *out)
    int dsm_clock_lamport(const dsm_clock *c, uint64_t received, uint64_t *stamp)
    int dsm_clock_hybrid(const dsm_clock *c, uint64_t received, int64_t now_ms, uint64_t max_drift_ms, uint64_t *stamp)
    int dsm_clock_now(const dsm_clock *c, uint64_t *stamp)

    ctypedef struct dsm_store:
        pass
    ctypedef struct dsm_store_shape:
        uint32_t page_bytes
        uint32_t clients
        uint64_t pages
        uint32_t copies
        uint32_t index
        uint32_t extents
        uint32_t extent
        uint32_t spread
        uint64_t nodes
        uint64_t id
        uint64_t epoch
    ctypedef struct dsm_store_recovered:
        uint64_t forward
        uint64_t back
        uint64_t committed
        uint64_t given_up
        uint64_t differing
    ctypedef struct dsm_store_counts:
        uint64_t free_pages
        uint32_t clients

    int dsm_store_layout(const dsm_store_shape *shape, uint64_t *nbytes)
    int dsm_store_format(void *memory, const dsm_store_shape *shape)
    int dsm_store_look(dsm_remote *r, dsm_store_shape *out, uint64_t *state)
    int dsm_store_settle(dsm_remote *r, uint64_t from_, uint64_t state, uint64_t *decided)
    int dsm_store_open(dsm_remote *const *at, uint32_t n, dsm_store **out, uint32_t *failed)
    int dsm_store_recover(dsm_remote *const *at, uint32_t n, uint64_t epoch, dsm_store_recovered *out,
                          uint32_t *failed)
    ctypedef struct dsm_store_filler:
        pass
    ctypedef struct dsm_store_filled:
        uint64_t copied
        uint64_t left
        uint64_t damaged
        uint64_t passed
        uint32_t done
    int dsm_store_fill_new(dsm_remote *source, dsm_remote *to, dsm_store_filler **out)
    int dsm_store_fill_round(dsm_store_filler *f, uint64_t most_bytes, dsm_store_filled *out)
    int dsm_store_fill_finish(dsm_store_filler *f, dsm_remote *source, dsm_store_filled *out)
    void dsm_store_fill_drop(dsm_store_filler *f)
    void dsm_store_wait(dsm_store *s, int64_t ns)
    void dsm_store_demand(dsm_store *s, uint32_t copies)
    int dsm_store_has_demanded(const dsm_store *s)
    uint32_t dsm_store_failed(const dsm_store *s)
    int dsm_store_leave(dsm_store *s)
    void dsm_store_drop(dsm_store *s)
    dsm_store_shape dsm_store_shape_of(const dsm_store *s)
    int dsm_store_allocate(dsm_store *s, uint64_t *ids, size_t n, size_t *left)
    int dsm_store_read(dsm_store *s, uint64_t pid, void *out, uint64_t *version)
    int dsm_store_read_now(const dsm_store *s, uint64_t pid, void *out, uint64_t *version)
    int dsm_store_version_now(const dsm_store *s, uint64_t pid, uint64_t *version)
    int dsm_store_write_now(dsm_store *s, uint64_t pid, const uint64_t *expected, const void *page, uint64_t *version)
    int dsm_store_version(dsm_store *s, uint64_t pid, uint64_t *version)
    ctypedef struct dsm_page_metadata:
        uint64_t version
        uint64_t time
        uint32_t slot
        uint32_t epoch
        uint32_t change
        uint32_t transaction
    enum: DSM_PAGE_EMPTY, DSM_PAGE_COMMITTED
    int dsm_store_metadata_now(const dsm_store *s, uint64_t pid, dsm_page_metadata *out)
    int dsm_store_metadata(dsm_store *s, uint64_t pid, dsm_page_metadata *out)
    int dsm_store_write(dsm_store *s, uint64_t pid, const void *page, uint64_t *version)
    int dsm_store_compare_write(dsm_store *s, uint64_t pid, uint64_t expected, const void *page, uint64_t *version)
    int dsm_store_free(dsm_store *s, uint64_t pid)
    ctypedef struct dsm_store_doubt:
        uint64_t pid
        uint64_t version
    void dsm_store_doubt_of(const dsm_store *s, dsm_store_doubt *out)
    enum: DSM_STORE_DONE, DSM_STORE_NOT_DONE
    enum: DSM_STORE_DOUBTS
    uint32_t dsm_store_doubts(const dsm_store *s, dsm_store_doubt *out)
    int dsm_store_outcome(dsm_store *s, const dsm_store_doubt *of, size_t n, int *outcome)
    int dsm_store_read_many(dsm_store *s, const uint64_t *pids, size_t n, void *pages, uint8_t *statuses)
    int dsm_store_write_many(dsm_store *s, const uint64_t *pids, size_t n, const void *pages, uint64_t *versions,
                             uint8_t *statuses)
    ctypedef struct dsm_transaction:
        pass
    dsm_transaction *dsm_transaction_new(int opaque)
    void dsm_transaction_drop(dsm_transaction *t)
    void dsm_transaction_until(dsm_transaction *t, int64_t deadline)
    int dsm_transaction_read(dsm_store *s, dsm_transaction *t, const uint64_t *pids, size_t n, void *out)
    int dsm_transaction_write(const dsm_store *s, dsm_transaction *t, uint64_t pid, const void *page)
    int dsm_transaction_free(dsm_transaction *t, uint64_t pid)
    int dsm_transaction_check(dsm_store *s, dsm_transaction *t)
    int dsm_transaction_commit(dsm_store *s, dsm_transaction *t)
    enum: DSM_TRANSACTION_CHANGES
    uint32_t dsm_transaction_doubts(const dsm_transaction *t, dsm_store_doubt *out)
    uint64_t dsm_transaction_conflict(const dsm_transaction *t)
    uint64_t dsm_store_retries(const dsm_store *s)
    int dsm_store_count(dsm_store *s, dsm_store_counts *out)
    enum: DSM_STORE_CHECKED
    uint64_t DSM_STORE_NUMBERS
    ctypedef struct dsm_store_fault:
        uint64_t page, id
        uint8_t heads, frames, changes, unknown
    int dsm_store_check(dsm_store *s, uint64_t first, uint32_t n, dsm_store_fault *faults, uint32_t *found)
    int dsm_store_repair(dsm_store *s, uint64_t page, int *repaired)
