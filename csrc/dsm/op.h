/* Ops: single, in batches, and for event loops. The contract of all of them stands in dsm.h. */
#ifndef DSM_DSM_OP_H
#define DSM_DSM_OP_H

#include "memory.h"

#ifdef __cplusplus
extern "C" {
#endif

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

#ifdef __cplusplus
}
#endif
#endif
