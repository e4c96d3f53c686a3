/*
 * A consumer whose lanes are in another process's memory. All lanes are checked ones.
 *
 * One posting looks at the queue: at the role and at 'shutdown' first; at the bytes that say which lanes have had a
 * producer; at the tail of each such lane and the header there; and it copies a piece of the lane whose turn it is.
 * READs of one posting are executed in this order, so a consumer that finds the queue shut down finds all that was put
 * before. Messages are taken out of the copy, one compare-swap each, or one for many; each look is good for RECHECK_NS.
 */
#include "../../base/deadline.h"
#include "../../core/remote.h"
#include "../sure.h"
#include "ring.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    LOOKS_MOST = 16,
    GROUP = 32, /* lanes of a posting */
    PIECE_MIN = 1024,
    PIECE_MAX = 65536, /* for a longer message as much as it has */
    PAUSE_NS_MIN = 20000,
    PAUSE_NS_MAX = 1000000,
};

struct place {
    uint64_t tail; /* as last seen; other threads that wait begin there */
    uint64_t next; /* the next message is there: at the tail, or before it if it was taken without an answer */
};

struct taker {
    uint8_t *copy; /* of a lane, each byte at its place: those of the positions [from, to) of 'lane' */
    uint32_t lane;
    uint64_t from, to, piece; /* bytes of the next piece */
    int64_t looked;
    bool fruitful;      /* the copy had a message */
    bool unsettled;     /* one consumer: the tail of lane q->take is at places[].tail, or at q->upto */
    uint32_t vain;      /* calls in a row that found no message */
    uint64_t uncounted; /* messages of lane q->take that are taken, and not in 'gets' */
    uint8_t used[LANES_MAX];
    struct place places[]; /* of each lane */
};

struct look {
    uint64_t state[2]; /* the consumer's identity; 'shutdown' in the lower half */
    uint32_t n;        /* lanes: active[turn], of which the piece is, and those behind it */
    bool more;         /* another lane has had a producer */
    struct {
        uint32_t i; /* active[i] */
        uint64_t tail, header;
        bool moved; /* the tail was another one when 'header' was read */
    } of[GROUP];
};

static bool has_one_consumer(const dsm_queue *q) { return !(q->config.flags & DSM_QUEUE_MANY_CONSUMERS); }

static dsm_op read_op(const dsm_queue *q, uint64_t offset, void *to, uint64_t nbytes)
{
    return (dsm_op){.code = DSM_OP_READ, .remote = q->r, .offset = offset, .local = to, .nbytes = nbytes};
}

/* Whether that is the header of a record which begins at p. Only the check can tell whether the record is whole. */
static bool is_header(const dsm_queue *q, uint64_t p, uint64_t header)
{
    uint8_t kind = (uint8_t)(header >> 32);
    return kind && header == record_header(q, p, (uint32_t)header, kind);
}

/* ---- the role ---- */

int remote_consume(dsm_queue *q)
{
    uint32_t domain = q->r->peer->dev->caps.atomic_domain;
    if (q->taker)
        return 0;
    if (!has_one_consumer(q) && domain != 0 && domain != 2)
        return err_set(DSM_ENOTMAPPED, 0,
                       "the atomics of this device do not exclude those of the owner's processor; take the messages of "
                       "a queue with many consumers where its memory is, or make it for one");
    struct taker *t = calloc(1, sizeof *t + q->config.lanes * sizeof t->places[0]);
    if (t && !(t->copy = aligned_alloc(4096, q->config.lane_bytes))) {
        free(t);
        t = NULL;
    }
    if (!t)
        return err_set(DSM_ENOMEM, 0, "a copy of a lane, %llu bytes", (unsigned long long)q->config.lane_bytes);
    q->taker = t;
    return 0;
}

void remote_consumer_free(dsm_queue *q)
{
    if (!q->taker)
        return;
    free(q->taker->copy);
    free(q->taker);
}

void remote_count_taken(dsm_queue *q)
{
    struct taker *t = q->taker;
    uint64_t old;
    if (!t || !t->uncounted)
        return;
    /* A count: if the answer is lost, it may lack these messages. */
    dsm_fetch_add(q->r, lines_at(q, q->take) + offsetof(struct lane_lines, gets), t->uncounted, &old,
                  remote_op_timeout(q, sizeof old, q->deadline));
    t->uncounted = 0;
}

/* ---- looking ---- */

static size_t read_piece(const dsm_queue *q, dsm_op *ops)
{
    struct taker *t = q->taker;
    uint64_t size = q->config.lane_bytes, bytes = t->piece < size ? t->piece : size;
    t->lane = q->active[q->turn];
    t->from = t->places[t->lane].next;
    t->to = t->from + bytes;
    uint64_t at = t->from & q->mask, first = bytes < size - at ? bytes : size - at;
    ops[0] = read_op(q, data_at(q, t->lane) + at, t->copy + at, first);
    if (first == bytes)
        return 1;
    ops[1] = read_op(q, data_at(q, t->lane), t->copy, bytes - first);
    return 2;
}

/* Adds lanes that have had a producer to the active ones. */
static bool find_lanes(dsm_queue *q)
{
    uint32_t before = q->nactive;
    for (uint32_t lane = 0; lane < q->config.lanes; lane++) {
        uint32_t i = 0;
        while (i < q->nactive && q->active[i] != lane)
            i++;
        if (q->taker->used[lane] && i == q->nactive)
            q->active[q->nactive++] = lane;
    }
    return q->nactive > before;
}

static int check_state(dsm_queue *q, const uint64_t state[2])
{
    q->lost_consumer |= has_one_consumer(q) && state[0] != q->identity;
    if (q->lost_consumer)
        return queue_broken("consumer");
    return (uint32_t)state[1] == 2 ? err_set(DSM_ESHUTDOWN, 0, "get") : 0;
}

static int look(dsm_queue *q, struct look *l)
{
    struct taker *t = q->taker;
    dsm_op ops[2 + 2 * GROUP + 2];
    int64_t now = clock_ns();
    size_t n = 2;
    ops[0] = read_op(q, QUEUE_STATE, l->state, sizeof l->state);
    ops[1] = read_op(q, q->map.used, t->used, q->config.lanes);
    l->n = q->nactive < GROUP ? q->nactive : GROUP;
    for (uint32_t i = 0; i < l->n; i++) {
        uint32_t lane = q->active[l->of[i].i = (q->turn + i) % q->nactive];
        uint64_t at = data_at(q, lane) + (t->places[lane].next & q->mask);
        ops[n++] = read_op(q, tail_at(q, lane), &l->of[i].tail, sizeof l->of[i].tail);
        ops[n++] = read_op(q, at, &l->of[i].header, sizeof l->of[i].header);
    }
    t->from = t->to = 0; /* until the READs are done */
    if (l->n)
        n += read_piece(q, ops + n);
    int rc = remote_run(q, ops, n, q->deadline);
    if (!rc)
        rc = check_state(q, l->state);
    if (rc) {
        t->from = t->to = 0;
        return rc;
    }
    t->looked = now;
    l->more = find_lanes(q);
    return 0;
}

/* Finds the message at p, or behind padding there, if the copy has all of it. */
static int in_copy(const dsm_queue *q, uint64_t p, struct record *out)
{
    const struct taker *t = q->taker;
    int rc = -DSM_EEMPTY;
    for (int i = 0; i < 2; i++) {
        if (p < t->from || t->to - t->from < 16 || p > t->to - 16)
            return -DSM_EEMPTY;
        if ((rc = record_at(q, t->copy, p, out)) || out->kind != RECORD_PADDING)
            break;
        p = out->next;
    }
    if (rc == -DSM_ECORRUPT)
        return err_set(DSM_ECORRUPT, 0, "lane %u at %llu", t->lane, (unsigned long long)p);
    return rc ? rc : out->kind == RECORD_PADDING || out->next > t->to ? -DSM_EEMPTY : 0;
}

/* Whether the message may be longer than the piece; then the next piece is. */
static bool is_longer(const dsm_queue *q)
{
    struct taker *t = q->taker;
    uint64_t p = t->from, need = 0, size = q->config.lane_bytes;
    for (int i = 0; i < 2; i++) {
        if (p - t->from + 16 > t->to - t->from) {
            need = p - t->from + PIECE_MIN;
            break;
        }
        uint64_t header = load_relaxed_u64(lane_word(t->copy, p & q->mask)), left = size - (p & q->mask);
        if (!is_header(q, p, header))
            return false;
        bool pads = (uint8_t)(header >> 32) == RECORD_PADDING;
        uint64_t bytes = pads ? left : record_size(q, (uint32_t)header);
        if (bytes > left)
            return false;
        need = p - t->from + bytes;
        if (!pads)
            break;
        p += left;
    }
    need = need < size ? need : size;
    if (need <= t->to - t->from)
        return false;
    t->piece = need;
    return true;
}

/* Keeps the tails that were seen. */
static void keep_tails(dsm_queue *q, struct look *l)
{
    for (uint32_t i = 0; i < l->n; i++) {
        struct place *at = &q->taker->places[q->active[l->of[i].i]];
        if (!(l->of[i].moved = at->tail != l->of[i].tail))
            continue;
        store_relaxed_u64(&at->tail, l->of[i].tail);
        at->next = at->tail;
    }
}

/* Gives the turn to a lane of the look that may have a message, or to those behind it. Returns false if all active
 * lanes have been seen to be empty. */
static bool choose(dsm_queue *q, const struct look *l, const uint8_t *tried, uint32_t *seen)
{
    for (uint32_t i = 0; i < l->n; i++) {
        uint32_t lane = q->active[l->of[i].i];
        if (l->of[i].moved || (!tried[lane] && is_header(q, l->of[i].tail, l->of[i].header))) {
            q->turn = l->of[i].i;
            return true;
        }
    }
    if (l->n)
        q->turn = (l->of[l->n - 1].i + 1) % q->nactive;
    *seen = l->more ? 0 : *seen + l->n;
    return l->more || *seen < q->nactive;
}

/* All lanes have been seen to be empty. A message that was put before the shutdown may be in one that was looked at
 * before it, so the lanes are looked at again, unless the first look has seen the shutdown. */
static bool begins_again(const struct look *l, bool *down, uint8_t *tried, uint32_t *seen)
{
    if (*down || !(uint32_t)l->state[1])
        return false;
    memset(tried, 0, LANES_MAX);
    *seen = 0;
    return *down = true;
}

/* Looks at the lane whose turn it is, and finds a message there, with a longer piece if need be. */
static int find_here(dsm_queue *q, struct look *l, struct record *out)
{
    struct taker *t = q->taker;
    do {
        int rc = look(q, l);
        if (rc)
            return rc;
        keep_tails(q, l);
        if (l->n && (rc = in_copy(q, t->places[t->lane].next, out)) != -DSM_EEMPTY)
            return rc;
    } while (l->n && !l->of[0].moved && is_longer(q));
    return -DSM_EEMPTY;
}

/* Looks until a lane has a message, or none has. Another consumer may move a tail beyond the piece that is read there,
 * again and again: after LOOKS_MOST times there is no message for this call, and the queue does not count as empty. */
static int find(dsm_queue *q, struct record *out)
{
    struct taker *t = q->taker;
    uint8_t tried[LANES_MAX] = {0};
    uint32_t seen = 0, moved = 0;
    bool down = false, first = true;
    struct look l;
    remote_count_taken(q);
    t->piece = t->fruitful && 2 * t->piece < PIECE_MAX ? 2 * t->piece : t->fruitful ? PIECE_MAX : PIECE_MIN;
    if (t->fruitful && q->nactive)
        q->turn = (q->turn + 1) % q->nactive;
    t->fruitful = false;
    do {
        int rc = find_here(q, &l, out);
        if (rc != -DSM_EEMPTY)
            return rc;
        down |= first && (uint32_t)l.state[1];
        first = false;
        if (l.n && !l.of[0].moved)
            tried[t->lane] = 1;
        else if (l.n && ++moved == LOOKS_MOST)
            return -DSM_EEMPTY;
    } while (choose(q, &l, tried, &seen) || begins_again(&l, &down, tried, &seen));
    return down ? err_set(DSM_ESHUTDOWN, 0, "get") : -DSM_EEMPTY;
}

/* ---- taking ---- */

/* One consumer: an answer about the tail was lost. */
static int settle(dsm_queue *q)
{
    struct taker *t = q->taker;
    struct place *at = &t->places[q->take];
    uint64_t tail;
    int rc = sure_read(q->r, tail_at(q, q->take), &tail, sizeof tail);
    if (rc)
        return rc;
    if (tail != at->tail && tail != q->upto) {
        q->lost_consumer = true;
        return queue_broken("consumer");
    }
    store_relaxed_u64(&at->tail, tail);
    t->unsettled = false;
    return 0;
}

static int may_take(const dsm_queue *q)
{
    if (!q->consuming || q->forks != load_relaxed_u32(&core_forks))
        return queue_refuse(q, "consumer");
    return q->lost_consumer ? queue_broken("consumer") : 0;
}

static void deliver(dsm_queue *q, const struct record *r, const void **payload, uint64_t *length, uint8_t *kind)
{
    struct taker *t = q->taker;
    if (!q->taking) {
        q->take = t->lane;
        q->from = t->places[t->lane].next;
        q->ntaken = 0;
    }
    q->ntaken++;
    q->upto = r->next;
    q->taking = t->fruitful = true;
    store_relaxed_u32(&t->vain, 0);
    *payload = r->payload;
    *length = r->length;
    *kind = r->kind;
}

int remote_next(dsm_queue *q, const void **payload, uint64_t *length, uint8_t *kind)
{
    struct taker *t = q->taker;
    struct record r;
    int rc = may_take(q);
    if (!rc && q->taking)
        rc = err_set(DSM_EBUSY, 0, "a message is being read; release it first");
    if (!rc && t->unsettled)
        rc = settle(q);
    if (rc)
        return rc;
    struct place *at = &t->places[t->lane];
    bool has_taken = at->next < at->tail; /* and only the copy has these messages now */
    if (!has_taken && clock_ns() - t->looked > RECHECK_NS)
        t->from = t->to = 0;
    rc = in_copy(q, at->next, &r);
    if (rc == -DSM_EEMPTY && !has_taken)
        rc = find(q, &r);
    if (!rc)
        deliver(q, &r, payload, length, kind);
    else if (rc == -DSM_EEMPTY)
        store_relaxed_u32(&t->vain, t->vain + 1);
    return rc;
}

int remote_behind(const dsm_queue *q, struct record *out) { return in_copy(q, q->upto, out); }

int remote_next_here(dsm_queue *q, const void **payload, uint64_t *length, uint8_t *kind)
{
    struct record r;
    int rc = may_take(q);
    if (!rc)
        rc = q->taking ? remote_behind(q, &r) : -DSM_EEMPTY;
    if (!rc)
        deliver(q, &r, payload, length, kind);
    return rc;
}

static int move_tail(dsm_queue *q, struct place *at)
{
    int rc = sure_move(q->r, tail_at(q, q->take), at->tail, q->upto);
    if (rc == -DSM_ECORRUPT) {
        q->lost_consumer = true;
        return queue_broken("consumer");
    }
    q->taker->unsettled = rc != 0;
    if (!rc)
        store_relaxed_u64(&at->tail, q->upto);
    return rc;
}

/* The word does not tell by which of several consumers it was moved. What was certainly not executed is tried again. */
static int move_shared_tail(dsm_queue *q, struct place *at)
{
    uint64_t found;
    int rc, tries = 0;
    do
        rc = dsm_compare_swap(q->r, tail_at(q, q->take), q->from, q->upto, &found, remote_timeout(q->r));
    while (rc == -DSM_ECANCELED && sure_again(rc, &tries));
    if (!rc && found == q->from) {
        store_relaxed_u64(&at->tail, q->upto);
        return 0;
    }
    if (!rc) { /* what was read of the messages behind them is still good */
        store_relaxed_u64(&at->tail, found);
        at->next = found;
        return -DSM_EEMPTY;
    }
    q->taker->from = q->taker->to = 0;
    if (rc == -DSM_EUNKNOWN && sure_read(q->r, tail_at(q, q->take), &found, sizeof found) == 0 && found == q->from)
        return err_set(DSM_EIO, 0, "no message was taken");
    return rc == -DSM_EUNKNOWN
               ? err_set(DSM_EUNKNOWN, 0, "whether a message was taken is not known; if so, no process gets it")
               : sure_error(rc);
}

int remote_done(dsm_queue *q)
{
    struct place *at = &q->taker->places[q->take];
    q->taking = false;
    int rc = q->upto <= at->tail ? 0 : has_one_consumer(q) ? move_tail(q, at) : move_shared_tail(q, at);
    if (rc)
        return rc;
    at->next = q->upto;
    q->taker->uncounted += q->ntaken;
    return 0;
}

/* ---- leaving ---- */

/* The place of messages that were taken without an answer, and that no call has returned yet; or NULL. */
static struct place *taken_unread(const dsm_queue *q)
{
    struct place *at = q->taker ? &q->taker->places[q->taker->lane] : NULL;
    return at && at->next < at->tail ? at : NULL;
}

int remote_may_leave(dsm_queue *q)
{
    int rc = q->taker && q->taker->unsettled ? settle(q) : 0;
    return rc                ? rc
           : taken_unread(q) ? err_set(DSM_EBUSY, 0,
                                       "messages were taken by a call that failed, and no other handle gets them; take "
                                       "them with get_many(block=False)")
                             : 0;
}

int dsm_queue_discard(dsm_queue *q)
{
    struct place *at = taken_unread(q);
    if (at)
        at->next = at->tail;
    return at != NULL;
}

/* ---- waiting ---- */

/* Another thread may move 'next' and the tails meanwhile: they only say where to look first. */
static int look_at_group(const dsm_queue *q, uint32_t first, uint32_t n, int64_t deadline, uint64_t state[2])
{
    uint64_t hints[GROUP], tails[GROUP], headers[GROUP];
    dsm_op ops[1 + 2 * GROUP];
    ops[0] = read_op(q, QUEUE_STATE, state, 16);
    for (uint32_t i = 0; i < n; i++) {
        hints[i] = load_relaxed_u64(&q->taker->places[first + i].tail);
        ops[1 + 2 * i] = read_op(q, tail_at(q, first + i), &tails[i], 8);
        ops[2 + 2 * i] = read_op(q, data_at(q, first + i) + (hints[i] & q->mask), &headers[i], 8);
    }
    int rc = remote_run(q, ops, 1 + 2 * n, deadline);
    for (uint32_t i = 0; i < n && !rc; i++)
        if (tails[i] != hints[i] || is_header(q, tails[i], headers[i]))
            return 1;
    return rc;
}

/* The shutdown counts if it was seen before the lanes: what was put before it is found then. */
int remote_has_item(const dsm_queue *q, int64_t deadline)
{
    uint64_t state[2];
    bool down = false;
    for (uint32_t first = 0; first < q->config.lanes; first += GROUP) {
        uint32_t n = q->config.lanes - first < GROUP ? q->config.lanes - first : GROUP;
        int rc = look_at_group(q, first, n, deadline, state);
        if (rc)
            return rc < 0 ? rc : 0;
        if (has_one_consumer(q) && state[0] != q->identity)
            return queue_broken("consumer");
        down |= !first && (uint32_t)state[1];
    }
    return down ? err_set(DSM_ESHUTDOWN, 0, "get") : -DSM_EEMPTY;
}

/* A tail that others move, or a record that is not whole, looks like a message from here. */
void remote_pause(const dsm_queue *q, int64_t deadline)
{
    uint32_t vain = load_relaxed_u32(&q->taker->vain);
    int64_t ns = vain > 6 ? PAUSE_NS_MAX : (int64_t)PAUSE_NS_MIN << vain, left = deadline - clock_ns();
    ns = ns < left ? ns : left;
    if (vain > 1 && ns > 0)
        nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}
