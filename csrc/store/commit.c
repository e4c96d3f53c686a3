/*
 * A commit: frames, the record and the locks in one posting; then the heads of pages that were only read are looked at
 * again; then the word of the slot says 'committed' at all copies, which is the commit. The new heads come after that.
 *
 * A transaction takes part in the extents in which it changes pages: its record and its word are at all copies of each
 * of them, and all these words together say whether it is committed.
 *
 * No lock is waited for, so no two transactions wait for each other. Until the word is changed the transaction can be
 * given up; and a client that has died until then is taken to have given it up.
 */
#include "commit.h"

#include "../base/error.h"
#include "resolve.h"

enum { TRIES = 4, SLEEP_SHORTEST = 1000000 }; /* of a copy that does not answer; ns */

static enum store_next end(struct store_commit *m, int status)
{
    m->status = status;
    return STORE_DONE;
}

static enum store_next post(struct store_commit *m, uint32_t n, int step)
{
    m->n = n;
    m->step = step;
    return STORE_POST;
}

static uint32_t extent_of_page(const struct tx_page *p, const struct store_env *e)
{
    return extent_of(e->shape, page_number(p->pid));
}

static uint64_t lock_of(const struct tx_page *p, const struct store_env *e)
{
    return head_transaction_lock(p->head, e->slot, e->mark);
}

static void forget_hint(const struct tx_page *p, struct store_env *e)
{
    if (e->hints)
        e->hints[page_number(p->pid)].version = 0;
}

/* ---- giving up ---- */

static void put_back_frames(struct store_commit *m, struct store_env *e)
{
    for (uint32_t i = 0; i < m->count; i++) {
        struct tx_page *p = &m->pages[i];
        if (p->writes && p->frame != NO_FRAME)
            frames_put_back(e, extent_of_page(p, e), p->frame);
        p->frame = NO_FRAME;
    }
}

void store_commit_give_up(struct store_commit *m, struct store_env *e) { put_back_frames(m, e); }

/* No copy has committed, and none will. */
static enum store_next undo(struct store_commit *m, struct store_env *e, int status)
{
    for (uint32_t i = 0; i < m->count; i++) {
        struct tx_page *p = &m->pages[i];
        if (p->is != TX_OPEN)
            store_add_due(e, page_number(p->pid), lock_of(p, e), p->head);
        p->is = TX_OPEN;
    }
    put_back_frames(m, e);
    return end(m, status);
}

int commit_conflict(const struct tx_page *p, uint64_t found)
{
    unsigned long long pid = p->pid, seen = p->version, now = seen + ((head_version(found) - seen) & LOW28);
    if (head_locked(found))
        return err_set(DSM_ECONFLICT, 0, "page %llu is being changed by a %s of the client in slot %u", pid,
                       head_in_transaction(found) ? "transaction" : "write", head_locker(found));
    if (head_state(found) == HEAD_FREE)
        return err_set(DSM_ECONFLICT, 0, "page %llu was freed; version %llu was seen", pid, seen);
    return err_set(DSM_ECONFLICT, 0, "page %llu has changed: version %llu was seen, %llu is there", pid, seen, now);
}

static enum store_next conflict(struct store_commit *m, struct store_env *e, const struct tx_page *p, uint64_t found)
{
    m->conflict = p->pid;
    m->other = found;
    forget_hint(p, e);
    return undo(m, e, commit_conflict(p, found));
}

static void note(struct store_commit *m, const dsm_op *op)
{
    if (m->error && m->error != -DSM_ECANCELED)
        return;
    m->error = op->status;
    m->cause = op->cause;
}

/* An op that was cancelled, or whose answer was lost, says nothing against trying again. */
static enum store_next failed(struct store_commit *m, struct store_env *e)
{
    int code = -m->error, cause = m->cause < 0 ? -m->cause : m->cause;
    m->again = code == DSM_ECANCELED || code == DSM_EUNKNOWN;
    if (m->again)
        code = cause ? cause : DSM_EIO;
    return undo(m, e, err_set_op(code, cause, 0, 0, "the transaction was not committed"));
}

/* ---- the first posting ---- */

static enum store_next ask_words(struct store_commit *m, const struct store_env *e)
{
    uint32_t n = 0;
    for (uint64_t left = e->words->unsure & m->parts; left; left &= left - 1) {
        uint32_t k = (uint32_t)__builtin_ctzll(left);
        m->ops[n++] = store_look_op(e, k, word_at(e->shape, e->slot), &e->words->at[k]);
    }
    return post(m, n, COMMIT_ASKS);
}

/* Of the open chunk of an extent. */
static bool is_taken_from(const struct store_commit *m, const struct store_env *e, uint32_t extent)
{
    for (uint32_t i = 0; i < m->count; i++) {
        const struct tx_page *p = &m->pages[i];
        if (p->writes && p->frame != NO_FRAME && extent_of_page(p, e) == extent &&
            p->frame / PER_CHUNK == e->frames[extent].chunk)
            return true;
    }
    return false;
}

/* False: the open chunk of m->extent has too few. It stays open if one of its frames is taken. */
static bool take_frames(struct store_commit *m, const struct store_env *e)
{
    for (uint32_t i = 0; i < m->count; i++) {
        struct tx_page *p = &m->pages[i];
        if (!p->writes || p->frame != NO_FRAME)
            continue;
        m->extent = extent_of_page(p, e);
        p->frame = frames_take_next(e, m->extent);
        if (p->frame != NO_FRAME)
            continue;
        if (e->frames[m->extent].word && is_taken_from(m, e, m->extent))
            frames_hold(e, m->extent);
        return false;
    }
    return true;
}

static void seal_frame(struct tx_page *p, const struct store_env *e)
{
    p->header = (struct frame_header){.pid = p->pid,
                                      .version = p->version + 1,
                                      .writer = frame_transaction(e->slot, e->shape->epoch, e->words->seq),
                                      .time = e->time,
                                      .before = p->head,
                                      .hash = p->hash};
    frame_seal_hashed(&p->header);
}

static void seal_record(struct store_commit *m, struct store_env *e)
{
    struct tx_record *r = &m->record;
    e->words->seq++;
    r->seq = e->words->seq;
    r->mark = e->mark;
    r->n = 0;
    r->time = e->time;
    for (uint32_t i = 0; i < m->count; i++) {
        struct tx_page *p = &m->pages[i];
        if (!tx_changes(p))
            continue;
        uint32_t next = generation_after(page_generation(p->pid));
        p->to = p->writes ? head_of(HEAD_FRAMED, p->version + 1, p->frame) : head_of(HEAD_FREE, p->version + 1, next);
        if (p->writes)
            seal_frame(p, e);
        r->of[r->n++] = (struct tx_change){p->pid, p->head, p->to};
    }
    record_seal(r);
}

/* What goes to place k: the frames of its extent, the record, and the word. */
static uint32_t write_place(const struct store_commit *m, dsm_op *ops, const struct store_env *e, uint32_t k)
{
    uint32_t n = 0, extent = extent_at(e, k);
    for (uint32_t i = 0; i < m->count; i++) {
        struct tx_page *p = &m->pages[i];
        if (p->writes && extent_of_page(p, e) == extent)
            ops[n++] = (dsm_op){.remote = e->at[k],
                                .code = DSM_OP_WRITE,
                                .offset = frame_at(e->shape, p->frame),
                                .local = &p->header,
                                .nbytes = sizeof p->header + e->shape->page_bytes,
                                .second = p->page,
                                .second_nbytes = e->shape->page_bytes};
    }
    ops[n++] = (dsm_op){.remote = e->at[k],
                        .code = DSM_OP_WRITE,
                        .offset = record_at(e->shape, e->slot),
                        .local = (void *)(uintptr_t)&m->record,
                        .nbytes = record_bytes(m->record.n)};
    ops[n++] = store_swap_op(e, k, word_at(e->shape, e->slot), e->words->at[k], tx_word(e->words->seq, TX_PREPARED));
    return n;
}

/* In this order: a client that finds a lock finds the record, and the word, at the primary with the lock. */
static enum store_next lock(struct store_commit *m, struct store_env *e)
{
    uint32_t n = 0;
    seal_record(m, e);
    for (uint64_t left = m->parts; left; left &= left - 1)
        n += write_place(m, m->ops + n, e, (uint32_t)__builtin_ctzll(left));
    for (uint32_t i = 0; i < m->count; i++) {
        const struct tx_page *p = &m->pages[i];
        if (tx_changes(p))
            m->ops[n++] = store_swap_head(e, 0, page_number(p->pid), p->head, lock_of(p, e));
    }
    return post(m, n, COMMIT_LOCKS);
}

static enum store_next validate(struct store_commit *m, struct store_env *e);

static enum store_next begin(struct store_commit *m, struct store_env *e)
{
    if (!m->changes) {
        for (uint32_t i = 0; i < m->count && !m->looks; i++) {
            m->pages[i].is = TX_OPEN;
            m->pages[i].frame = NO_FRAME;
            m->changes += tx_changes(&m->pages[i]);
            if (tx_changes(&m->pages[i]))
                m->parts |= places_of(e, extent_of_page(&m->pages[i], e));
        }
        if (!m->changes)
            return validate(m, e);
    }
    if (e->words->unsure & m->parts)
        return ask_words(m, e);
    if (!take_frames(m, e)) {
        m->step = COMMIT_BEGINS;
        return STORE_FRAMES;
    }
    return lock(m, e);
}

static enum store_next asked(struct store_commit *m, struct store_env *e)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (m->ops[i].status)
            note(m, &m->ops[i]);
    if (m->error)
        return failed(m, e);
    e->words->unsure &= ~m->parts;
    return begin(m, e);
}

/* ---- its answers ---- */

/* What place k has said to its frames, the record and the word, which is the last. *own: false if another client has
 * changed the word. Returns what is behind them. */
static const dsm_op *written(struct store_commit *m, const dsm_op *ops, struct store_env *e, uint32_t k, bool *own)
{
    const dsm_op *swap = ops;
    uint64_t bit = 1ull << k;
    for (; swap->code == DSM_OP_WRITE; swap++) {
        if (swap->status)
            note(m, swap);
        if (swap->status == -DSM_EUNKNOWN)
            e->dues->unsettled |= bit;
    }
    if (swap->status)
        note(m, swap);
    if (swap->status == -DSM_EUNKNOWN)
        e->words->unsure |= bit;
    if (!swap->status && swap->result == swap->operand)
        e->words->at[k] = swap->desired;
    *own &= swap->status || swap->result == swap->operand;
    return swap + 1;
}

static enum store_next commit(struct store_commit *m, struct store_env *e);

static enum store_next locked(struct store_commit *m, struct store_env *e)
{
    const dsm_op *op = m->ops;
    const struct tx_page *refused = NULL;
    bool own = true;
    for (uint64_t left = m->parts; left; left &= left - 1)
        op = written(m, op, e, (uint32_t)__builtin_ctzll(left), &own);
    for (uint32_t i = 0; i < m->count; i++) {
        struct tx_page *p = &m->pages[i];
        if (!tx_changes(p))
            continue;
        p->now = op->result;
        p->is = op->status == -DSM_EUNKNOWN                ? TX_UNSURE
                : !op->status && op->result == op->operand ? TX_LOCKED
                                                           : TX_OPEN;
        if (op->status)
            note(m, op);
        else if (p->is == TX_OPEN && !refused)
            refused = p;
        op++;
    }
    if (!own) /* what stands there is read before the next record */
        e->words->unsure |= m->parts;
    if (!own)
        return undo(m, e, err_set(DSM_ECORRUPT, 0, "another client uses slot %u of the store", e->slot));
    if (refused)
        return conflict(m, e, refused, refused->now);
    return m->error ? failed(m, e) : validate(m, e);
}

/* ---- pages that were only read ---- */

static bool is_validated(const struct store_commit *m, const struct tx_page *p)
{
    return m->looks ? p->reads : !tx_changes(p);
}

static enum store_next validate(struct store_commit *m, struct store_env *e)
{
    uint32_t n = 0;
    for (; m->at < m->count && n < COMMIT_OPS; m->at++) {
        struct tx_page *p = &m->pages[m->at];
        if (is_validated(m, p))
            m->ops[n++] = store_look_at_head(e, 0, page_number(p->pid), &p->now);
    }
    if (n)
        return post(m, n, COMMIT_VALIDATES);
    return m->changes ? commit(m, e) : end(m, 0);
}

static enum store_next validated(struct store_commit *m, struct store_env *e)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (m->ops[i].status)
            note(m, &m->ops[i]);
    if (m->error)
        return failed(m, e);
    for (uint32_t i = 0; i < m->at; i++)
        if (is_validated(m, &m->pages[i]) && m->pages[i].now != m->pages[i].head)
            return conflict(m, e, &m->pages[i], m->pages[i].now);
    return validate(m, e);
}

/* ---- the commit ---- */

static enum store_next commit(struct store_commit *m, struct store_env *e)
{
    uint32_t n = 0;
    uint64_t prepared = tx_word(e->words->seq, TX_PREPARED), committed = tx_word(e->words->seq, TX_COMMITTED);
    for (uint64_t left = m->parts & ~m->done; left; left &= left - 1) {
        uint32_t k = (uint32_t)__builtin_ctzll(left);
        m->ops[n++] = m->unsure >> k & 1 ? store_look_op(e, k, word_at(e->shape, e->slot), &m->seen[k])
                                         : store_swap_op(e, k, word_at(e->shape, e->slot), prepared, committed);
    }
    return post(m, n, COMMIT_SWAPS);
}

/* Locks of an extent go in the order of the record: while any of them stands, that of the last page does. */
static void keep(const struct store_commit *m, struct store_env *e)
{
    uint64_t kept = 0;
    for (uint32_t i = m->record.n; i--;) {
        uint64_t number = page_number(m->record.of[i].pid), bit = 1ull << extent_of(e->shape, number);
        if (!(kept & bit))
            store_keep(e, number);
        kept |= bit;
    }
}

/* The pages are as they were, or all have the new values: the client that resolves the locks finds out. */
static enum store_next unknown(struct store_commit *m, struct store_env *e, int code)
{
    int cause = m->cause < 0 ? -m->cause : m->cause;
    keep(m, e);
    e->words->unsure |= m->parts;
    return end(m, err_set_op(code, cause ? cause : DSM_EIO, 0, 0,
                             "a transaction; its pages stay locked until the store answers"));
}

static enum store_next try_again(struct store_commit *m, struct store_env *e)
{
    if (++m->tries < TRIES) {
        m->sleep_ns = (int64_t)SLEEP_SHORTEST << m->tries;
        m->step = COMMIT_SLEEPS;
        return STORE_SLEEP;
    }
    return m->done | m->unsure ? unknown(m, e, DSM_EUNKNOWN) : failed(m, e);
}

static enum store_next copy(struct store_commit *m, struct store_env *e);

static enum store_next has_committed(struct store_commit *m, struct store_env *e)
{
    uint32_t n = 0;
    uint64_t prepared = tx_word(e->words->seq, TX_PREPARED), committed = tx_word(e->words->seq, TX_COMMITTED);
    m->error = 0;
    for (uint64_t left = m->parts & ~m->done; left; left &= left - 1) {
        uint64_t bit = left & -left;
        uint32_t k = (uint32_t)__builtin_ctzll(left);
        const dsm_op *op = &m->ops[n++];
        uint64_t word = op->code == DSM_OP_READ ? m->seen[k] : op->result;
        if (op->status) {
            note(m, op);
            m->unsure |= op->status == -DSM_EUNKNOWN && op->code != DSM_OP_READ ? bit : 0;
            continue;
        }
        m->unsure &= ~bit;
        if (word != prepared && word != committed)
            return unknown(m, e, DSM_ECORRUPT);
        if (word == committed || op->code != DSM_OP_READ) {
            m->done |= bit;
            e->words->at[k] = committed;
        }
    }
    if (m->done != m->parts)
        return m->error ? try_again(m, e) : commit(m, e);
    m->tries = 0;
    m->done = 0;
    return copy(m, e);
}

/* ---- afterwards ---- */

static void end_page(struct tx_page *p, struct store_env *e)
{
    store_add_due(e, page_number(p->pid), lock_of(p, e), p->to);
    if (e->hints)
        e->hints[page_number(p->pid)] = (struct store_hint){.version = p->writes ? p->version + 1 : 0,
                                                            .generation = page_generation(p->pid),
                                                            .frame = head_low(p->to),
                                                            .time = (uint16_t)(e->now / 1000000000)};
    if (head_state(p->head) == HEAD_FRAMED)
        frames_put_back(e, extent_of_page(p, e), head_low(p->head));
    p->is = TX_OPEN;
}

/* Locks whose backups have not all changed stay. */
static enum store_next finish(struct store_commit *m, struct store_env *e, bool all)
{
    if (!all)
        keep(m, e);
    for (uint32_t i = 0; i < m->count; i++) {
        struct tx_page *p = &m->pages[i];
        if (tx_changes(p) && all)
            end_page(p, e);
        p->version += tx_changes(p);
    }
    return end(m, 0);
}

static enum store_next copy(struct store_commit *m, struct store_env *e)
{
    uint32_t n = 0;
    for (uint32_t k = 1; k < e->copies; k++)
        for (uint32_t i = 0; i < m->count; i++) {
            const struct tx_page *p = &m->pages[i];
            if (tx_changes(p) && k < copies_of(e, extent_of_page(p, e)))
                m->ops[n++] = store_swap_head(e, k, page_number(p->pid), p->head, p->to);
        }
    return n ? post(m, n, COMMIT_COPIES) : finish(m, e, true);
}

/* The same compare-swap may be sent again: while the lock stands, a backup has the new head, or the one before, or a
 * lock of a change that has lost, or whose unlock is late. */
static enum store_next copied(struct store_commit *m, struct store_env *e)
{
    bool all;
    uint32_t n = replaced(m->ops, m->n, &all);
    if (all && n)
        return post(m, n, COMMIT_COPIES);
    if (all || ++m->tries >= TRIES)
        return finish(m, e, all);
    m->sleep_ns = (int64_t)SLEEP_SHORTEST << m->tries;
    m->done = m->parts;
    m->step = COMMIT_SLEEPS;
    return STORE_SLEEP;
}

enum store_next store_commit_step(struct store_commit *m, struct store_env *e)
{
    store_looked(e, m->ops, m->n);
    switch (m->step) {
    case COMMIT_BEGINS:
        return begin(m, e);
    case COMMIT_ASKS:
        return asked(m, e);
    case COMMIT_LOCKS:
        return locked(m, e);
    case COMMIT_VALIDATES:
        return validated(m, e);
    case COMMIT_SWAPS:
        return has_committed(m, e);
    case COMMIT_COPIES:
        return copied(m, e);
    default:
        return m->done == m->parts ? copy(m, e) : commit(m, e);
    }
}
