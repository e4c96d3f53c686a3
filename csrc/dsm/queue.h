/* Queues (docs/protocols/ring.md). The contract of all of them stands in dsm.h. */
#ifndef DSM_DSM_QUEUE_H
#define DSM_DSM_QUEUE_H

#include "object.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A handle may produce, consume, or both; the roles are taken with dsm_queue_produce and dsm_queue_consume. THREADS:
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

#ifdef __cplusplus
}
#endif
#endif
