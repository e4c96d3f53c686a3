/*
 * Recovery: transactions first, whose words say what becomes of their locks; then the heads, which are made equal; then
 * what the clients of before had, chunks and slots, is taken from them; and at last the copies say which epoch they
 * belong to. Each of these steps is done for all extents before the next one begins. The words of a transaction at all
 * copies of all extents are one decision, and agree before the first of its pages changes in any of them: a copy that
 * is lost later may be the one that has said 'committed'.
 */
#include "recover.h"

#include "../base/error.h"
#include "resolve.h"

static const uint64_t zeros[2048];

static enum store_next end(struct store_recovery *m, int status)
{
    m->status = status;
    return STORE_DONE;
}

static enum store_next post(struct store_recovery *m, uint32_t n, int step)
{
    m->n = n;
    m->step = step;
    return STORE_POST;
}

static uint64_t some_of(uint64_t all, uint64_t at) { return all - at < RECOVER_WORDS ? all - at : RECOVER_WORDS; }

/* The same words at the first copies of the extent, from m->at on. */
static enum store_next read_words(struct store_recovery *m, const struct store_env *e, uint64_t first, uint64_t all,
                                  uint32_t copies, int step)
{
    m->got = some_of(all, m->at);
    m->in = 0;
    for (uint32_t k = 0; k < copies; k++)
        m->ops[k] = store_read_op(e, first_of(e, m->extent) + k, first + 8 * m->at, m->words[k], 8 * m->got);
    return post(m, copies, step);
}

static enum store_next read_heads(struct store_recovery *m, const struct store_env *e)
{
    uint32_t copies = copies_of(e, m->extent);
    return read_words(m, e, head_at(e->shape, 0), e->shape->pages, copies, RECOVER_READS_HEADS);
}

/* ---- transactions ---- */

static enum store_next read_said(struct store_recovery *m, const struct store_env *e)
{
    uint32_t n = store_places(e);
    for (uint32_t k = 0; k < n; k++)
        m->ops[k] = store_read_op(e, k, word_at(e->shape, 0), m->said[k], 8ull * e->shape->slots);
    return post(m, n, RECOVER_READS_WORDS);
}

/* Of all extents: one in which the last transaction does not take part has an older number. */
static uint64_t last_of(const struct store_recovery *m, const struct store_env *e)
{
    uint64_t seq = 0;
    for (uint32_t k = 0; k < store_places(e); k++)
        if (tx_seq(m->said[k][m->slot]) > seq)
            seq = tx_seq(m->said[k][m->slot]);
    return seq;
}

static enum store_next next_slot(struct store_recovery *m, const struct store_env *e)
{
    uint32_t n = store_places(e);
    while (m->slot < e->shape->slots && !last_of(m, e))
        m->slot++;
    if (m->slot == e->shape->slots)
        return read_heads(m, e);
    for (uint32_t k = 0; k < n; k++)
        m->ops[k] = store_read_op(e, k, record_at(e->shape, m->slot), &m->records[k], sizeof m->records[k]);
    return post(m, n, RECOVER_READS_RECORD);
}

static bool is_of(const struct tx_record *r, uint64_t seq, const struct store_env *e)
{
    if (!record_is_whole(r) || r->seq != seq)
        return false;
    for (uint32_t i = 0; i < r->n; i++)
        if (page_number(r->of[i].pid) >= store_pages(e->shape))
            return false;
    return true;
}

static enum store_next read_pages(struct store_recovery *m, const struct store_env *e)
{
    uint32_t n = 0;
    if (!m->record) {
        m->slot++;
        return next_slot(m, e);
    }
    for (uint32_t i = 0; i < m->record->n; i++) {
        uint64_t number = page_number(m->record->of[i].pid), offset = head_of_page_at(e->shape, number);
        for (uint32_t k = 0; k < copies_of_page(e, number); k++)
            m->ops[n++] = store_read_op(e, place_of(e, number, k), offset, &m->heads[k][i], 8);
    }
    return post(m, n, RECOVER_READS_PAGES);
}

/* Each place that the transaction has reached has its number, and its record, which was written before. A record
 * without the number may be of a client of before that has died between the two: then another one has the same number
 * since, and need not take part there. One that has none of its record any more has a later number: the client begins
 * the next transaction when nothing is left of this one, in any extent. */
static enum store_next agree(struct store_recovery *m, const struct store_env *e)
{
    uint64_t seq = last_of(m, e), word;
    uint32_t n = 0;
    m->record = NULL;
    m->commits = false;
    for (uint32_t k = 0; k < store_places(e); k++) {
        m->commits |= m->said[k][m->slot] == tx_word(seq, TX_COMMITTED);
        if (!m->record && tx_seq(m->said[k][m->slot]) == seq && is_of(&m->records[k], seq, e))
            m->record = &m->records[k];
    }
    word = tx_word(seq, m->commits ? TX_COMMITTED : TX_ABORTED);
    for (uint32_t k = 0; k < store_places(e); k++)
        if (tx_seq(m->said[k][m->slot]) == seq && m->said[k][m->slot] != word)
            m->ops[n++] = store_swap_op(e, k, word_at(e->shape, m->slot), m->said[k][m->slot], word);
    m->done.committed += n && m->commits;
    m->done.given_up += n && !m->commits;
    return n ? post(m, n, RECOVER_AGREES) : read_pages(m, e);
}

static enum store_next set_pages(struct store_recovery *m, const struct store_env *e)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->record->n; i++) {
        const struct tx_change *c = &m->record->of[i];
        uint64_t lock = head_transaction_lock(c->from, m->slot, m->record->mark), to = m->commits ? c->to : c->from;
        for (uint32_t k = 0; k < copies_of_page(e, page_number(c->pid)); k++) {
            uint64_t head = m->heads[k][i];
            bool gives = head == c->from || (head_locked(head) && gives_way(head, to));
            if (head == lock || (m->commits && gives))
                m->ops[n++] = store_swap_head(e, k, page_number(c->pid), head, to);
        }
    }
    m->slot++;
    return n ? post(m, n, RECOVER_SETS_PAGES) : next_slot(m, e);
}

/* ---- heads ---- */

static uint64_t number_of(const struct store_recovery *m, const struct store_env *e, uint32_t in)
{
    return number_at(e->shape, m->extent, m->at + in);
}

static enum store_next contradict(struct store_recovery *m, const struct store_env *e, uint32_t in)
{
    return end(m, err_set(DSM_ECORRUPT, 0, "the copies of page number %llu contradict each other",
                          (unsigned long long)number_of(m, e, in)));
}

/* Which of the intents at hand are those of a slot; as many as there are: none. */
static uint32_t row_of(const struct store_recovery *m, uint32_t k, uint32_t slot)
{
    uint32_t row = 0;
    while (row < m->rows[k] && m->lockers[k][row] != slot)
        row++;
    return row;
}

/* What a copy may have: what it has, or what its lock stands for; and what was there before, as the intent or the frame
 * says. 0: neither does. */
struct offer {
    uint64_t after, before;
};

/* Of page i of those that differ. */
static bool offer_of(const struct store_recovery *m, const struct store_env *e, uint32_t k, uint32_t i, struct offer *o)
{
    uint64_t head = m->words[k][m->which[i]], number = number_of(m, e, m->which[i]);
    const struct store_intent *intent = NULL;
    if (head_locked(head))
        intent = intent_of(m->intents[k][row_of(m, k, head_locker(head))], number, head);
    *o = (struct offer){.after = head};
    if (intent)
        *o = (struct offer){.after = intent->to, .before = intent->from};
    else if (head_state(head) == HEAD_FRAMED && frame_fits(&m->headers[k][i], number, head))
        o->before = m->headers[k][i].before;
    return intent || !head_locked(head);
}

/* Some have different changes of one version, of which none was at all copies: what was there before. */
static bool go_back(const struct offer *of, uint32_t copies, uint64_t latest, uint64_t *to)
{
    *to = 0;
    for (uint32_t k = 0; k < copies; k++) {
        if (versions_ahead(of[k].after, latest) || (of[k].before && *to && of[k].before != *to))
            return false;
        *to = of[k].before ? of[k].before : *to;
    }
    return *to != 0;
}

/* What page i becomes: the latest head that all copies may have. An acknowledged one has been at all, and none has gone
 * back behind it. Copies differ by one change. False: they contradict each other. */
static bool choose(const struct store_recovery *m, const struct store_env *e, uint32_t i, uint64_t *to)
{
    struct offer of[STORE_COPIES_MOST] = {0};
    uint32_t copies = copies_of(e, m->extent), least = 0;
    bool agree = true;
    for (uint32_t k = 0; k < copies; k++) {
        if (!offer_of(m, e, k, i, &of[k]))
            return false;
        least = versions_ahead(of[least].after, of[k].after) > 0 ? k : least;
    }
    *to = of[least].after;
    for (uint32_t k = 0; k < copies; k++)
        agree &= of[k].after == *to || versions_ahead(of[k].after, *to) == 1;
    for (uint32_t k = 0; k < copies && agree; k++)
        if (of[k].after != *to && of[k].before && of[k].before != *to)
            return false;
    return agree || go_back(of, copies, *to, to);
}

/* Whether the copies have the same head. Otherwise it is looked at what their last changes were. */
static bool is_equal(const struct store_recovery *m, const struct store_env *e)
{
    bool equal = !head_locked(m->words[0][m->in]);
    for (uint32_t k = 1; k < copies_of(e, m->extent); k++)
        equal &= m->words[k][m->in] == m->words[0][m->in];
    return equal;
}

/* Whether there is room for the intents of all that have locked the page. */
static bool has_room(const struct store_recovery *m, const struct store_env *e)
{
    for (uint32_t k = 0; k < copies_of(e, m->extent); k++) {
        uint64_t head = m->words[k][m->in];
        if (head_locked(head) && row_of(m, k, head_locker(head)) == RECOVER_ROWS)
            return false;
    }
    return m->differ < RECOVER_PAGES;
}

static void ask_header(struct store_recovery *m, const struct store_env *e, uint32_t k, uint64_t head)
{
    struct frame_header *header = &m->headers[k][m->differ];
    *header = (struct frame_header){0};
    if (head_state(head) == HEAD_FRAMED && head_low(head) < frames_of(e->shape))
        m->ops[m->n++] =
            store_read_op(e, first_of(e, m->extent) + k, frame_at(e->shape, head_low(head)), header, sizeof *header);
}

static void ask_intents(struct store_recovery *m, const struct store_env *e, uint32_t k, uint32_t slot)
{
    uint32_t row = row_of(m, k, slot);
    if (row < m->rows[k])
        return;
    m->lockers[k][m->rows[k]++] = slot;
    m->ops[m->n++] = store_read_op(e, first_of(e, m->extent) + k, intents_at(e->shape, slot), m->intents[k][row],
                                   sizeof m->intents[k][row]);
}

/* What was the last change of the page at each copy. False: no such lock can be there. */
static bool ask_changes(struct store_recovery *m, const struct store_env *e)
{
    for (uint32_t k = 0; k < copies_of(e, m->extent); k++) {
        uint64_t head = m->words[k][m->in];
        ask_header(m, e, k, head);
        if (!head_locked(head))
            continue;
        if (e->shape->copies == 1 || head_in_transaction(head) || head_locker(head) >= e->shape->slots)
            return false;
        ask_intents(m, e, k, head_locker(head));
    }
    m->which[m->differ++] = m->in;
    return true;
}

static void count(struct store_recovery *m, uint64_t lock, uint64_t to)
{
    if (!head_locked(lock))
        m->done.differing++;
    else if (head_version(to) == head_version(lock))
        m->done.back++;
    else
        m->done.forward++;
}

/* Adds the ops that make page i 'to' at all copies. */
static void set_page(struct store_recovery *m, const struct store_env *e, uint32_t i, uint64_t to)
{
    uint32_t in = m->which[i];
    uint64_t lock = m->words[0][in];
    for (uint32_t k = 0; k < copies_of(e, m->extent); k++) {
        uint64_t head = m->words[k][in];
        lock = head_locked(head) ? head : lock;
        if (head != to)
            m->ops[m->n++] = store_swap_head(e, k, number_of(m, e, in), head, to);
    }
    count(m, lock, to);
}

static enum store_next read_chunks(struct store_recovery *m, const struct store_env *e);

/* Behind the heads at hand. */
static enum store_next next_heads(struct store_recovery *m, const struct store_env *e)
{
    m->at += m->got;
    if (m->at < e->shape->pages)
        return read_heads(m, e);
    m->at = 0;
    if (++m->extent < e->shape->extents)
        return read_heads(m, e);
    m->extent = 0;
    return read_chunks(m, e);
}

/* The next pages whose copies differ, as many as there is room for. */
static enum store_next set_heads(struct store_recovery *m, const struct store_env *e)
{
    m->n = m->differ = 0;
    memset(m->rows, 0, sizeof m->rows);
    for (; m->in < m->got; m->in++) {
        if (is_equal(m, e))
            continue;
        if (!has_room(m, e))
            break;
        if (!ask_changes(m, e))
            return contradict(m, e, m->in);
    }
    return m->differ ? post(m, m->n, RECOVER_READS_CHANGES) : next_heads(m, e);
}

/* A page has at least one op: its copies differ, or are locked. */
static enum store_next set_all(struct store_recovery *m, const struct store_env *e)
{
    uint64_t to = 0;
    m->n = 0;
    for (uint32_t i = 0; i < m->differ; i++) {
        if (!choose(m, e, i, &to))
            return contradict(m, e, m->which[i]);
        set_page(m, e, i, to);
    }
    return post(m, m->n, RECOVER_SETS_HEADS);
}

/* ---- what clients had ---- */

static enum store_next read_chunks(struct store_recovery *m, const struct store_env *e)
{
    return read_words(m, e, chunk_at(e->shape, 0), e->shape->chunks, 1, RECOVER_READS_CHUNKS);
}

/* A backup has never kept them, so one that says that its frames were never used may be wrong. */
static enum store_next close_chunks(struct store_recovery *m, const struct store_env *e)
{
    for (uint64_t i = 0; i < m->got; i++)
        m->words[0][i] = chunk_next(m->words[0][i], 0, CHUNK_CLOSED);
    m->ops[0] = store_read_op(e, first_of(e, m->extent), chunk_at(e->shape, m->at), m->words[0], 8 * m->got);
    m->ops[0].code = DSM_OP_WRITE;
    return post(m, 1, RECOVER_CLOSES_CHUNKS);
}

static uint32_t clear(struct store_recovery *m, const struct store_env *e, uint32_t n, uint64_t from, uint64_t to)
{
    uint64_t nbytes = to - from < sizeof zeros ? to - from : sizeof zeros;
    uint32_t first = first_of(e, m->extent);
    for (uint32_t k = first; k < first + copies_of(e, m->extent); k++) {
        m->ops[n] = store_read_op(e, k, from, (void *)(uintptr_t)zeros, nbytes);
        m->ops[n++].code = DSM_OP_WRITE;
    }
    return n;
}

static enum store_next read_state(struct store_recovery *m, const struct store_env *e)
{
    uint32_t n = store_places(e);
    for (uint32_t k = 0; k < n; k++)
        m->ops[k] = store_read_op(e, k, STORE_COMPLETE, m->states[k], sizeof m->states[k]);
    return post(m, n, RECOVER_READS_STATE);
}

/* Slots, and then the intents from m->at on: no lock is left that needs them, and marks of other nodes may be equal. */
static enum store_next clear_more(struct store_recovery *m, const struct store_env *e)
{
    uint64_t from = m->at ? m->at : e->shape->intents, to = intents_at(e->shape, e->shape->slots);
    uint32_t n = m->at ? 0 : clear(m, e, 0, slot_at(0), slot_at(e->shape->slots));
    to = e->shape->copies > 1 ? to : from; /* others have none */
    while (from < to && n + copies_of(e, m->extent) <= RECOVER_OPS / 8) {
        n = clear(m, e, n, from, to);
        from += sizeof zeros;
    }
    m->at = from;
    if (n)
        return post(m, n, RECOVER_CLEARS);
    m->at = 0;
    return ++m->extent < e->shape->extents ? read_chunks(m, e) : read_state(m, e);
}

/* ---- the header ---- */

/* The epoch last: a copy that has it is recovered, and all others are, of each extent. */
static enum store_next open(struct store_recovery *m, const struct store_env *e)
{
    uint64_t next[3] = {DSM_STORE_WHOLE, 0, m->epoch};
    static const uint32_t is[3] = {0, 2, 1}; /* among the words that were read */
    uint32_t n = 0, extent = 0;
    for (uint32_t k = 0; k < store_places(e); k++) {
        extent += k == first_of(e, extent + 1);
        next[1] = m->members[extent];
        for (uint32_t i = 0; i < 3; i++)
            if (m->states[k][is[i]] != next[i])
                m->ops[n++] = store_swap_op(e, k, STORE_COMPLETE + 8 * is[i], m->states[k][is[i]], next[i]);
    }
    return n ? post(m, n, RECOVER_OPENS) : end(m, 0);
}

/* ---- steps ---- */

/* One whose answer was lost was sent again. */
static bool are_done(const struct store_recovery *m, int *status)
{
    for (uint32_t i = 0; i < m->n; i++) {
        const dsm_op *op = &m->ops[i];
        *status = op->status;
        if (!*status && op->code == DSM_OP_COMPARE_SWAP && op->result != op->operand && op->result != op->desired)
            *status = err_set(DSM_ECORRUPT, 0, "another process changes a copy of the store during its recovery");
        if (*status)
            return false;
    }
    return true;
}

enum store_next store_recovery_step(struct store_recovery *m, const struct store_env *e)
{
    int status = 0;
    if (m->step == RECOVER_BEGINS)
        return read_said(m, e);
    if (!are_done(m, &status))
        return end(m, status);
    switch (m->step) {
    case RECOVER_READS_WORDS:
    case RECOVER_SETS_PAGES:
        return next_slot(m, e);
    case RECOVER_READS_RECORD:
        return agree(m, e);
    case RECOVER_AGREES:
        return read_pages(m, e);
    case RECOVER_READS_PAGES:
        return set_pages(m, e);
    case RECOVER_READS_HEADS:
    case RECOVER_SETS_HEADS:
        return set_heads(m, e);
    case RECOVER_READS_CHANGES:
        return set_all(m, e);
    case RECOVER_READS_CHUNKS:
        return close_chunks(m, e);
    case RECOVER_CLOSES_CHUNKS:
        m->at += m->got;
        if (m->at < e->shape->chunks)
            return read_chunks(m, e);
        m->at = 0;
        return clear_more(m, e);
    case RECOVER_CLEARS:
        return clear_more(m, e);
    case RECOVER_READS_STATE:
        return open(m, e);
    default:
        return end(m, 0);
    }
}
