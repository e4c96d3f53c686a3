/*
 * Allocation: a free head becomes an empty one. Any client may take any free page; each begins at another place, so
 * that they rarely meet. It goes on where it was: what is left of the heads that it has read is tried first. A free
 * head says all of itself, however long ago it was read.
 */
#include "../base/error.h"
#include "machine.h"

enum { PASSES = 4, PAUSE = 20000000 }; /* over all heads, while locks are met; ns between them */

static enum store_next end(struct store_allocation *m, int status)
{
    m->status = status;
    return STORE_DONE;
}

static enum store_next post(struct store_allocation *m, uint32_t n, int step)
{
    m->n = n;
    m->step = step;
    return STORE_POST;
}

static dsm_op swap_of(const struct store_env *e, uint64_t number, uint64_t from, uint64_t to)
{
    return store_swap_head(e, 0, number, from, to);
}

/* The changes at hand, where there are several copies. */
static enum store_next put(struct store_allocation *m, struct store_env *e, int step)
{
    m->step = step;
    enum store_next next = store_put_step(&m->put, m->changes, m->ops, NULL, e);
    m->n = m->put.n;
    m->sleep_ns = m->put.sleep_ns;
    if (next == STORE_RECOVER) {
        m->lock = m->put.lock;
        m->locked = m->put.locked;
        m->copy = m->put.copy;
    }
    return next;
}

static enum store_next have_put(struct store_allocation *m, struct store_env *e);
static enum store_next have_unput(struct store_allocation *m, const struct store_env *e);

static enum store_next put_on(struct store_allocation *m, struct store_env *e, int step)
{
    enum store_next next = put(m, e, step);
    if (next != STORE_DONE)
        return next;
    return step == ALLOCATION_PUTS ? have_put(m, e) : have_unput(m, e);
}

static void begin_put(struct store_allocation *m, const struct store_env *e, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        m->changes[i] =
            (struct store_change){.number = m->changes[i].number, .from = m->changes[i].from, .to = m->changes[i].to};
    m->put = (struct store_put){.count = n, .intents = m->intents, .lock_wait = e->lock_wait};
}

/* So many that their ops have room. */
static uint32_t batch(const struct store_env *e) { return e->copies > 2 ? PER_CHUNK / (e->copies - 1) : PER_CHUNK; }

/* ---- giving back what it has, if it can't have all ---- */

/* Of a page that is changed by a put. Others are in extents of one copy; a posting has changes of one kind. */
static bool is_put(const struct store_env *e, uint64_t number) { return copies_of_page(e, number) > 1; }

/* No place is out of reach, as far as it is known. */
static bool all_answer(const struct store_allocation *m)
{
    return m->cause == -DSM_ESTOREFULL || m->cause == -DSM_EBUSY;
}

/* How many of the last pages are looked at together: of one kind. If places are out of reach: of one extent, since what
 * goes to others fails with them. */
static uint32_t undo_batch(const struct store_allocation *m, const struct store_env *e)
{
    uint32_t n = 0, most = m->have < batch(e) ? (uint32_t)m->have : batch(e);
    uint64_t last = page_number(m->ids[m->have - 1]);
    bool any = all_answer(m);
    for (; n < most; n++) {
        uint64_t number = page_number(m->ids[m->have - 1 - n]);
        if (is_put(e, number) != is_put(e, last) || (!any && extent_of(e->shape, number) != extent_of(e->shape, last)))
            break;
    }
    return n;
}

static bool is_lost(const struct store_allocation *m, const struct store_env *e, uint64_t pid)
{
    return m->lost >> extent_of(e->shape, page_number(pid)) & 1;
}

/* The page stays allocated, or it is not known whether it does: its id is told behind those that it still has. */
static void leave(struct store_allocation *m, uint64_t pid) { m->ids[m->want - ++m->left] = pid; }

/* Pages of an extent that is out of reach stay allocated. */
static enum store_next undo(struct store_allocation *m, const struct store_env *e)
{
    while (m->have && is_lost(m, e, m->ids[m->have - 1]))
        leave(m, m->ids[--m->have]);
    if (!m->have) {
        memmove(m->ids, m->ids + m->want - m->left, m->left * sizeof *m->ids);
        return end(m, m->cause);
    }
    uint32_t n = undo_batch(m, e);
    for (uint32_t i = 0; i < n; i++)
        m->ops[i] = store_look_at_head(e, 0, page_number(m->ids[m->have - n + i]), &m->heads[i]);
    return post(m, n, ALLOCATION_RETURNS);
}

/* The ops of one of the steps, each for a page. */
static void note_lost(struct store_allocation *m, const struct store_env *e)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (m->ops[i].status)
            m->lost |= 1ull << extent_of(e->shape, page_number(m->ids[m->have - m->n + i]));
}

/* A page of its own that is still locked, since the unlock was not read in its turn or is kept, stays allocated. */
static enum store_next give_back(struct store_allocation *m, struct store_env *e)
{
    uint32_t changes = 0;
    note_lost(m, e);
    for (uint32_t i = m->n; i--;) {
        uint64_t pid = m->ids[--m->have], head = m->heads[i];
        uint64_t next = head_of(HEAD_FREE, head_version(head) + 1, generation_after(page_generation(pid)));
        if (is_lost(m, e, pid) || head_locked(head) || store_may_stand(e, page_number(pid), head))
            leave(m, pid);
        else
            m->changes[changes++] = (struct store_change){.number = page_number(pid), .from = head, .to = next};
    }
    if (!changes)
        return undo(m, e);
    bool puts = is_put(e, m->changes[0].number);
    for (uint32_t i = 0; i < changes && !puts; i++)
        m->ops[i] = swap_of(e, m->changes[i].number, m->changes[i].from, m->changes[i].to);
    if (!puts)
        return post(m, changes, ALLOCATION_UNDOES);
    begin_put(m, e, changes);
    return put_on(m, e, ALLOCATION_UNPUTS);
}

static uint64_t id_of(const struct store_change *c) { return page_id(head_low(c->from), c->number); }

/* status: of the changes, which were of one extent if places are out of reach. */
static enum store_next given_back(struct store_allocation *m, const struct store_env *e, int status)
{
    if (status && !all_answer(m))
        m->lost |= 1ull << extent_of(e->shape, m->changes[0].number);
    return undo(m, e);
}

static enum store_next have_unput(struct store_allocation *m, const struct store_env *e)
{
    for (uint32_t i = 0; i < m->put.count; i++)
        if (m->changes[i].is != CHANGE_DONE)
            leave(m, id_of(&m->changes[i]));
    return given_back(m, e, m->put.status);
}

static enum store_next undone(struct store_allocation *m, const struct store_env *e)
{
    int status = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        status = status ? status : m->ops[i].status;
        if (m->ops[i].status || m->ops[i].result != m->ops[i].operand)
            leave(m, id_of(&m->changes[i]));
    }
    return given_back(m, e, status);
}

/* ---- taking ---- */

static enum store_next look(struct store_allocation *m, const struct store_env *e);

/* No other page is free. What its holder has locked it may be about to free, or it is dead. All heads are read again.
 */
static enum store_next wait_for_lock(struct store_allocation *m)
{
    m->sleep_ns = PAUSE;
    m->step = ALLOCATION_WAITS;
    return m->passes++ ? STORE_RECOVER : STORE_SLEEP;
}

/* The lock may be a mixture, and its holder no client. */
static enum store_next prove_lock(struct store_allocation *m, const struct store_env *e)
{
    m->copy = 0;
    m->ops[0] = store_look_at_head(e, 0, m->locked, &m->heads[0]);
    return post(m, 1, ALLOCATION_PROVES);
}

static enum store_next look_from_start(struct store_allocation *m, const struct store_env *e)
{
    m->looked = 0;
    m->lock = 0;
    return look(m, e);
}

/* How many heads of each extent are read next: more of them each time that there were too few free ones. */
static uint32_t next_most(struct store_allocation *m, const struct store_env *e)
{
    m->most = !m->most ? PER_CHUNK : m->most < HEADS_MOST ? 4 * m->most : HEADS_MOST;
    return m->most / e->shape->extents;
}

/* The same heads of each extent. */
static enum store_next look(struct store_allocation *m, const struct store_env *e)
{
    struct store_heads *h = e->heads;
    uint32_t extents = e->shape->extents, most;
    uint64_t pages = store_pages(e->shape);
    if (m->looked >= pages && m->lock && m->passes < PASSES)
        return e->mixes ? prove_lock(m, e) : wait_for_lock(m);
    if (m->looked >= pages) {
        if (m->busy)
            m->cause = err_set(DSM_EBUSY, 0, "free pages are being changed by another client; try again later");
        else
            m->cause = err_set(DSM_ESTOREFULL, 0, "%llu pages, and fewer than %llu are free", (unsigned long long)pages,
                               (unsigned long long)m->want);
        return undo(m, e);
    }
    most = next_most(m, e);
    h->at = (h->at + h->got) % e->shape->pages;
    h->in = 0;
    h->got = e->shape->pages - h->at < most ? (uint32_t)(e->shape->pages - h->at) : most;
    for (uint32_t x = 0; x < extents; x++)
        m->ops[x] = store_read_op(e, first_of(e, x), head_at(e->shape, h->at), &h->words[x * h->got],
                                  sizeof *h->words * (uint64_t)h->got);
    return post(m, extents, ALLOCATION_LOOKS);
}

/* A mixture may have a state that there is not. */
static bool may_be_locked(const struct store_env *e, uint64_t head)
{
    return head_locked(head) || (e->mixes && head_state(head) > HEAD_LOCKED_MOST && head_state(head) < HEAD_EMPTY);
}

/* Of the heads at hand. */
static uint64_t number_of(const struct store_env *e, uint32_t x, uint32_t i)
{
    return number_at(e->shape, x, e->heads->at + i);
}

/* Whether the page can be taken. The first lock is noted. */
static bool is_free(struct store_allocation *m, const struct store_env *e, uint32_t x, uint32_t i)
{
    uint64_t head = e->heads->words[x * e->heads->got + i];
    if (head_state(head) == HEAD_FREE)
        return head_low(head) && !store_may_stand(e, number_of(e, x, i), head);
    if (!m->lock && may_be_locked(e, head)) {
        m->lock = head;
        m->locked = number_of(e, x, i);
        m->copy = 0;
    }
    return false;
}

/* Their places, in order: so those of one extent, whose intents are to be in a row, are beside each other. */
static void insert(uint32_t *chosen, uint32_t n, uint32_t at)
{
    for (; n && chosen[n - 1] > at; n--)
        chosen[n] = chosen[n - 1];
    chosen[n] = at;
}

/* Which of the heads at hand are to be taken, and how many: of each extent in turn, and the first one is another for
 * each client. All are of one kind, that of the first: those of the other one are taken when these are. */
static uint32_t choose(struct store_allocation *m, const struct store_env *e, uint32_t chosen[PER_CHUNK])
{
    struct store_heads *h = e->heads;
    uint32_t extents = e->shape->extents, x = extents == 1 ? 0 : e->slot % extents, n = 0, in = h->got;
    uint64_t left = m->want - m->have;
    bool puts = false;
    left = left < batch(e) ? left : batch(e);
    for (uint32_t i = h->in, k = 0; i < h->got && left;) {
        bool its = copies_of(e, x) > 1;
        if (is_free(m, e, x, i)) {
            in = i < in ? i : in;
            if (!n || its == puts) {
                puts = its;
                insert(chosen, n++, x * h->got + i);
                left--;
            }
        }
        i += ++k == extents;
        k = k == extents ? 0 : k;
        x = x + 1 == extents ? 0 : x + 1;
    }
    h->in = in;
    return n;
}

static enum store_next take(struct store_allocation *m, struct store_env *e)
{
    const struct store_heads *h = e->heads;
    uint32_t chosen[PER_CHUNK], n = choose(m, e, chosen);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t head = h->words[chosen[i]], next = head_of(HEAD_EMPTY, head_version(head) + 1, head_low(head));
        uint32_t x = e->shape->extents == 1 ? 0 : chosen[i] / h->got;
        uint64_t number = number_of(e, x, chosen[i] - x * h->got);
        m->changes[i] = (struct store_change){.number = number, .from = head, .to = next};
        m->ops[i] = swap_of(e, number, head, next);
    }
    if (!n)
        return look(m, e);
    if (!is_put(e, m->changes[0].number))
        return post(m, n, ALLOCATION_SWAPS);
    begin_put(m, e, n);
    return put_on(m, e, ALLOCATION_PUTS);
}

static enum store_next looked(struct store_allocation *m, struct store_env *e)
{
    struct store_heads *h = e->heads;
    for (uint32_t x = 0; x < m->n; x++)
        if (m->ops[x].status) {
            h->got = 0;
            m->cause = m->ops[x].status;
            return undo(m, e);
        }
    m->looked += (uint64_t)h->got * m->n;
    for (uint32_t x = 0; e->dues && e->dues->kept && x < m->n; x++)
        for (uint32_t i = 0; i < h->got; i++)
            if (!store_lock_is_own(e, h->words[x * h->got + i]))
                store_seen_unlocked(e, number_of(e, x, i));
    return take(m, e);
}

/* The word at hand of a page. */
static uint64_t *word_of(const struct store_env *e, uint64_t number)
{
    struct store_heads *h = e->heads;
    return &h->words[extent_of(e->shape, number) * h->got + (index_of(e->shape, number) - h->at)];
}

/* The page is empty, and this client knows it. */
static void had(struct store_allocation *m, const struct store_env *e, uint64_t number, uint64_t head)
{
    m->ids[m->have++] = page_id(head_low(head), number);
    m->passes = 0;
    if (e->hints)
        e->hints[number] = (struct store_hint){.version = head_version(head),
                                               .empty = true,
                                               .generation = head_low(head),
                                               .time = (uint16_t)(e->now / 1000000000)};
}

static enum store_next proven(struct store_allocation *m, const struct store_env *e)
{
    if (m->ops[0].status) {
        m->cause = m->ops[0].status;
        return undo(m, e);
    }
    m->lock = m->heads[0];
    if (head_locked(m->lock))
        return wait_for_lock(m);
    m->passes++;
    return look_from_start(m, e);
}

/* A page is had if its swap has certainly succeeded. One whose answer was lost may stay allocated. */
static enum store_next taken(struct store_allocation *m, struct store_env *e)
{
    int status = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        const dsm_op *op = &m->ops[i];
        bool is_had = !op->status && op->result == op->operand;
        uint64_t number = m->changes[i].number;
        *word_of(e, number) = op->status ? 0 : is_had ? op->desired : op->result;
        if (is_had)
            had(m, e, number, op->desired);
        if (op->status && (!status || status == -DSM_ECANCELED))
            status = op->status;
    }
    m->cause = status;
    if (status)
        return undo(m, e);
    return m->have == m->want ? end(m, 0) : take(m, e);
}

/* The same, where there are several copies. */
static enum store_next have_put(struct store_allocation *m, struct store_env *e)
{
    for (uint32_t i = 0; i < m->put.count; i++) {
        const struct store_change *c = &m->changes[i];
        uint64_t *head = word_of(e, c->number);
        *head = c->is == CHANGE_DONE ? c->to : c->is == CHANGE_REFUSED ? c->found : 0;
        if (c->is == CHANGE_DONE)
            had(m, e, c->number, c->to);
    }
    bool busy = m->put.status == -DSM_EBUSY && m->put.step != PUT_BEGINS;
    m->busy |= busy;
    m->cause = busy ? 0 : m->put.status; /* another page will do */
    if (m->cause)
        return undo(m, e);
    return m->have == m->want ? end(m, 0) : take(m, e);
}

/* The first place is far from other clients', whatever their number is: golden ratio. */
static enum store_next begin(struct store_allocation *m, struct store_env *e)
{
    if (!m->want)
        return end(m, 0);
    if (!e->heads->got)
        e->heads->at = (e->slot * 0x9e3779b97f4a7c15ull >> 32) % e->shape->pages;
    return take(m, e);
}

enum store_next store_allocate_step(struct store_allocation *m, struct store_env *e)
{
    store_looked(e, m->ops, m->n);
    switch (m->step) {
    case ALLOCATION_BEGINS:
        return begin(m, e);
    case ALLOCATION_LOOKS:
        return looked(m, e);
    case ALLOCATION_SWAPS:
        return taken(m, e);
    case ALLOCATION_PUTS:
    case ALLOCATION_UNPUTS:
        return put_on(m, e, m->step);
    case ALLOCATION_PROVES:
        return proven(m, e);
    case ALLOCATION_WAITS:
        return look_from_start(m, e);
    case ALLOCATION_RETURNS:
        return give_back(m, e);
    default:
        return undone(m, e);
    }
}
