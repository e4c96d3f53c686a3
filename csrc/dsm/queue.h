/* Queues (docs/protocols/ring.md). dsm.h has the contract that all functions share. */
#ifndef DSM_DSM_QUEUE_H
#define DSM_DSM_QUEUE_H

#include "object.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A handle may produce, consume, or both; dsm_queue_produce() and dsm_queue_consume() take the roles. THREADS: the
 * caller serialises calls on one handle, except the two wait functions, which may run in parallel with any call. */

#define DSM_QUEUE_MANY_CONSUMERS 1u /* any number of processes at a time may consume */
#define DSM_QUEUE_DROP_OLDEST 2u    /* a put that finds no room discards the oldest message of its lane */
#define DSM_QUEUE_CHECKED 4u        /* producers and consumers may be remote; nothing is dropped */

typedef struct dsm_queue dsm_queue;
typedef struct {
    uint32_t lanes, flags; /* lanes: most producers at a time, 1 to 1024 */
    uint64_t lane_bytes;   /* a power of 2, at least 4096 */
    uint64_t max_message;  /* at most lane_bytes / 2 minus two headers, so that it always fits an empty lane */
} dsm_queue_config;

/* Size in bytes of a queue with this configuration. 0: EINVAL. */
uint64_t dsm_queue_nbytes(const dsm_queue_config *s);
/* Formats a queue. memory: nbytes zero bytes that no other process has access to yet. */
int dsm_queue_format(void *memory, const dsm_queue_config *s);
/* local: the address of the memory if the caller owns it; NULL: the memory is used as r reaches it. r must stay open.
 * Errors: ECORRUPT, EVERSION, EMISMATCH. */
int dsm_queue_open(dsm_remote *r, void *local, dsm_queue **out);
/* Gives back the roles of the handle. Messages that are not flushed are lost: flush them before. EBUSY: a taking has
 * failed after it had taken messages; dsm_queue_next() returns them, or dsm_queue_discard() gives them up, and says
 * whether there were any.
 * After an error the call may be repeated, and continues where it failed. If the owner of the memory is gone, nothing
 * is left to do and the result is 0. */
int dsm_queue_leave(dsm_queue *q);
int dsm_queue_discard(dsm_queue *q);
/* Frees the handle, whichever roles it has. */
void dsm_queue_free(dsm_queue *q);
/* dsm_queue_leave(), then dsm_queue_free() unless leaving has failed. */
int dsm_queue_close(dsm_queue *q);
/* Sets the time that the ops of all following calls may take together, counted from this call; < 0: no common limit.
 * Either way an op may take at least 20 ms, and at most the peer timeout plus 20 ns per byte. Only remote ops take
 * time. */
void dsm_queue_set_timeout(dsm_queue *q, int64_t timeout_ns);
void dsm_queue_get_config(const dsm_queue *q, dsm_queue_config *out);
/* Take a role. EMEMBERS: every lane has a living producer. EBUSY: there is a living consumer. ENOTMAPPED: one of many
 * consumers, whose compare-swaps would not exclude those of the owner's CPU. */
int dsm_queue_produce(dsm_queue *q);
int dsm_queue_consume(dsm_queue *q);

/* Appends a message. kind: 1 to 254; the reader gets it with the message. Other processes see the message at once if
 * the lane is local, else after the flush. Errors: EFULL (nothing has been written), ETOOLARGE, ESHUTDOWN. */
int dsm_queue_push(dsm_queue *q, const void *payload, uint64_t length, uint8_t kind);
typedef struct {
    const void *bytes;
    uint64_t nbytes;
} dsm_queue_part;
/* Appends one message that is made of several parts. */
int dsm_queue_push_parts(dsm_queue *q, const dsm_queue_part *parts, uint32_t n, uint8_t kind);
/* The same without an op on remote memory, so that it never waits. 1: nothing was appended, since the room or the
 * shutdown has to be looked at first; dsm_queue_push_parts() does that. */
int dsm_queue_stage(dsm_queue *q, const dsm_queue_part *parts, uint32_t n, uint8_t kind);
/* Whether so much has been appended since the last flush that more would not make a flush worth more: 64 KiB, or a
 * quarter of the lane. */
int dsm_queue_is_due(const dsm_queue *q);
/* How many messages have been appended since the last flush that did not fail. May run in parallel with any call. */
uint64_t dsm_queue_staged(const dsm_queue *q);
/* Appends up to n records of 'each' bytes, as many as there is room for, and returns their number. */
int64_t dsm_queue_push_records(dsm_queue *q, const void *records, uint64_t n, uint64_t each);
/* Wakes consumers. Sends what a remote lane has staged in one WRITE (two if it wraps around the end of the ring). After
 * an error the messages are still staged: the next flush sends them again, which has no effect on those that had
 * arrived. */
int dsm_queue_flush(dsm_queue *q);
/* Reserves room for a message that the caller fills in place, then commits with a length up to the reserved one. One
 * reservation at a time. */
int dsm_queue_reserve(dsm_queue *q, uint64_t length, void **out);
int dsm_queue_commit(dsm_queue *q, uint64_t length, uint8_t kind);
void dsm_queue_cancel(dsm_queue *q);

/* Reads the next message, in place. Errors: EEMPTY, ESHUTDOWN. A further call reads the message after it. No message is
 * taken before dsm_queue_done(), which returns 0 or EEMPTY. EEMPTY: another consumer was faster, and the caller must
 * discard what it has read since the last done. Remotely also errors of the transport. With one consumer nothing is
 * lost by them: the messages come again with the next dsm_queue_next(). With many, EUNKNOWN: they were taken, or not.
 */
int dsm_queue_next(dsm_queue *q, const void **payload, uint64_t *length, uint8_t *kind);
/* Like dsm_queue_next(), but only from the lane that is being read. */
int dsm_queue_next_here(dsm_queue *q, const void **payload, uint64_t *length, uint8_t *kind);
int dsm_queue_done(dsm_queue *q);
/* Discards what was read since the last done; the messages stay in the queue. */
void dsm_queue_undo(dsm_queue *q);
/* Takes up to n messages of exactly 'each' bytes and returns their number. EMISMATCH: the next message has another
 * length. */
int64_t dsm_queue_pop_records(dsm_queue *q, void *out, uint64_t n, uint64_t each);

/* Wait until there may be room for a message of that length, or until there may be a message: spin for spin_ns, then
 * sleep. Results: 0, ETIME, ESHUTDOWN. Remote memory is looked at with ops that may take op_ns (as with
 * dsm_queue_set_timeout()), also beyond the timeout. */
int dsm_queue_wait_room(const dsm_queue *q, uint64_t length, int64_t timeout_ns, int64_t spin_ns, int64_t op_ns);
int dsm_queue_wait_item(const dsm_queue *q, int64_t timeout_ns, int64_t spin_ns, int64_t op_ns);

typedef struct {
    uint64_t messages, puts, gets, dropped; /* of all lanes; the last three may lack what a killed process did last */
    uint64_t full;                          /* how often a producer on this host has found no room, once per attempt */
    uint64_t bytes;                         /* used bytes of the fullest lane, headers included */
    uint32_t producers, shutdown;
} dsm_queue_counts;
/* Reads the counts one after another; they are not a snapshot of one moment. */
int dsm_queue_count(const dsm_queue *q, dsm_queue_counts *out);
/* Shuts the queue down: nothing more goes in. now: nothing more comes out either. All waiters are woken. */
int dsm_queue_shutdown(dsm_queue *q, int now);

/* dsm_queue_producers() writes the identities of the processes that have a lane and returns their number, at most the
 * number of lanes, or -DSM_E…. dsm_queue_consumer() gives the identity of the single consumer; 0: there is none, or the
 * queue may have many. */
int dsm_queue_producers(const dsm_queue *q, uint64_t *identities);
int dsm_queue_consumer(const dsm_queue *q, uint64_t *identity);
/* Takes the roles away from a holder that the caller knows to be gone. 1: done. 0: that process has no role. If it is
 * alive after all, its next call gets ENOTHELD. */
int dsm_queue_break(const dsm_queue *q, uint64_t holder);

/* A file descriptor that becomes readable when, after arming, there may be a message (room not 0: when there may be
 * room for that many bytes). Arming first makes it unreadable. dsm_watch_close() ends the thread behind it and must be
 * called before dsm_queue_close(). */
typedef struct dsm_watch dsm_watch;
int dsm_watch_open(dsm_queue *q, dsm_watch **out);
int dsm_watch_fd(const dsm_watch *w);
void dsm_watch_arm(dsm_watch *w, uint64_t room);
/* Makes it readable. */
void dsm_watch_ring(dsm_watch *w);
void dsm_watch_close(dsm_watch *w); /* NULL: has no effect */

#ifdef __cplusplus
}
#endif
#endif
