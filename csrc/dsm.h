/*
 * dsm.h: the public interface of the core.
 *
 * Every function returns 0 (or a count where it says so) or -DSM_E… (base/err.def). After a failure dsm_last_error()
 * gives the calling thread the errno, the completion status and a sentence of detail.
 *
 * THREADS. Every function may be called from any thread, except that an object must not be used during or after the
 * call that closes it, and a dsm_op belongs to the core between submit and its completion.
 *
 * FORK. A child of fork() gets -DSM_EFORK from everything but the close functions, which then only forget.
 *
 * COMPLETION, that is what is true when an op has status 0:
 *   READ      the bytes are in the local buffer. Larger than 8 aligned bytes, they may mix old and new.
 *   WRITE     shm: every process of the host sees it.
 *             verbs: the remote NIC has acknowledged it. A later op on the same connection sees it; whether the owner's
 *             CPU already does is up to the hardware.
 *   ATOMIC    the update has taken effect, once, and 'result' holds the value before it.
 * An op with a status other than 0 may have taken effect, unless the status comes from the checks that run before
 * anything is posted: EINVAL EBOUNDS EACCESS EALIGN ECLOSED EFORK (and ESTALE, EPEER when found then).
 *
 * ORDER. Ops of one batch to one peer: WRITE after WRITE and ATOMIC after WRITE take effect in order. Whatever depends
 * on a READ or an ATOMIC before it in the batch needs DSM_OP_FENCE. Between peers there is no order.
 *
 * ATOMICITY. A word that is updated with fetch_add or compare_swap is to be changed by them only, by its owner too (the
 * owner attaches to its own region): NIC and CPU atomics do not exclude each other, and a failing compare-swap may
 * store.
 */
#ifndef DSM_H
#define DSM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum dsm_error {
#define DSM_ERR(code, value, cls, base, text) DSM_##code = (value),
#include "base/err.def"
#undef DSM_ERR
    DSM_ERROR_END,
    DSM_ERROR_LAST = DSM_ERROR_END - 1
};

#define DSM_READ 1u   /* others may read */
#define DSM_WRITE 2u  /* others may write */
#define DSM_ATOMIC 4u /* others may fetch-add and compare-swap */

#define DSM_DESC_MAX 256
#define DSM_NODE_ID 16

typedef struct dsm_ctx dsm_ctx;
typedef struct dsm_region dsm_region;
typedef struct dsm_remote dsm_remote;

/* ---- errors ---- */

typedef struct {
    int code;         /* DSM_E…, positive */
    int sys;          /* errno, or 0 */
    int status;       /* work completion status (enum ibv_wc_status), or 0 */
    uint32_t vendor;  /* the device's own code, or 0 */
    char detail[200]; /* what exactly; "" when the code says it all */
} dsm_failure;

typedef struct {
    int code;
    const char *name, *py_class, *py_base, *text;
} dsm_error_row;

const dsm_failure *dsm_last_error(void); /* of this thread; valid until its next call */
const dsm_error_row *dsm_error_rows(size_t *n);
const char *dsm_strerror(int code); /* takes either sign */

/* ---- contexts ---- */

typedef struct {
    const char *fabric;      /* "shm" or "verbs" */
    const char *device;      /* NULL or "": the first that has an active port */
    int port;                /* 0: the first active */
    int gid_index;           /* -1: RoCE v2 with an IPv4 address first */
    int mtu;                 /* bytes; 0: the port's active one */
    const char *listen;      /* agent's TCP address, host or host:port; NULL: what the fabric needs */
    const void *secret;      /* shared secret, any bytes */
    size_t secret_len;       /* at least 16 */
    int64_t peer_timeout_ns; /* a silent peer is an error after about this; 0: the default, 2 s */
    int64_t spin_ns;         /* how long to poll before sleeping; <0: the default, 50 us (0 on a one-core host) */
    int depth;               /* send queue depth; 0: the default, 128 */
    int service_level;       /* verbs: of what is sent, 0 … 15 */
    int traffic_class; /* verbs: likewise, 0 … 255; lies in the global header, which is sent where it is not 0 */
    const char *fault; /* NULL, or a fault plan (fabric/fault/fault.h) */
} dsm_options;

typedef struct {
    uint32_t local_memory;     /* 1: attached memory is mapped and ops complete when posted */
    uint32_t register_private; /* 1: memory of the caller's own can be registered */
    uint32_t atomic_domain;    /* 0: CPU, 1: this NIC only, 2: NIC and CPU (IBV_ATOMIC_GLOB), 3: no atomics */
    uint32_t max_inline;
    uint32_t max_reads; /* outstanding reads and atomics per connection */
    uint32_t depth;
    uint32_t mtu;
    uint32_t port;
    int32_t gid_index;
    uint32_t is_roce;
    uint64_t max_region;
    char fabric[16];
    char device[64];
    char gid[64];
} dsm_caps;

void dsm_options_init(dsm_options *o);
int dsm_open(const dsm_options *o, dsm_ctx **out);
/* Idle connections are drained and closed. Regions and remotes should be closed before: afterwards they are good for
 * nothing but that, and what the context has is freed with the last of them. */
void dsm_close(dsm_ctx *c);
void dsm_capabilities(const dsm_ctx *c, dsm_caps *out);
void dsm_node_id(const dsm_ctx *c, uint8_t id[DSM_NODE_ID]);
/* The agent's address as text: "unix:@name" or "tcp:host:port". */
const char *dsm_agent_address(const dsm_ctx *c);
/* Cut a node off: its connections move to the error state and new ones are refused; done when it returns. On shm the
 * node loses its connection but memory it has already mapped stays mapped (UNSUPPORTED is returned, after cutting). */
int dsm_fence(dsm_ctx *c, const uint8_t node[DSM_NODE_ID]);
/* Counters: how often the core entered the fabric. For tests and benches. */
typedef struct {
    uint64_t posts, doorbells, signalled, wakeups, connects, rejected;
} dsm_stats;
void dsm_get_stats(const dsm_ctx *c, dsm_stats *out);

/* Whether the context was made before a fork, in the parent. */
int dsm_forked(const dsm_ctx *c);
/* Where the count of forks stands that lie between this process and the one which loaded the core. It changes in a
 * child only, before its first instruction after the fork. */
const uint32_t *dsm_forks(void);

/* Is the fabric usable here? 0, or -DSM_E… with the reason in dsm_last_error(). Opens nothing for good. */
int dsm_probe(const char *fabric);
/* JSON array of what the fabric sees (devices, ports, GIDs), into buf; returns the length, or -DSM_E…. */
int dsm_inventory(const char *fabric, char *buf, size_t len);

/* ---- memory of this process that others reach ---- */

/* Zeroed, page-aligned, in huge pages where the fabric finds some. Errors: EINVAL (0 bytes, rights), ENOMEM,
 * EMEMLOCK. */
int dsm_alloc(dsm_ctx *c, uint64_t nbytes, uint32_t access, dsm_region **out);
/* Memory of the caller's, which keeps it alive until dsm_region_close returned. ENOTSHARED where the fabric can't. */
int dsm_register(dsm_ctx *c, void *p, uint64_t nbytes, uint32_t access, dsm_region **out);
/* n at once: all or none. Neighbouring buffers may share one registration with the device. */
int dsm_register_many(dsm_ctx *c, size_t n, void *const *p, const uint64_t *nbytes, uint32_t access, dsm_region **out);
/* Afterwards the descriptor is refused as stale. Waits for the fabric, never for peers. */
int dsm_region_close(dsm_region *r);
void *dsm_region_data(const dsm_region *r);
uint64_t dsm_region_nbytes(const dsm_region *r);
uint32_t dsm_region_access(const dsm_region *r);
/* Writes the descriptor (docs/protocols/descriptor.md) into buf; returns its length, at most DSM_DESC_MAX. */
int dsm_region_descriptor(const dsm_region *r, uint8_t buf[DSM_DESC_MAX]);

/* ---- descriptors ---- */

typedef struct {
    uint32_t version, access, kind, fabric; /* fabric: 1 shm, 2 verbs */
    uint8_t node[DSM_NODE_ID];
    uint64_t region, generation, nbytes, base;
    uint32_t key;
    char address[112]; /* of the owner's agent */
} dsm_descriptor;

/* Refuses (EDESC, EVERSION) whatever it does not understand to the last byte. */
int dsm_descriptor_parse(const void *bytes, size_t len, dsm_descriptor *out);

/* ---- memory of other processes ---- */

/* Connects to the owner's agent where there is no connection yet. timeout_ns < 0: the peer timeout. */
int dsm_attach(dsm_ctx *c, const void *descriptor, size_t len, int64_t timeout_ns, dsm_remote **out);
/* EBUSY while ops are outstanding. */
int dsm_remote_close(dsm_remote *r);
/* Ops that this thread begins from now on, as parts of a call, wait no longer than until the deadline (of
 * CLOCK_MONOTONIC, in nanoseconds; INT64_MAX: none), except that each may take 0.2 s, or the peer timeout if that is
 * shorter. Returns the deadline before. The function of dsm_set_interrupt is called without one. */
int64_t dsm_call_until(int64_t deadline);
uint64_t dsm_remote_nbytes(const dsm_remote *r);
uint32_t dsm_remote_access(const dsm_remote *r);
void dsm_remote_node(const dsm_remote *r, uint8_t id[DSM_NODE_ID]);
const char *dsm_remote_address(const dsm_remote *r);

/* Maps nbytes of an open file of shared memory (it keeps no reference to fd): a remote that is local, belongs to no
 * context and can take part in the batches of any. Errors: EINVAL (the file is shorter, or no rights), EACCESS,
 * ESYS. */
int dsm_map(int fd, uint64_t nbytes, uint32_t access, dsm_remote **out);
/* In a child of fork, which has inherited the mapping: a remote of its own on it. r is as it was, and what stands on r
 * is refused as before; but the mapping belongs to the new one, and r must not be closed. EINVAL: r is of no mapped
 * file. */
int dsm_map_inherited(const dsm_remote *r, dsm_remote **out);
/* nbytes of the same file again, without its name: it may have been unlinked, and made longer before. ECORRUPT: it has
 * less. */
int dsm_map_again(dsm_remote *r, uint64_t nbytes, dsm_remote **out);
/* Where the memory is mapped in this process; NULL where it is not. */
void *dsm_remote_mapped(const dsm_remote *r);

/* ---- ops ---- */

enum { DSM_OP_READ = 1, DSM_OP_WRITE = 2, DSM_OP_FETCH_ADD = 3, DSM_OP_COMPARE_SWAP = 4 };
#define DSM_OP_FENCE 1u /* starts after the READs and ATOMICs before it on this connection have completed */

struct dsm_group;
typedef struct dsm_op {
    uint8_t code;
    uint8_t flags;
    uint16_t segments; /* the fabric's own: pieces of this op still under way */
    int32_t status;    /* 0 or -DSM_E…; meaningful once complete */
    dsm_remote *remote;
    uint64_t offset;
    void *local;      /* READ: destination, WRITE: source; NULL for atomics */
    uint64_t nbytes;  /* 8 for atomics */
    uint64_t operand; /* FETCH_ADD: addend, COMPARE_SWAP: expected */
    uint64_t desired; /* COMPARE_SWAP */
    uint64_t result;  /* ATOMIC: the value before */
    uint32_t wc_status, vendor;
    /* the core's own: */
    struct dsm_group *group;
    struct dsm_op *next;
    void *fabric;    /* scratch of the fabric that executes the op */
    uint64_t cookie; /* likewise */
} dsm_op;

/* Waits look every 50 ms at most whether a signal handler wants them to end: 'look' is called with no lock held, and
 * where it returns anything but 0 the wait ends as if its deadline had passed. NULL: waits don't look. For the whole
 * process. */
void dsm_set_interrupt(int (*look)(void));
/* Returns -DSM_EBUSY, as every function does that 'look' calls, by a signal handler, for what the call around it has
 * for itself: the turn of a handle, a connection. The handler would wait for its own thread. what: "queue", "lock"… */
int dsm_refuse_reentry(const char *what);

/* Single ops, blocking. timeout_ns bounds all of the call: an op to a peer whose connection is lost makes a new one
 * first. timeout_ns < 0: the core gives up what has not completed after twice the peer timeout (the device has the
 * first half to tell of a dead peer itself) and 250 ns for each byte that is under way on the connection. ETIME then,
 * too. */
int dsm_read(dsm_remote *r, uint64_t offset, void *out, uint64_t nbytes, int64_t timeout_ns);
int dsm_write(dsm_remote *r, uint64_t offset, const void *data, uint64_t nbytes, int64_t timeout_ns);
int dsm_fetch_add(dsm_remote *r, uint64_t offset, uint64_t add, uint64_t *old, int64_t timeout_ns);
int dsm_compare_swap(dsm_remote *r, uint64_t offset, uint64_t expected, uint64_t desired, uint64_t *old,
                     int64_t timeout_ns);
/* n pieces of 'each' bytes, densely packed in local memory, at the given offsets. One crossing, one doorbell. */
int dsm_read_many(dsm_remote *r, const uint64_t *offsets, size_t n, void *out, uint64_t each, int64_t timeout_ns);
int dsm_write_many(dsm_remote *r, const uint64_t *offsets, size_t n, const void *data, uint64_t each,
                   int64_t timeout_ns);

/* Any ops to any number of peers. All are checked first; if one is refused, nothing is posted and -DSM_E… is returned
 * with *failed at its index. Afterwards the error of the first op that failed of itself (not ECANCELED, where
 * there is such a one) is returned and *failed is its index. failed may be NULL. */
int dsm_execute(dsm_ctx *c, dsm_op *ops, size_t n, int64_t timeout_ns, size_t *failed);

/* The same in two halves, for a thread that may wait: dsm_submit makes connections where it must. The ticket and the
 * ops stay where they are until dsm_finish returns. */
#define DSM_TICKET_GROUPS 8
struct dsm_group {
    uint32_t pending;     /* base/atomic.h: decremented by whoever reaps */
    uint16_t late, round; /* of started ones: core/async.c */
    void *peer;
    dsm_op *head, *tail;
    void (*tell)(
        struct dsm_group *); /* by whom pending becomes 0; NULL: the group's owner looks itself, and may free it */
    struct dsm_group *next;
    struct dsm_ticket *ticket;
};
typedef struct dsm_ticket {
    dsm_ctx *ctx;
    dsm_op *ops;
    size_t n;
    size_t posted; /* ops before this one are posted; the rest follow when groups come free */
    size_t ngroups;
    size_t left; /* groups that are not complete; this and what follows: of tickets that were started */
    uint32_t started, asked, late;
    struct dsm_ticket *next;
    struct dsm_group groups[DSM_TICKET_GROUPS];
} dsm_ticket;
int dsm_submit(dsm_ctx *c, dsm_op *ops, size_t n, dsm_ticket *t, size_t *failed);
/* Waits: polls for spin_ns, then sleeps on the completion channel. At the deadline the connection is moved to the error
 * state and drained, so on return no buffer is in use any more. Same result as dsm_execute. A ticket that dsm_completed
 * has returned is complete: then it does not wait. */
int dsm_finish(dsm_ticket *t, int64_t timeout_ns, size_t *failed);

/* For event loops: none of these waits. 1: complete already, dsm_finish tells how; 0: ticket and ops are the core's
 * until dsm_completed returns the ticket; or an error, then nothing is posted. A connection is made, the owner asked
 * why it refuses an op, and an op given up that does not complete, by a thread of the core's. */
int dsm_start(dsm_ctx *c, dsm_op *ops, size_t n, dsm_ticket *t, size_t *failed);
/* The next ticket that is complete, each once; NULL: no other. Call it until then whenever dsm_event_fd is readable. */
dsm_ticket *dsm_completed(dsm_ctx *c);
/* Readable from when a ticket has completed until dsm_completed has returned NULL; -DSM_EUNSUPPORTED where ops complete
 * when posted. */
int dsm_event_fd(dsm_ctx *c);
/* Ends all that has been started: afterwards dsm_completed returns it. Nothing may be started, attached or closed
 * meanwhile. */
void dsm_cancel(dsm_ctx *c);

/* ---- objects in shared memory (proto/) ---- */

enum dsm_type {
    DSM_SEGMENT = 1,
    DSM_QUEUE = 2,
    DSM_LOCK = 3,
    DSM_RWLOCK = 4,
    DSM_SEMAPHORE = 5,
    DSM_EVENT = 6,
    DSM_CONDITION = 7,
    DSM_BARRIER = 8,
    DSM_ONCE = 9,
    DSM_SPINLOCK = 10,
    DSM_CLOCK = 11,
    DSM_COUNTING = 12,
    DSM_RLOCK = 13,
};
#define DSM_TYPE_NAMES \
    "", "segment", "queue", "lock", "rwlock", "semaphore", "event", "condition", "barrier", "once", "spinlock", \
        "clock", "counting_semaphore", "rlock"

/* This process as a number that no other process of the host will have, and whether it has ended: said only where it is
 * proven. docs/protocols/objects.md. The pid is for messages; 0 where it means nothing here. Provable: whether others
 * can prove the death of this process; if not, what it holds at its end stays held, and the error says why. */
int dsm_identity(uint64_t *out);
int dsm_identity_provable(void);
int dsm_identity_dead(uint64_t identity);
int dsm_identity_pid(uint64_t identity);

/* What kind of object the memory holds (enum dsm_type), or -DSM_E…: ECORRUPT, EVERSION. */
int dsm_object_type(dsm_remote *r);
const char *dsm_type_name(int type);

/* ---- queues (objects/queue/ring.h) ----
 *
 * A handle may produce, consume, or both; the roles are taken with dsm_queue_produce and dsm_queue_consume. THREADS:
 * calls on one handle are serialised by the caller, but for the two wait functions, which may run beside any of
 * them. */

#define DSM_QUEUE_MANY_CONSUMERS 1u /* any process that maps the object may take */
#define DSM_QUEUE_DROP_OLDEST 2u    /* a put that finds no room throws the oldest message of its lane away */
#define DSM_QUEUE_CHECKED 4u        /* producers may be remote; one consumer, where the memory is */

typedef struct dsm_queue dsm_queue;
typedef struct {
    uint32_t lanes, flags; /* lanes: producers at a time, 1 to 1024 */
    uint64_t lane_bytes;   /* a power of 2 from 4096 */
    uint64_t max_message;  /* at most lane_bytes / 2 less two headers, so that an empty lane always takes it */
} dsm_queue_config;

/* Bytes that an object of this shape takes; 0: EINVAL. */
uint64_t dsm_queue_nbytes(const dsm_queue_config *s);
/* memory: nbytes zero bytes that nobody else knows yet. */
int dsm_queue_format(void *memory, const dsm_queue_config *s);
/* local: the memory itself where the caller owns it; NULL: as r has it. ECORRUPT, EVERSION, EMISMATCH. r stays open. */
int dsm_queue_open(dsm_remote *r, void *local, dsm_queue **out);
/* Gives its roles back; messages that are not flushed are lost. After an error it may be called again, and goes on.
 * Nothing is left to do, so 0, where the owner of the memory is gone. */
int dsm_queue_leave(dsm_queue *q);
/* Frees the handle, whatever roles it has. */
void dsm_queue_free(dsm_queue *q);
/* Both, unless leaving fails. */
int dsm_queue_close(dsm_queue *q);
/* How long the ops of the calls that follow may take together; < 0: each as long as a peer may be silent, which no op
 * exceeds. Only remote ones take time. */
void dsm_queue_set_timeout(dsm_queue *q, int64_t timeout_ns);
void dsm_queue_get_config(const dsm_queue *q, dsm_queue_config *out);
/* EMEMBERS: every lane has a living producer. EBUSY: there is a living consumer. ENOTMAPPED: the memory is not mapped
 * here. */
int dsm_queue_produce(dsm_queue *q);
int dsm_queue_consume(dsm_queue *q);

/* kind: 1 to 254, what the reader is told. Others see the message at once where the lane is local, else after the
 * flush. EFULL (nothing has happened), ETOOLARGE, ESHUTDOWN. */
int dsm_queue_push(dsm_queue *q, const void *payload, uint64_t length, uint8_t kind);
typedef struct {
    const void *bytes;
    uint64_t nbytes;
} dsm_queue_part;
/* One message of several parts. */
int dsm_queue_push_parts(dsm_queue *q, const dsm_queue_part *parts, uint32_t n, uint8_t kind);
/* n records of 'each' bytes, as far as there is room: returns how many. */
int64_t dsm_queue_push_records(dsm_queue *q, const void *records, uint64_t n, uint64_t each);
/* Wakes consumers; sends what a remote lane has staged, in one WRITE (two where the ring's end lies in between). After
 * an error the messages are still staged: the next flush sends them again, which does no harm where they had
 * arrived. */
int dsm_queue_flush(dsm_queue *q);
/* Room for a message, to be filled in place; commit it with a length up to the reserved one. One at a time. */
int dsm_queue_reserve(dsm_queue *q, uint64_t length, void **out);
int dsm_queue_commit(dsm_queue *q, uint64_t length, uint8_t kind);
void dsm_queue_cancel(dsm_queue *q);

/* The next message, in place: EEMPTY, ESHUTDOWN. May be called again for the one behind it. Nothing is taken before
 * dsm_queue_done, which answers 0, or EEMPTY: another consumer was faster, and what was read since the last done is to
 * be forgotten. */
int dsm_queue_next(dsm_queue *q, const void **payload, uint64_t *length, uint8_t *kind);
/* Like next, but only from the lane that is being read. */
int dsm_queue_next_here(dsm_queue *q, const void **payload, uint64_t *length, uint8_t *kind);
int dsm_queue_done(dsm_queue *q);
/* Forgets what was read since the last done; it stays in the queue. */
void dsm_queue_undo(dsm_queue *q);
/* Up to n messages of exactly 'each' bytes, taken: returns how many. EMISMATCH: the next one has another length. */
int64_t dsm_queue_pop_records(dsm_queue *q, void *out, uint64_t n, uint64_t each);

/* Until there may be room for a message of that length, or a message: spin for spin_ns, then sleep. 0, ETIME,
 * ESHUTDOWN. A remote producer looks with ops that may take op_ns (as with dsm_queue_set_timeout), also beyond the
 * timeout. */
int dsm_queue_wait_room(const dsm_queue *q, uint64_t length, int64_t timeout_ns, int64_t spin_ns, int64_t op_ns);
int dsm_queue_wait_item(const dsm_queue *q, int64_t timeout_ns, int64_t spin_ns);

typedef struct {
    uint64_t messages, puts, gets, dropped; /* of all lanes; the last three may miss what a killed process did last */
    uint64_t full;                          /* times that a producer on this host found no room, once per look */
    uint64_t bytes;                         /* in the fullest lane, headers included */
    uint32_t producers, shutdown;
} dsm_queue_counts;
/* As seen one after another, not at one moment. */
int dsm_queue_count(const dsm_queue *q, dsm_queue_counts *out);
/* Nothing more goes in. now: nothing more comes out either. All who wait are woken. */
int dsm_queue_shutdown(dsm_queue *q, int now);

/* Who has the lanes: how many, at most as there are lanes, or -DSM_E…; and who is the one consumer, 0: nobody, or many
 * may be. */
int dsm_queue_producers(const dsm_queue *q, uint64_t *identities);
int dsm_queue_consumer(const dsm_queue *q, uint64_t *identity);
/* Takes the roles from a holder that the caller knows to be gone. 1: done, 0: that one has none. One that lives gets
 * ENOTHELD. */
int dsm_queue_break(const dsm_queue *q, uint64_t holder);

/* A file descriptor that becomes readable when, after arming, there may be a message (room: when there may be room for
 * that many bytes). Arming makes it unreadable first. Its thread ends with dsm_watch_close, which comes before
 * dsm_queue_close. */
typedef struct dsm_watch dsm_watch;
int dsm_watch_open(dsm_queue *q, dsm_watch **out);
int dsm_watch_fd(const dsm_watch *w);
void dsm_watch_arm(dsm_watch *w, uint64_t room);
void dsm_watch_close(dsm_watch *w); /* NULL: nothing */

/* ---- synchronisation (docs/protocols/lock.md, sync.md) ----
 *
 * Handles on objects that a remote with all three rights reaches; the remote stays open while the handle is. A handle
 * may be used by many threads. Local, waiters sleep on a futex, and what a dead process held is found and given on.
 * Remote, they look again after pauses, and nobody is taken for dead.
 *
 * What takes a timeout returns 1 when it has what it waited for, 0 when the time was over first (timeout 0: tries
 * once), or -DSM_E…. Negative: no limit. Remote, one attempt may last as long as the peer timeout when the transport
 * loses it. spin_ns: how long to look before sleeping; < 0: the default, 1 us (0 on a one-core host). */

/* Bytes of the object, 0 where such a one can't be: members 1 to 1024 (semaphore and event: 0), count: permits of a
 * semaphore (1 to 4096), first value of a counting one (0 to 2^31 - 1), parties of a barrier, most waiters of a
 * condition (both 1 to 1024), else 0. */
uint64_t dsm_sync_bytes(int type, uint32_t members, uint32_t count);
/* How one thread waits for many: begin, try what each of them waits for with timeout 0, sleep, again. Where the memory
 * is mapped it sleeps until the eventcount rings, at most 50 ms, else for pauses of up to 1 ms. After a sleep it may
 * have been woken in place of another waiter: who has nothing to try any more passes that on. */
typedef struct {
    void *eventcount; /* NULL: none rings */
    int64_t backoff;
    uint32_t seen;
} dsm_listener;
enum { DSM_EVENTCOUNT_FIRST, DSM_EVENTCOUNT_SECOND, DSM_EVENTCOUNT_SEGMENT };
void dsm_listener_open(dsm_listener *l, dsm_remote *r, int eventcount);
void dsm_listener_begin(dsm_listener *l);
void dsm_listener_sleep(dsm_listener *l);
/* Since dsm_listener_begin. An eventcount that wakes one may have woken this thread in place of another: if it tries
 * nothing then, it passes that on. */
int dsm_listener_rung(const dsm_listener *l);
void dsm_listener_pass_on(const dsm_listener *l);
/* Before the memory goes: whoever sleeps as this listener sleeps no more, and is woken in place of nobody. */
void dsm_listener_end(const dsm_listener *l);

/* Into zeroed memory of that size, before anybody else sees it. lock: id of a condition's lock, 0: its own. */
int dsm_sync_format(void *memory, int type, uint32_t members, uint32_t count, uint64_t lock);

typedef struct dsm_lock dsm_lock;
/* A lock, a spinlock or an rlock, which is a lock to the core. EMISMATCH, ECORRUPT, EVERSION, EACCESS, EMEMBERS. */
int dsm_lock_open(dsm_remote *r, int64_t spin_ns, dsm_lock **out);
/* What it still holds goes to the next with owner_died set that its holder has gone, and its place in the object is
 * free. 0 also where the memory is gone. After an error it may be called again; other calls with the handle may not. */
int dsm_lock_leave(dsm_lock *l);
/* Leaves, unless that was done, and frees the handle. Nobody may use it any more. So do those of the other objects. */
void dsm_lock_close(dsm_lock *l);
int dsm_lock_acquire(dsm_lock *l, int64_t timeout_ns);
/* Any thread of the process may. ENOTHELD: not held with this handle, or taken over. After another error nothing is
 * known, and it may be called again. */
int dsm_lock_release(dsm_lock *l);
/* The same for a grant that was not used: the next holder gets the news that it had. */
int dsm_lock_release_unused(dsm_lock *l);
int dsm_lock_held(const dsm_lock *l);                 /* with this handle */
uint64_t dsm_lock_token(const dsm_lock *l);           /* of this handle's grant; 0: it holds nothing */
int dsm_lock_recovered(const dsm_lock *l);            /* the holder before died with it */
int dsm_lock_locked(dsm_lock *l);                     /* by anybody: 1, 0 or -DSM_E… */
int dsm_lock_holder(dsm_lock *l, uint64_t *identity); /* 0: nobody holds it */
/* Takes the lock from a holder that the caller knows to be gone, for the next one to find as if the holder had died. 1:
 * done, 0: that one does not hold it. A holder that lives notices at its release, ENOTHELD. */
int dsm_lock_break(dsm_lock *l, uint64_t holder);

/* ---- segments (objects/segment/segment.h) ---- */

#define DSM_SEGMENT_AXES 16
#define DSM_SEGMENT_DTYPE 3712

typedef struct {
    uint32_t axes, itemsize, dtype_length, versioned;
    uint64_t shape[DSM_SEGMENT_AXES]; /* when it was made */
    uint64_t capacity;                /* rows that there is room for */
    uint64_t rows;                    /* elements of the first axis now; 1 where there is no axis */
    uint64_t row_bytes;
    uint64_t data, shadow; /* offsets; shadow is 0 where there are no versions */
    uint64_t identity;     /* of this process as a writer; remote: of this struct */
    uint64_t turn;         /* remote: the thread that is the writer with this struct, or 0 */
    uint32_t left;         /* remote: the last one may have left the segment held */
    char dtype[DSM_SEGMENT_DTYPE];
} dsm_segment;

/* From axes, itemsize, dtype, versioned, shape and capacity (at least shape[0]): the rest, and the bytes of all.
 * Errors: EINVAL, ENOMEM (more than there are addresses). */
int dsm_segment_layout(dsm_segment *s, uint64_t *nbytes);
/* Into zeroed memory that nobody else sees yet. */
int dsm_segment_format(void *memory, uint64_t nbytes, const dsm_segment *s);
/* Checks all that is there, once, and copies it. 1: fine, but it has grown beyond r. Errors: ECORRUPT, EVERSION,
 * EMISMATCH. */
int dsm_segment_open(dsm_remote *r, dsm_segment *s);
/* The rows now. 1: they reach beyond r, which must be mapped again. */
int dsm_segment_rows(dsm_remote *r, const dsm_segment *s, uint64_t *rows);
/* The same of memory that is local, unchecked: to see whether they have changed. */
uint64_t dsm_segment_rows_mapped(const dsm_remote *r);
/* Of a segment without versions, when the memory is there. */
int dsm_segment_set_rows(dsm_remote *r, uint64_t rows);
/* Wakes those who wait for a change, which was made before. Nothing where the memory is remote. */
void dsm_segment_notify(dsm_remote *r);
/* Until the n bytes at offset differ from those seen; copies them to now. Spins for spin_ns where the memory is local,
 * then sleeps. A change by plain stores, or remotely, is noticed within 50 ms. ETIME. */
int dsm_segment_wait(dsm_remote *r, uint64_t offset, const void *seen, void *now, uint64_t n, int64_t spin_ns,
                     int64_t timeout_ns);

/* One writer at a time, for all of a new version: begin, change the data (local) or all of a copy (remote), then commit
 * or abort. A reader sees the version before until commit, and nothing of what a writer did that dies before. ETIME:
 * another writes. EINVAL: no versions. ENOTHELD: commit or abort without begin. */
int dsm_segment_begin(dsm_remote *r, dsm_segment *s, int64_t timeout_ns, uint64_t *version, uint64_t *rows);
/* data: the whole new version, s->rows rows, which is written first; NULL where it is in place already (local).
 * *version: as begin gave it, then that of what was written. ECORRUPT: the segment no longer has so many. ENOTHELD: the
 * turn was broken, or is another thread's. After an error the caller aborts. */
int dsm_segment_commit(dsm_remote *r, dsm_segment *s, const void *data, uint64_t *version);
/* After it the caller writes no more, also after an error; then the next begin with s finds what was left, or leave
 * does. */
int dsm_segment_abort(dsm_remote *r, dsm_segment *s, uint64_t version);
/* Before s is forgotten: what a write that failed has left is brought to an end. After an error it may be called
 * again. */
int dsm_segment_leave(dsm_remote *r, dsm_segment *s);
/* Copies one version of *rows rows into out. 1: it has other rows, *rows tells how many; give so much room. ETIME:
 * writers were too quick until now. *tries is 0 first and stays the caller's, so that one who may write gets his turn
 * at last. */
int dsm_segment_snapshot(dsm_remote *r, dsm_segment *s, void *out, uint64_t *rows, int64_t timeout_ns, int *tries,
                         uint64_t *version);
int dsm_segment_writer(dsm_remote *r, uint64_t *identity); /* 0: nobody writes */
/* Takes the turn from a writer that the caller knows to be gone (a node elsewhere, which nothing here proves dead). 1:
 * done, 0: that one does not write. */
int dsm_segment_evict(dsm_remote *r, dsm_segment *s, uint64_t holder);

typedef struct dsm_rwlock dsm_rwlock;
int dsm_rwlock_open(dsm_remote *r, int64_t spin_ns, dsm_rwlock **out);
int dsm_rwlock_leave(dsm_rwlock *rw);
void dsm_rwlock_close(dsm_rwlock *rw);
int dsm_rwlock_read(dsm_rwlock *rw, int64_t timeout_ns);
/* ENOTHELD: it does not read, or that was broken. After another error it does not read either, and writers may still
 * wait for it: each later call tries to clear that, this one and leave among them. */
int dsm_rwlock_unread(dsm_rwlock *rw);
/* To write: claim, then drain, each until it answers 1. Who gives up between them unclaims with unused = 1. */
int dsm_rwlock_claim(dsm_rwlock *rw, int64_t timeout_ns);
int dsm_rwlock_drain(dsm_rwlock *rw, int64_t timeout_ns);
int dsm_rwlock_unclaim(dsm_rwlock *rw, int unused);     /* ENOTHELD */
dsm_lock *dsm_rwlock_lock(dsm_rwlock *rw);              /* the writer's: held, token, recovered, locked */
int dsm_rwlock_readers(dsm_rwlock *rw, int *recovered); /* of this handle */
/* Who reads: how many, at most 1024, or -DSM_E…. The writer is dsm_lock_holder() of its lock. */
int dsm_rwlock_inside(dsm_rwlock *rw, uint64_t *identities);
/* As dsm_lock_break(), of whatever that one holds, as the writer or as a reader. */
int dsm_rwlock_break(dsm_rwlock *rw, uint64_t holder);

typedef struct dsm_semaphore dsm_semaphore;
int dsm_semaphore_open(dsm_remote *r, int64_t spin_ns, dsm_semaphore **out);
int dsm_semaphore_leave(dsm_semaphore *m);
void dsm_semaphore_close(dsm_semaphore *m); /* gives its permits back */
int dsm_semaphore_acquire(dsm_semaphore *m, int64_t timeout_ns);
/* All n or, where the handle has fewer, none: ENOTHELD. After another error as many as dsm_semaphore_held tells are
 * left. */
int dsm_semaphore_release(dsm_semaphore *m, uint32_t n);
int dsm_semaphore_value(dsm_semaphore *m);                /* free permits, or -DSM_E… */
int dsm_semaphore_held(dsm_semaphore *m, int *recovered); /* permits of this handle */
/* Whose the permits are: how many are taken, at most 4096, or -DSM_E…. Local a process's identity, remote a value for
 * each grant. */
int dsm_semaphore_holders(dsm_semaphore *m, uint64_t *values);
/* As dsm_lock_break(): the permits with that value become free. Who releases one of them: ENOTHELD. */
int dsm_semaphore_break(dsm_semaphore *m, uint64_t holder);

/* Permits without owners: any handle may release. */
typedef struct dsm_counting dsm_counting;
int dsm_counting_open(dsm_remote *r, int64_t spin_ns, dsm_counting **out);
void dsm_counting_close(dsm_counting *c);
int dsm_counting_acquire(dsm_counting *c, int64_t timeout_ns);
int dsm_counting_release(dsm_counting *c,
                         uint32_t n);        /* EINVAL: more than 2^31 - 1. EIO may mean that the outcome is unknown */
int64_t dsm_counting_value(dsm_counting *c); /* or -DSM_E… */

typedef struct dsm_event dsm_event;
#define DSM_EVENT_NOW UINT64_MAX
int dsm_event_open(dsm_remote *r, int64_t spin_ns, dsm_event **out);
void dsm_event_close(dsm_event *e);
int dsm_event_set(dsm_event *e);
int dsm_event_clear(dsm_event *e);
int dsm_event_is_set(dsm_event *e); /* 1, 0 or -DSM_E… */
/* *since is DSM_EVENT_NOW first, and goes from call to call of one wait. */
int dsm_event_wait(dsm_event *e, uint64_t *since, int64_t timeout_ns);

typedef struct dsm_condition dsm_condition;
typedef struct {
    dsm_condition *condition;
    uint64_t token;
    uint32_t line;
} dsm_waiter;
/* lock: the one whose id the condition was made with, open as long as the condition; NULL: its own. EMISMATCH. */
int dsm_condition_open(dsm_remote *r, dsm_lock *lock, int64_t spin_ns, dsm_condition **out);
int dsm_condition_leave(dsm_condition *c);
void dsm_condition_close(dsm_condition *c);
dsm_lock *dsm_condition_lock(dsm_condition *c);
/* A wait: begin (gives the lock back), wait until it does not answer 0 or time is over, take the lock, finish.
 * ENOTHELD, EMEMBERS. */
#define DSM_CONDITION_NOTIFIED 1
#define DSM_CONDITION_INHERIT 2 /* another waiter died with its notification: finish with inherit = 1 may get it */
int dsm_condition_begin(dsm_condition *c, dsm_waiter *w);
int dsm_condition_wait(dsm_waiter *w, int64_t timeout_ns);
int dsm_condition_finish(dsm_waiter *w, int inherit); /* 1: notified, 0: not: the wait may begin again */
void dsm_condition_abandon(dsm_waiter *w);            /* in place of finish, where the lock can't be had again */
/* Brings abandoned waits to an end, if the lock is free: 1, 0: it is not, or -DSM_E…. */
int dsm_condition_settle(dsm_condition *c);
int dsm_condition_notify(dsm_condition *c, uint64_t n);

typedef struct dsm_barrier dsm_barrier;
#define DSM_BARRIER_ANY UINT64_MAX
#define DSM_BARRIER_NOBODY UINT32_MAX
int dsm_barrier_open(dsm_remote *r, int64_t spin_ns, dsm_barrier **out);
int dsm_barrier_leave(dsm_barrier *b);
void dsm_barrier_close(dsm_barrier *b);
/* 2: as the last; without finish it calls dsm_barrier_finish before the others go on. 1: wait for the others. EBROKEN.
 * After an error with an *index that is not DSM_BARRIER_NOBODY the others may count the caller: it breaks the
 * *generation. */
int dsm_barrier_arrive(dsm_barrier *b, int finish, int64_t timeout_ns, uint64_t *generation, uint32_t *index);
int dsm_barrier_finish(dsm_barrier *b, uint64_t generation);
int dsm_barrier_wait(dsm_barrier *b, uint64_t generation, int64_t timeout_ns);
/* generation: of the arrival; DSM_BARRIER_ANY: whatever it is. 1: it is broken, 0: it has ended otherwise. Waits for
 * nobody. */
int dsm_barrier_break(dsm_barrier *b, uint64_t generation);
int dsm_barrier_reset(dsm_barrier *b);                /* waits for nobody */
int dsm_barrier_waiting(dsm_barrier *b, int *broken); /* how many, or -DSM_E… */
uint32_t dsm_barrier_parties(const dsm_barrier *b);
#define DSM_BARRIER_MOST 1024
/* Who has come, in that order, and who is about to: how many, at most DSM_BARRIER_MOST + 1, or -DSM_E…. */
int dsm_barrier_waiters(dsm_barrier *b, uint64_t *identities);
/* The caller knows that one of them is gone: the barrier is broken, as if that one had died. 1: done, 0: it is none of
 * them. */
int dsm_barrier_evict(dsm_barrier *b, uint64_t holder);

typedef struct dsm_once dsm_once;
#define DSM_ONCE_RUN 1
#define DSM_ONCE_DONE 2
int dsm_once_open(dsm_remote *r, int64_t spin_ns, dsm_once **out);
int dsm_once_leave(dsm_once *o);
void dsm_once_close(dsm_once *o);
int dsm_once_begin(dsm_once *o, int64_t timeout_ns); /* DSM_ONCE_…; 0: another one still runs */
int dsm_once_end(dsm_once *o, int done);             /* done 0: it failed, another one may run. ENOTHELD */
int dsm_once_done(dsm_once *o);                      /* 1, 0 or -DSM_E… */
dsm_lock *dsm_once_lock(dsm_once *o);

/* ---- logical clocks (objects/clock/logical_clock.h) ---- */

typedef struct {
    dsm_remote *remote; /* NULL: the word is at own */
    uint64_t offset;
    uint64_t *own;
} dsm_clock;

uint64_t dsm_clock_bytes(void);
/* Into zeroed memory that nobody else sees yet. */
int dsm_clock_format(void *memory);
/* One of the two clocks of the object. ECORRUPT, EVERSION, EMISMATCH. */
int dsm_clock_open(dsm_remote *r, int hybrid, dsm_clock *out);
/* The next stamp, greater than received (0: nothing was received) and than all before. */
int dsm_clock_lamport(const dsm_clock *c, uint64_t received, uint64_t *stamp);
/* Likewise, and not behind now_ms, milliseconds since 1970 (negative: the system's clock). EDRIFT: it would be more
 * than max_drift_ms ahead of that; the clock has not changed. */
int dsm_clock_hybrid(const dsm_clock *c, uint64_t received, int64_t now_ms, uint64_t max_drift_ms, uint64_t *stamp);
/* The last stamp. */
int dsm_clock_now(const dsm_clock *c, uint64_t *stamp);

/* HMAC-SHA256 as used by the handshake (for tests). */
void dsm_hmac_sha256(const void *key, size_t key_len, const void *msg, size_t len, uint8_t out[32]);

#ifdef __cplusplus
}
#endif
#endif
