/* Ops: single, in batches, and for event loops. dsm.h has the contract that all functions share. */
#ifndef DSM_DSM_OP_H
#define DSM_DSM_OP_H

#include "memory.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { DSM_OP_READ = 1, DSM_OP_WRITE = 2, DSM_OP_FETCH_ADD = 3, DSM_OP_COMPARE_SWAP = 4 };
#define DSM_OP_FENCE 1u /* starts after the READs and ATOMICs before it on this connection have completed */

typedef struct dsm_op {
    uint8_t code;
    uint8_t flags;
    int32_t status; /* 0 or -DSM_E…; valid once the op is complete. What each means is below */
    dsm_remote *remote;
    uint64_t offset;
    void *local;     /* READ: destination, WRITE: source; NULL for atomics */
    uint64_t nbytes; /* of both local pieces; 8 for atomics */
    union {
        struct {
            uint64_t operand; /* FETCH_ADD: addend, COMPARE_SWAP: expected */
            uint64_t desired; /* COMPARE_SWAP */
        };
        struct {                    /* READ and WRITE: local memory in two pieces, as a header and a payload. Such an
                                       op is never one atomic load or store */
            void *second;           /* of the last bytes */
            uint64_t second_nbytes; /* 0: there is one piece. nbytes: 'local' is not used */
        };
    };
    uint64_t result; /* ATOMIC: the value before */
    int16_t cause;   /* 0, or -DSM_E…: the op was sent and no answer came, for this reason */
    uint16_t wc_status;
    uint32_t vendor;
} dsm_op;

/* What the status of an op says. Writes and atomics fail in two ways, and are sent once (a READ may be repeated; on tcp
 * the core does it, if all ops of the call are READs and the owner can be connected to again):
 *
 *                     WRITE, FETCH_ADD, COMPARE_SWAP                    READ
 *   0                 took effect                                       the buffer holds what was read
 *   -DSM_EUNKNOWN     may or may not have taken effect: it was sent,    -
 *                     and no answer came. 'cause' says why
 *   -DSM_ECANCELED    not executed: another failure on its connection   another failure, dsm_cancel() or an abort
 *                     came before it, or dsm_cancel() or an abort       ended it
 *   -DSM_ETIME        not executed: the deadline passed before          the deadline passed
 *   -DSM_EPEER        not executed: no connection to the owner          the owner is gone, or does not answer
 *   -DSM_EACCESS,     not executed: the owner refused it. Of a WRITE    the same
 *   -DSM_ESTALE       longer than a packet, a first part may have been
 *                     written before the region was closed
 *   -DSM_EIO          not executed: no request could be posted          the transport failed
 *   -DSM_ELOCAL       -                                                 the device could not use the local buffer
 *   other             not executed: refused before it was posted        the same
 *
 * On tcp the owner is asked, within the deadline, what became of an op whose connection broke: EUNKNOWN stays only if
 * it is gone or does not know. The cause of EUNKNOWN is ETIME, EPEER, EIO, ELOCAL (the device could not use the local
 * memory) or ECANCELED (another failure on the connection). The buffer of a READ that failed holds anything. A WRITE
 * whose outcome is unknown has landed, or never will, once another op on the same remote has succeeded: that op used a
 * new connection, before which the owner has closed the old one. */

/* Waits of the core call 'look' at intervals of at most 50 ms, to learn whether a signal handler wants the wait to end.
 * 'look' is called with no lock held. If it returns anything but 0, the wait ends as if its deadline had passed. NULL:
 * waits call nothing. The setting is for the whole process. */
void dsm_set_interrupt(int (*look)(void));
/* Returns -DSM_EBUSY. Every function returns this when 'look' (by running a signal handler) calls it for something that
 * the interrupted call holds exclusively, such as the turn of a handle or a connection: the handler would wait for its
 * own thread. what: "queue", "lock"… */
int dsm_refuse_reentry(const char *what);
/* 1 if this thread is in 'look', called by a wait of the core; otherwise 0. A caller that hands work to another thread
 * and waits for it must refuse if the interrupted call may hold what that thread needs. */
int dsm_in_handler(void);

/* Single blocking ops. timeout_ns limits the whole call: an op to a peer whose connection is lost first makes a new
 * connection. timeout_ns < 0: the core gives up an op that has not completed after twice the peer timeout (in the
 * first half of that time the device itself can report a dead peer) plus 250 ns for each byte that is outstanding on
 * the connection. That is ETIME, too. What is sent again has this time once more in all, however often. After ops have
 * failed, their owners may be asked why, and what became of ops whose answer was lost: with all of them that takes no
 * longer than the peer timeout in addition (with go_on: after each posting). */
int dsm_read(dsm_remote *r, uint64_t offset, void *out, uint64_t nbytes, int64_t timeout_ns);
int dsm_write(dsm_remote *r, uint64_t offset, const void *data, uint64_t nbytes, int64_t timeout_ns);
int dsm_fetch_add(dsm_remote *r, uint64_t offset, uint64_t add, uint64_t *old, int64_t timeout_ns);
int dsm_compare_swap(dsm_remote *r, uint64_t offset, uint64_t expected, uint64_t desired, uint64_t *old,
                     int64_t timeout_ns);
/* n pieces of 'each' bytes at the given offsets, densely packed in local memory. One call, one doorbell. */
int dsm_read_many(dsm_remote *r, const uint64_t *offsets, size_t n, void *out, uint64_t each, int64_t timeout_ns);
int dsm_write_many(dsm_remote *r, const uint64_t *offsets, size_t n, const void *data, uint64_t each,
                   int64_t timeout_ns);

/* Any ops to any number of peers. All ops are checked first. If one is refused, nothing is posted, -DSM_E… is returned
 * and *failed is the index of that op. Afterwards, the error of the first op that failed by itself is returned
 * (ECANCELED only if no op failed by itself), and *failed is the index of that op. failed may be NULL. */
int dsm_execute(dsm_ctx *c, dsm_op *ops, size_t n, int64_t timeout_ns, size_t *failed);

/* The same with choices, which last as long as the ops:
 *   go_on   the ops behind one that failed are executed all the same, if they certainly were not yet: they are posted
 *           again, in order, on a new connection, until the deadline. No op is sent twice, except
 *           READs where all ops are READs. An op that is refused before anything is posted fails alone, too. The result
 *           is that of the first op that failed by itself
 *   stop    NULL, or a word for dsm_stop(): 0 at first, and valid as long as the ops */
typedef struct {
    uint32_t go_on;
    uint32_t *stop;
} dsm_choice;
int dsm_execute_as(dsm_ctx *c, dsm_op *ops, size_t n, const dsm_choice *how, int64_t timeout_ns, size_t *failed);

/* The same in two halves, for a thread that may wait: dsm_submit() makes a connection if there is none. The ops must
 * stay where they are until dsm_finish() returns, which must be called once for each ticket, and ends it. */
typedef struct dsm_ticket dsm_ticket;
int dsm_submit(dsm_ctx *c, dsm_op *ops, size_t n, dsm_ticket **out, size_t *failed);
/* Waits for the ticket: polls for spin_ns, then sleeps on the completion channel. At the deadline it moves the
 * connection to the error state and drains it, so no buffer is in use when it returns. The result is that of
 * dsm_execute(). It does not wait for a ticket that dsm_completed() has returned, because that ticket is complete. */
int dsm_finish(dsm_ticket *t, int64_t timeout_ns, size_t *failed);

/* For event loops: none of these functions waits. 1: complete already, and dsm_finish() gives the result. 0: the core
 * owns the ticket and the ops until dsm_completed() returns the ticket. An error: nothing is posted, and there is no
 * ticket. *out is set before another thread can see that the ticket is complete. A thread of the core does what may
 * wait: it makes a connection, asks the owner why it refuses an op, and gives up an op that does not complete. */
int dsm_start(dsm_ctx *c, dsm_op *ops, size_t n, dsm_ticket **out, size_t *failed);
int dsm_start_as(dsm_ctx *c, dsm_op *ops, size_t n, const dsm_choice *how, dsm_ticket **out, size_t *failed);
/* The ops that the ticket was made for. */
dsm_op *dsm_ticket_ops(const dsm_ticket *t);
/* Ends ops that another thread executes (t: NULL) or that have been started (t: their ticket, which dsm_completed() has
 * not returned yet) with this word: those that are outstanding end with ECANCELED or EUNKNOWN, and nothing more is
 * posted. Like a deadline it costs their connections. It does not wait. */
void dsm_stop(dsm_ctx *c, dsm_op *ops, size_t n, uint32_t *stop, dsm_ticket *t);
/* Returns the next complete ticket, each ticket once, or NULL if there is no other. Whenever dsm_event_fd() is
 * readable, call this until it returns NULL. */
dsm_ticket *dsm_completed(dsm_ctx *c);
/* Returns a file descriptor that is readable from the completion of a ticket until dsm_completed() has returned NULL;
 * or -DSM_EUNSUPPORTED if ops complete when they are posted. */
int dsm_event_fd(dsm_ctx *c);
/* Ends all ops that have been started: afterwards dsm_completed() returns their tickets. Nothing may be started,
 * attached or closed during the call. */
void dsm_cancel(dsm_ctx *c);

#ifdef __cplusplus
}
#endif
#endif
