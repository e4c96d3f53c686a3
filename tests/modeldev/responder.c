/*
 * The responder: executes what arrives at the queue pairs of this process, in small steps.
 *
 * A queue pair has a list of the request packets that it has accepted. They begin in order, WRITEs and ATOMICs are
 * executed in order, and the answers leave in order. With "overtake" what stands behind a READ is executed while the
 * READ goes on; its answer waits. An acknowledged WRITE whose bytes are not in memory yet ("late") stands in a list of
 * its own; it is placed before the next message of its queue pair begins, and before a registration that it uses goes.
 */
#include "model.h"

enum { NEW, GOING, DONE };
enum { TORN_MOST = 256 };

void (*modeldev_tears)(const uint8_t *at);

/* ---- pieces ---- */

static bool is_torn(const struct request *r) { return nic.plan.tear && r->op == P_READ && r->nbytes <= TORN_MOST; }

static uint32_t grain_of(const struct request *r)
{
    return is_torn(r) ? 1 : nic.plan.scatter ? (uint32_t)nic.plan.scatter : MTU_MAX * CHUNK;
}

static uint32_t gcd(uint32_t a, uint32_t b)
{
    while (b) {
        uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Cuts [at, at+n) at multiples of the grain, and chooses an order: a step that has no common divisor with the number of
 * pieces meets each once. */
static void cut(struct request *r, uint64_t at, uint32_t n)
{
    uint64_t g = r->grain = grain_of(r);
    bool any = nic.plan.scatter || is_torn(r);
    r->pieces = (uint32_t)((at + n - 1) / g - at / g + 1);
    r->placed = 0;
    r->first = any ? (uint32_t)random_below(r->pieces) : 0;
    r->stride = 1;
    if (any && r->pieces > 2)
        do
            r->stride = 1 + (uint32_t)random_below(r->pieces - 1);
        while (gcd(r->stride, r->pieces) != 1);
}

/* The next piece of [at, at+n): its offset and length. */
static uint32_t next_piece(struct request *r, uint64_t at, uint32_t n, uint32_t *offset)
{
    uint64_t g = r->grain, i = (r->first + (uint64_t)r->placed * r->stride) % r->pieces;
    uint64_t from = i ? (at / g + i) * g : at, to = (at / g + i + 1) * g;
    if (to > at + n)
        to = at + n;
    r->placed++;
    *offset = (uint32_t)(from - at);
    return (uint32_t)(to - from);
}

static void place_piece(struct request *r)
{
    uint32_t offset, n = next_piece(r, r->at, r->nbytes, &offset);
    copy_words((uint8_t *)(uintptr_t)(r->at + offset), r->data + offset, n);
}

static void place_rest(struct request *r)
{
    while (r->mr && r->placed < r->pieces)
        place_piece(r);
}

/* ---- lists ---- */

static void drop(struct request *r)
{
    free(r->data);
    free(r);
}

static void settle_late(struct qp *q)
{
    for (struct request *r; (r = q->late);) {
        q->late = r->next;
        place_rest(r);
        drop(r);
    }
}

/* Places the late WRITEs that are older than r: those in the list, and those that are not acknowledged yet. */
static void settle_before(struct qp *q, const struct request *r)
{
    settle_late(q);
    for (struct request *b = q->first; b && b != r; b = b->next)
        if (b->op == P_WRITE && b->state == DONE && !b->duplicate)
            place_rest(b);
}

static void pop(struct qp *q)
{
    struct request *r = q->first, **at = &q->late;
    q->first = r->next;
    if (!q->first)
        q->last = NULL;
    q->serving -= r->op != P_WRITE && !r->duplicate && r->op != P_NAK;
    r->next = NULL;
    if (r->op != P_WRITE || r->duplicate || r->placed == r->pieces) {
        drop(r);
        return;
    }
    while (*at)
        at = &(*at)->next;
    *at = r;
}

static struct request *append(struct qp *q, const struct packet *p, const uint8_t *payload)
{
    struct request *r = calloc(1, sizeof *r);
    size_t room = p->op == P_WRITE ? p->nbytes : p->op == P_READ ? (size_t)CHUNK * q->mtu : 0;
    if (!r || (room && !(r->data = malloc(room))))
        MODEL_FAIL("no memory");
    r->op = p->op;
    r->flags = p->flags;
    r->psn = p->psn;
    r->rkey = p->rkey;
    r->nbytes = p->nbytes;
    r->at = p->at;
    r->operand = p->operand;
    r->swap = p->swap;
    r->packets = p->op == P_READ ? packets_of(q, p->nbytes) : 1;
    if (p->op == P_WRITE)
        memcpy(r->data, payload, p->nbytes);
    *(q->last ? &q->last->next : &q->first) = r;
    q->last = r;
    return r;
}

/* ---- accepting ---- */

/* Whether the answer to this packet has not been sent yet: then it will come, and the packet need not be repeated. */
static bool is_queued(const struct qp *q, uint32_t psn)
{
    for (const struct request *r = q->first; r; r = r->next) {
        int32_t ahead = psn_diff(psn, r->psn);
        if (r->op != P_NAK && ahead >= (int32_t)r->answered && ahead < (int32_t)r->packets)
            return true;
    }
    return false;
}

/* A READ that is asked for again while it is being answered goes back: the rest of its answer would be of no use. */
static bool goes_back(struct qp *q, const struct packet *p)
{
    struct request *r = q->first;
    int32_t ahead = r ? psn_diff(p->psn, r->psn) : -1;
    if (!r || r->op != P_READ || p->op != P_READ || r->nak || ahead < 0 || ahead >= (int32_t)r->answered)
        return false;
    r->answered = r->ready = (uint32_t)ahead;
    r->placed = r->pieces;
    return true;
}

/* It was executed, but the answer may be lost. A WRITE is not executed again, a READ is, an ATOMIC has kept its
 * result. */
static void duplicate(struct qp *q, const struct packet *p, const uint8_t *payload)
{
    struct request *r;
    if (is_queued(q, p->psn) || goes_back(q, p))
        return;
    if (p->op == P_WRITE || p->op == P_READ) {
        r = append(q, p, payload);
        r->duplicate = true;
        if (p->op == P_WRITE)
            r->state = DONE;
        return;
    }
    for (uint32_t i = 0; i < SAVED && i < q->nsaved; i++)
        if (q->saved[(q->nsaved - 1 - i) % SAVED].psn == p->psn) {
            r = append(q, p, NULL);
            r->duplicate = true;
            r->state = DONE;
            r->old = q->saved[(q->nsaved - 1 - i) % SAVED].old;
            return;
        }
}

void responder_request(struct qp *q, const struct packet *p, const uint8_t *payload)
{
    int32_t ahead = psn_diff(p->psn, q->epsn);
    if (ahead < 0) {
        duplicate(q, p, payload);
    } else if (ahead > 0) {
        struct packet gap = {.op = P_NAK, .psn = q->epsn};
        if (!q->naked) {
            struct request *r = append(q, &gap, NULL);
            r->state = DONE;
            r->nak = NAK_SEQUENCE;
        }
        q->naked = true;
    } else {
        struct request *r = append(q, p, payload);
        q->naked = false;
        q->epsn = psn_add(q->epsn, r->packets);
        if (p->op != P_WRITE && ++q->serving > q->serves) {
            r->state = DONE;
            r->nak = NAK_INVALID;
        }
    }
}

/* ---- executing ---- */

static void refuse(struct request *r, uint8_t why)
{
    r->nak = why;
    r->state = DONE;
}

static struct mr *target(struct qp *q, struct request *r, uint64_t at, uint32_t n, int access)
{
    struct mr *m = q->access & access ? mr_find(q, r->rkey, at, n, access) : NULL;
    if (!m)
        refuse(r, NAK_ACCESS);
    return m;
}

static bool step_write(struct qp *q, struct request *r, int64_t now)
{
    if (r->state == NEW) {
        if (!(r->mr = target(q, r, r->at, r->nbytes, IBV_ACCESS_REMOTE_WRITE)))
            return true;
        r->at = (uint64_t)(uintptr_t)mr_byte(r->mr, r->at);
        cut(r, r->at, r->nbytes);
        r->state = GOING;
        if (nic.plan.late && random_below(2)) {
            r->due = now + (int64_t)random_below((uint64_t)nic.plan.late * 1000);
            r->state = DONE;
        }
        return true;
    }
    if (r->placed < r->pieces)
        place_piece(r);
    if (r->placed == r->pieces)
        r->state = DONE;
    return true;
}

static bool step_read(struct qp *q, struct request *r)
{
    uint32_t start = r->ready * q->mtu, left = r->nbytes - start;
    uint32_t n = left < CHUNK * q->mtu ? left : CHUNK * q->mtu, offset;
    if (r->state == GOING && r->ready != r->answered)
        return false; /* the buffer holds what is not sent yet */
    if (r->state == NEW || r->placed == r->pieces) {
        r->state = GOING;
        cut(r, r->at + start, n);
    }
    uint32_t size = next_piece(r, r->at + start, n, &offset);
    struct mr *m = target(q, r, r->at + start + offset, size, IBV_ACCESS_REMOTE_READ);
    if (!m)
        return true;
    const uint8_t *from = mr_byte(m, r->at + start + offset);
    if (modeldev_tears && is_torn(r))
        modeldev_tears(from);
    copy_words(r->data + offset, from, size);
    if (r->placed == r->pieces) {
        r->ready += packets_of(q, n);
        if (r->ready == r->packets)
            r->state = DONE;
    }
    return true;
}

static void finish_atomic(struct qp *q, struct request *r)
{
    uint64_t *word = (uint64_t *)(uintptr_t)r->at;
    uint64_t new = r->op == P_ATOMIC_ADD ? r->old + r->operand : r->old == r->operand ? r->swap : r->old;
    if (nic.plan.atomics != ATOMICS_GLOBAL)
        copy_words((uint8_t *)word, (uint8_t *)&new, 8); /* also the old value, if the comparison failed */
    q->saved[q->nsaved % SAVED].psn = r->psn;
    q->saved[q->nsaved++ % SAVED].old = r->old;
    device_of(q)->atomic = NULL;
    r->state = DONE;
}

static void load_word(struct request *r)
{
    uint64_t *word = (uint64_t *)(uintptr_t)r->at;
    if (nic.plan.atomics != ATOMICS_GLOBAL) {
        copy_words((uint8_t *)&r->old, (uint8_t *)word, 8);
    } else if (r->op == P_ATOMIC_ADD) {
        r->old = __atomic_fetch_add(word, r->operand, __ATOMIC_SEQ_CST);
    } else {
        r->old = r->operand;
        __atomic_compare_exchange_n(word, &r->old, r->swap, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
}

static bool step_atomic(struct qp *q, struct request *r, int64_t now)
{
    struct device *d = device_of(q);
    if (r->state == GOING) {
        if (now < r->due)
            return false;
        finish_atomic(q, r);
        return true;
    }
    if (d->atomic)
        return false;
    if (r->at % 8) {
        refuse(r, NAK_INVALID);
        return true;
    }
    if (!(r->mr = target(q, r, r->at, 8, IBV_ACCESS_REMOTE_ATOMIC)))
        return true;
    r->at = (uint64_t)(uintptr_t)mr_byte(r->mr, r->at);
    load_word(r);
    d->atomic = r;
    r->state = GOING;
    r->due = now + (int64_t)random_below((uint64_t)nic.plan.window * 1000 + 1);
    if (!nic.plan.window)
        finish_atomic(q, r);
    return true;
}

static bool execute(struct qp *q, struct request *r, int64_t now)
{
    if (r->state == NEW && (r->op != P_WRITE || (r->flags & F_FIRST)))
        settle_before(q, r);
    return r->op == P_WRITE ? step_write(q, r, now) : r->op == P_READ ? step_read(q, r) : step_atomic(q, r, now);
}

/* One of the packets of the WRITE that begins with r. */
static struct request *any_of_message(struct request *r)
{
    struct request *chosen = r;
    uint32_t seen = 1;
    while (nic.plan.scatter && !(r->flags & F_LAST) && (r = r->next) && r->op == P_WRITE)
        if (r->state != DONE && !random_below(++seen))
            chosen = r;
    return chosen;
}

/* What is executed next: the oldest request, or with "overtake" at random what stands behind the READs. */
static struct request *choose(struct qp *q)
{
    struct request *r = q->first, *behind;
    while (r && r->state == DONE && !r->nak)
        r = r->next;
    if (r && r->nak)
        return NULL; /* nothing is executed behind a refused request */
    if (r && r->op == P_READ && r->state == GOING && nic.plan.overtake && random_below(4)) {
        behind = r;
        while (behind && (behind->state == DONE || behind->op == P_READ) && !behind->nak)
            behind = behind->next;
        if (behind && behind->nak)
            behind = NULL;
        r = behind ? behind : r;
    }
    return r && r->op == P_WRITE ? any_of_message(r) : r;
}

/* ---- answering ---- */

static void send_read_packets(struct qp *q, struct request *r)
{
    uint32_t chunk = r->answered;
    for (; r->answered < r->ready; r->answered++) {
        uint32_t offset = r->answered * q->mtu, left = r->nbytes - offset, n = left < q->mtu ? left : q->mtu;
        struct packet *p = engine_packet(q, P_READ_RESPONSE, psn_add(r->psn, r->answered), n);
        p->nbytes = n;
        nic.answers++;
        memcpy(p + 1, r->data + (r->answered - chunk) * q->mtu, n);
    }
}

static void access_error(struct qp *q)
{
    qp_error(q);
    q->events++;
    post_event(q->ctx, IBV_EVENT_QP_ACCESS_ERR, &q->v);
}

static void answer(struct qp *q)
{
    for (struct request *r; (r = q->first);) {
        uint8_t nak = r->nak;
        struct packet *p;
        if (r->op == P_READ)
            send_read_packets(q, r);
        if (r->state != DONE)
            break;
        if (nak) {
            p = engine_packet(q, P_NAK, psn_add(r->psn, r->answered), 0);
            p->nak = nak;
        } else if (r->op == P_WRITE && (r->flags & F_ACK)) {
            engine_packet(q, P_ACK, r->psn, 0);
        } else if (r->op == P_ATOMIC_ADD || r->op == P_ATOMIC_SWAP) {
            p = engine_packet(q, P_ATOMIC_RESPONSE, r->psn, 0);
            p->operand = r->old;
            p->nbytes = 8;
        }
        pop(q);
        if (nak > NAK_SEQUENCE) {
            access_error(q);
            break;
        }
    }
}

bool responder_step(struct qp *q, int64_t now)
{
    bool did = false;
    if (q->late && now >= q->late->due)
        settle_late(q);
    if (!q->first)
        return false;
    if (now >= q->pause) {
        struct request *r = choose(q);
        for (uint64_t n = 1 + random_below(8); n && r && execute(q, r, now); n--) {
            did = true;
            r = choose(q);
        }
        if (did && nic.plan.pause && !random_below(32))
            q->pause = now + (int64_t)random_below((uint64_t)nic.plan.pause * 1000);
    }
    struct request *first = q->first;
    answer(q);
    return did || first != q->first;
}

int64_t responder_due(const struct qp *q)
{
    const struct request *r = q->first;
    int64_t due = q->late ? q->late->due : 0;
    while (r && r->state == DONE)
        r = r->next;
    int64_t next = !r ? 0 : r->op >= P_ATOMIC_ADD && r->due > q->pause ? r->due : q->pause + 1;
    return !due || (next && next < due) ? next : due;
}

/* ---- ends ---- */

static void settle(struct qp *q, struct request *r)
{
    if (r->op == P_WRITE && !r->duplicate && r->state != NEW)
        place_rest(r);
    else if (device_of(q)->atomic == r)
        finish_atomic(q, r);
}

void responder_settle(struct mr *m)
{
    for (struct qp *q = nic.qps; q; q = q->next) {
        for (struct request *r = q->first; r; r = r->next)
            if (r->mr == m) {
                settle(q, r);
                r->mr = NULL;
            }
        for (struct request *r = q->late; r; r = r->next)
            if (r->mr == m) {
                place_rest(r);
                r->mr = NULL;
            }
    }
}

void responder_forget(struct qp *q)
{
    settle_late(q);
    for (struct request *r; (r = q->first);) {
        settle(q, r);
        q->first = r->next;
        drop(r);
    }
    q->last = NULL;
    q->serving = 0;
}
