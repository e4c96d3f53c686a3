/*
 * Operations on one page. Each first *proves* a head: that it was the page's at some instant of the operation, and what
 * its generation and whole version are. Then it is done, or it swaps the head for the next one.
 *
 * A head is proven by itself if the page is free or empty, and otherwise by the header of its frame: a header with the
 * right page, version and check was written for that head. The head may be one that this op has read, or a hint that is
 * still the head.
 */
#include "machine.h"

#include "../base/error.h"

#include <string.h>

enum { ROUNDS_AT_ONCE = 3, ROUNDS_MOST = 5000 };         /* the most take 4 s on mapped memory */
enum { SLEEP_SHORTEST = 2000, SLEEP_LONGEST = 1000000 }; /* ns */
enum {
    HINT_TRUSTED = 3
}; /* for a swap: up to this many seconds and a part of one; pages.md, 'A word that comes again' */
/* A lock of another client: how long before its holder is asked about, and until the op ends. */
enum { DUE_SOON = 4 }; /* looks, until an unlock of this client is not waited for any more */
/* Long enough to find out whether the client that holds a lock is dead. */
enum { HURRIED_WAIT = 2 * LOCK_ASK_AFTER };
#define HINT_TIME(e) ((uint16_t)((e)->now / 1000000000))

static enum store_next end(struct store_op *m, int status)
{
    m->status = status;
    return STORE_DONE;
}

static enum store_next end_of_page(struct store_op *m, int status)
{
    m->of_page = true;
    return end(m, status);
}

static enum store_next post(struct store_op *m, uint32_t n, int step)
{
    m->n = n;
    m->step = step;
    return STORE_POST;
}

static dsm_op read_head(struct store_op *m, const struct store_env *e)
{
    return store_look_at_head(e, 0, page_number(m->pid), &m->head);
}

/* Of the frame that the guess names; reads of the page read that, too. */
static dsm_op read_frame(struct store_op *m, const struct store_env *e)
{
    uint64_t more = m->kind == STORE_READ ? e->shape->page_bytes : 0;
    return (dsm_op){.remote = e->at[place_of(e, page_number(m->pid), 0)],
                    .code = DSM_OP_READ,
                    .offset = frame_at(e->shape, head_low(m->guess)),
                    .local = &m->header,
                    .nbytes = sizeof m->header + more,
                    .second = m->page,
                    .second_nbytes = more};
}

/* ---- hints ---- */

static void remember(const struct store_op *m, const struct store_env *e, uint64_t head, uint64_t version)
{
    if (e->hints)
        e->hints[page_number(m->pid)] = (struct store_hint){
            .version = version, .generation = page_generation(m->pid), .frame = head_low(head), .time = HINT_TIME(e)};
}

/* The head that the page had when this client last saw it. */
static bool recall(struct store_op *m, const struct store_hint *h)
{
    if (!h || !h->version || h->generation != page_generation(m->pid))
        return false;
    m->guess = h->empty ? head_of(HEAD_EMPTY, h->version, h->generation) : head_of(HEAD_FRAMED, h->version, h->frame);
    m->seen = h->time;
    return true;
}

/* So recent that it can be swapped without another look: if it is still the head, it has been so all the time. */
static bool is_recent(const struct store_op *m, const struct store_env *e)
{
    return (uint16_t)(HINT_TIME(e) - m->seen) <= HINT_TRUSTED;
}

/* ---- looking ---- */

static enum store_next look(struct store_op *m, const struct store_env *e, bool framed)
{
    m->ops[0] = read_head(m, e);
    if (framed)
        m->ops[1] = read_frame(m, e);
    m->rounds++;
    return post(m, framed ? 2 : 1, OP_LOOKS);
}

/* Between a half of its bound and the bound, which doubles. */
static enum store_next sleep_before(struct store_op *m, const struct store_env *e, uint32_t doubled)
{
    uint64_t most = doubled < 9 ? (uint64_t)SLEEP_SHORTEST << doubled : SLEEP_LONGEST;
    m->sleep_ns = (int64_t)(most / 2 + e->random % (most / 2));
    m->step = OP_SLEEPS;
    return STORE_SLEEP;
}

static bool is_over(const struct store_op *m, const struct store_env *e) { return m->ends && e->now >= m->ends; }

/* At once, or after a sleep. */
static enum store_next look_again(struct store_op *m, const struct store_env *e)
{
    uint32_t rounds = m->rounds - m->waits;
    if (rounds > ROUNDS_MOST || is_over(m, e))
        return end(m,
                   err_set(DSM_ETIME, 0, "page %llu was replaced during each of %u looks%s", (unsigned long long)m->pid,
                           rounds, kind_changes(m->kind) ? "; nothing was changed" : ""));
    return rounds < ROUNDS_AT_ONCE ? look(m, e, true) : sleep_before(m, e, rounds - ROUNDS_AT_ONCE);
}

/* ---- locks ---- */

/* Until the op ends. */
static int64_t lock_wait(const struct store_op *m, const struct store_env *e)
{
    return m->hurries && e->lock_wait > HURRIED_WAIT ? HURRIED_WAIT : e->lock_wait;
}

/* The value before is not returned: what has locked the page may have been acknowledged. One of this client is due, or
 * was left by an op whose outcome is unknown; or another thread is in a commit. */
static enum store_next met_lock(struct store_op *m, const struct store_env *e, uint64_t lock)
{
    if (lock != m->lock || !m->waits) {
        m->since = m->asked = e->now;
        store_count_retry(e);
    }
    m->lock = lock;
    m->locked = page_number(m->pid);
    m->copy = 0;
    m->waits++;
    bool own = store_lock_is_own(e, lock);
    m->own = m->bad = false;
    m->guess = 0;
    if (is_over(m, e) || (!own && e->now - m->since > lock_wait(m, e)))
        return end_of_page(m, err_set(DSM_EBUSY, 0,
                                      "page %llu is being changed by another client; try again later, or end it",
                                      (unsigned long long)m->pid));
    if ((own && (e->dues->kept || m->waits % DUE_SOON == 0)) ||
        e->now - m->asked >= (m->asked == m->since ? LOCK_ASK_AFTER : LOCK_ASK_EVERY)) {
        m->asked = e->now;
        m->step = OP_SLEEPS;
        return STORE_RECOVER;
    }
    return sleep_before(m, e, m->waits);
}

/* ---- what a proven head allows ---- */

static enum store_next has_put(struct store_op *m, struct store_env *e);

static enum store_next put(struct store_op *m, struct store_env *e)
{
    bool framed = head_state(m->next) == HEAD_FRAMED;
    m->step = OP_PUTS;
    enum store_next next = store_put_step(&m->put, &m->change, m->ops, framed ? &m->write : NULL, e);
    m->n = m->put.n;
    m->sleep_ns = m->put.sleep_ns;
    if (m->put.waited) {
        m->lock = m->put.lock;
        m->locked = m->put.locked;
        m->copy = m->put.copy;
    }
    return next == STORE_DONE ? has_put(m, e) : next;
}

/* The frame, if there is one, is written by ops[0]. */
static enum store_next swap(struct store_op *m, struct store_env *e, uint64_t next, uint32_t behind)
{
    m->next = next;
    if (copies_of_page(e, page_number(m->pid)) > 1) {
        m->write = m->ops[0];
        m->change = (struct store_change){.number = page_number(m->pid), .from = m->guess, .to = next};
        m->put = (struct store_put){.count = 1, .intents = &m->intent, .ends = m->ends, .lock_wait = lock_wait(m, e)};
        return put(m, e);
    }
    m->ops[behind] = store_swap_head(e, 0, page_number(m->pid), m->guess, next);
    return post(m, behind + 1, OP_SWAPS);
}

static enum store_next write_frame(struct store_op *m, struct store_env *e, uint64_t version)
{
    m->extent = extent_of(e->shape, page_number(m->pid));
    m->frame = frames_take_next(e, m->extent);
    if (m->frame == NO_FRAME) {
        m->step = OP_FRAMES;
        return STORE_FRAMES;
    }
    m->header = (struct frame_header){.pid = m->pid,
                                      .version = version + 1,
                                      .writer = frame_writer(e->slot, e->shape->epoch, e->mark),
                                      .time = e->time,
                                      .before = m->guess};
    frame_seal(&m->header, e->copy, m->page, e->shape->page_bytes);
    m->ops[0] = (dsm_op){.remote = e->at[place_of(e, page_number(m->pid), 0)],
                         .code = DSM_OP_WRITE,
                         .offset = frame_at(e->shape, m->frame),
                         .local = &m->header,
                         .nbytes = sizeof m->header + e->shape->page_bytes,
                         .second = e->copy ? e->copy : m->page,
                         .second_nbytes = e->shape->page_bytes};
    return swap(m, e, head_of(HEAD_FRAMED, version + 1, m->frame), 1);
}

/* The guess is proven, and the page has this version. */
static enum store_next act(struct store_op *m, struct store_env *e, uint64_t version)
{
    m->version = version;
    switch (m->kind) {
    case STORE_READ:
        if (head_state(m->guess) == HEAD_EMPTY)
            memset(m->page, 0, e->shape->page_bytes);
        return end(m, 0);
    case STORE_VERSION:
        return end(m, 0);
    case STORE_COMPARE_WRITE:
        if (version != m->expected)
            return end(m, err_set(DSM_ECONFLICT, 0, "page %llu has version %llu, not %llu", (unsigned long long)m->pid,
                                  (unsigned long long)version, (unsigned long long)m->expected));
        return write_frame(m, e, version);
    case STORE_WRITE:
        return write_frame(m, e, version);
    default:
        return swap(m, e, head_of(HEAD_FREE, version + 1, generation_after(page_generation(m->pid))), 0);
    }
}

static enum store_next no_page(struct store_op *m)
{
    return end_of_page(m, err_set(DSM_EPAGE, 0, "page %llu", (unsigned long long)m->pid));
}

/* A head that the op has just read. alone: and its frame not yet, which is then read at once. The frame of a head that
 * was there before a sleep has been used again, where the page is written often. */
static enum store_next see(struct store_op *m, struct store_env *e, uint64_t head, bool alone)
{
    if (m->bad && head == m->guess)
        return end_of_page(m,
                           err_set(DSM_ECORRUPT, 0, "the frame of page %llu is damaged", (unsigned long long)m->pid));
    if (head_locked(head))
        return met_lock(m, e, head);
    if (m->own && head != m->guess)
        store_count_retry(e);
    m->guess = head;
    m->seen = HINT_TIME(e);
    m->seen_at = e->now;
    m->own = true;
    m->bad = false;
    if (head_state(head) == HEAD_FRAMED)
        return head_low(head) < frames_of(e->shape)
                   ? alone ? look(m, e, true) : look_again(m, e)
                   : end_of_page(m, err_set(DSM_ECORRUPT, 0, "page %llu is in frame %u of %llu",
                                            (unsigned long long)m->pid, head_low(head),
                                            (unsigned long long)frames_of(e->shape)));
    if (head_state(head) == HEAD_EMPTY && head_low(head) == page_generation(m->pid))
        return act(m, e, head_version(head));
    return no_page(m);
}

static enum store_next looked(struct store_op *m, struct store_env *e)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (m->ops[i].status)
            return end(m, m->ops[i].status);
    if (!store_lock_is_own(e, m->head))
        store_seen_unlocked(e, page_number(m->pid));
    if (m->n == 1)
        return see(m, e, m->head, true);
    bool proves = m->own || m->head == m->guess;
    bool whole = frame_fits(&m->header, page_number(m->pid), m->guess);
    if (whole && m->kind == STORE_READ)
        whole = frame_holds(&m->header, m->page, e->shape->page_bytes);
    if (!whole && m->own && m->head == m->guess && !m->bad) { /* or superseded between the two READs */
        m->bad = true;
        return look(m, e, true);
    }
    if (!whole || !proves)
        return see(m, e, m->head, false);
    if (m->header.pid != m->pid)
        return no_page(m);
    m->seen = HINT_TIME(e);
    if (m->head == m->guess)
        m->seen_at = e->now;
    remember(m, e, m->guess, m->header.version);
    return act(m, e, m->header.version);
}

/* ---- swaps and their outcomes ---- */

static struct store_frames *frames_in(const struct store_op *m, const struct store_env *e)
{
    return &e->frames[extent_of(e->shape, page_number(m->pid))];
}

static enum store_next swapped(struct store_op *m, struct store_env *e)
{
    m->version++;
    if (head_state(m->next) == HEAD_FRAMED)
        remember(m, e, m->next, m->version);
    if (head_state(m->guess) == HEAD_FRAMED)
        frames_put_back(e, extent_of(e->shape, page_number(m->pid)), head_low(m->guess));
    return end(m, 0);
}

static void put_back(struct store_op *m, struct store_env *e)
{
    if (head_state(m->next) == HEAD_FRAMED)
        frames_put_back(e, m->extent, m->frame);
}

/* Before the header and the guess are those of another look. */
static void note_doubt(struct store_op *m)
{
    m->doubt = (dsm_store_doubt){.pid = m->pid, .from = m->guess, .to = m->next, .version = m->version + 1};
    if (head_state(m->next) == HEAD_FRAMED)
        memcpy(m->doubt.header, &m->header, sizeof m->header);
}

/* The head was another one. A lock, and a head that this op had read, are counted where they are seen. */
static enum store_next refused(struct store_op *m, struct store_env *e, uint64_t head)
{
    if (!m->own && !head_locked(head))
        store_count_retry(e);
    return see(m, e, head, false);
}

static enum store_next has_swapped(struct store_op *m, struct store_env *e)
{
    const dsm_op *op = &m->ops[m->n - 1];
    if (!op->status && op->result == m->guess && !m->ops[0].status)
        return swapped(m, e);
    if (op->status == -DSM_EUNKNOWN || m->ops[0].status == -DSM_EUNKNOWN) {
        m->cause = op->status == -DSM_EUNKNOWN ? op->cause : m->ops[0].cause;
        note_doubt(m);
        m->ops[0] = read_head(m, e);
        return post(m, 1, OP_DOUBTS);
    }
    put_back(m, e);
    if (op->status || m->ops[0].status)
        return end(m, m->ops[0].status ? m->ops[0].status : op->status);
    return refused(m, e, op->result);
}

/* The same, where there are several copies. A change that is unknown has left the page locked. */
static enum store_next has_put(struct store_op *m, struct store_env *e)
{
    switch (m->change.is) {
    case CHANGE_DONE:
        return swapped(m, e);
    case CHANGE_UNKNOWN:
        note_doubt(m);
        frames_in(m, e)->doubt |= head_state(m->next) == HEAD_FRAMED;
        return end(m, m->put.status);
    case CHANGE_REFUSED:
        put_back(m, e);
        return refused(m, e, m->change.found);
    default:
        put_back(m, e);
        return m->put.status == -DSM_EBUSY ? end_of_page(m, m->put.status) : end(m, m->put.status);
    }
}

/* The frame is settled: the head was read over a new connection, before which the old one was closed. */
static enum store_next unknown(struct store_op *m)
{
    return end(m, err_set_op(DSM_EUNKNOWN, m->cause < 0 ? -m->cause : m->cause, 0, 0, "a change of page %llu",
                             (unsigned long long)m->pid));
}

/* A transaction has locked the page in the version that was written. Given up, it leaves the page in that frame. */
static bool may_be_locked(const struct store_op *m)
{
    return head_locked(m->head) && head_version(m->head) == head_version(m->next);
}

/* The answer was lost, and the head has been read since. */
static enum store_next doubt(struct store_op *m, struct store_env *e)
{
    if (m->ops[0].status || may_be_locked(m)) {
        frames_in(m, e)->doubt |= head_state(m->next) == HEAD_FRAMED;
        return unknown(m);
    }
    if (m->head == m->next && head_state(m->next) == HEAD_FRAMED) /* no other client names this frame */
        return swapped(m, e);
    put_back(m, e);
    if (m->head == m->guess) /* it was not executed, and never will be */
        return see(m, e, m->head, false);
    if (head_state(m->next) != HEAD_FRAMED || head_state(m->head) != HEAD_FRAMED ||
        head_low(m->head) >= frames_of(e->shape))
        return unknown(m);
    m->guess = m->head;
    m->ops[0] = read_frame(m, e);
    m->ops[0].nbytes = sizeof m->header;
    m->ops[0].second_nbytes = 0;
    return post(m, 1, OP_TRACES);
}

/* Another one has replaced a head: was it ours? One that another client made before this one had the frame may have
 * been the same, and be the one that was replaced, if the guess is as old. How old a hint is can't be said for certain:
 * its seconds come again. */
static enum store_next trace(struct store_op *m, const struct store_env *e)
{
    bool ours = m->seen_at > frames_in(m, e)->since && !m->ops[0].status &&
                frame_fits(&m->header, page_number(m->pid), m->guess) && m->header.before == m->next;
    m->version++;
    return ours ? end(m, 0) : unknown(m);
}

static enum store_next begin(struct store_op *m, struct store_env *e)
{
    if (page_number(m->pid) >= store_pages(e->shape) || !page_generation(m->pid))
        return no_page(m);
    const struct store_hint *h = e->hints ? &e->hints[page_number(m->pid)] : NULL;
    if (!m->own && recall(m, h)) {
        bool fits = m->kind != STORE_COMPARE_WRITE || h->version == m->expected;
        if (m->kind >= STORE_WRITE && fits && is_recent(m, e) && !store_may_stand(e, page_number(m->pid), m->guess))
            return act(m, e, h->version); /* the swap proves it */
        return look(m, e, !h->empty);
    }
    return look(m, e, false);
}

bool store_knows(const struct store_env *e, uint64_t pid, uint64_t *head, uint64_t *version)
{
    struct store_op m = {.pid = pid};
    bool is = page_number(pid) < store_pages(e->shape) && e->hints && recall(&m, &e->hints[page_number(pid)]) &&
              is_recent(&m, e);
    if (is) {
        *head = m.guess;
        *version = e->hints[page_number(pid)].version;
    }
    return is;
}

bool store_must_go_on(const struct store_op *m)
{
    return m->step == OP_DOUBTS || m->step == OP_TRACES || (m->step == OP_PUTS && m->put.step != PUT_LOCKS);
}

void store_give_up(struct store_op *m, struct store_env *e)
{
    if (m->step == OP_PUTS) {
        store_put_give_up(&m->put, &m->change, e);
        has_put(m, e);
    } else if (m->step == OP_SWAPS) {
        put_back(m, e);
    }
}

enum store_next store_step(struct store_op *m, struct store_env *e)
{
    store_looked(e, m->ops, m->n);
    switch (m->step) {
    case OP_BEGINS:
        return begin(m, e);
    case OP_SLEEPS:
        return look(m, e, false);
    case OP_FRAMES: /* there are some now */
        return is_recent(m, e) ? act(m, e, m->version) : begin(m, e);
    case OP_LOOKS:
        return looked(m, e);
    case OP_SWAPS:
        return has_swapped(m, e);
    case OP_PUTS:
        return put(m, e);
    case OP_DOUBTS:
        return doubt(m, e);
    default:
        return trace(m, e);
    }
}
