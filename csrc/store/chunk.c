/*
 * The frames of a client: 64 of one chunk, which no other client uses as long as the chunk is open. A chunk that was
 * used before is looked through: a frame is free if the page that its header names is not in it. Heads can only leave
 * frames of the chunk meanwhile, since to name one is its owner's.
 */
#include "../base/error.h"
#include "freed.h"

enum { TURN_BYTES = 1 << 18 }; /* of frames that are in turn, at most */

uint32_t frames_take(struct store_frames *f)
{
    if (!f->free)
        return NO_FRAME;
    int i = __builtin_ctzll(f->free);
    f->free &= f->free - 1;
    return f->chunk * PER_CHUNK + (uint32_t)i;
}

static uint32_t take_first_freed(struct store_frames *f)
{
    uint32_t i = f->turn[f->first];
    f->first = (uint8_t)((f->first + 1) % PER_CHUNK);
    f->turns--;
    f->used &= ~(1ull << i);
    f->free &= ~(1ull << i);
    return f->chunk * PER_CHUNK + i;
}

/* At first those that had no page since the chunk was opened; but never so many in turn that they take much room in the
 * caches of the process that has the memory. */
uint32_t frames_take_next(const struct store_env *e, uint32_t extent)
{
    struct store_frames *f = &e->frames[extent];
    uint64_t fresh = f->free & ~f->used;
    if (f->turns && (!fresh || f->turns * (uint64_t)e->shape->page_bytes >= TURN_BYTES))
        return take_first_freed(f);
    if (!fresh)
        return NO_FRAME;
    f->free &= ~(fresh & -fresh);
    return f->chunk * PER_CHUNK + (uint32_t)__builtin_ctzll(fresh);
}

static void is_freed(struct store_frames *f, uint32_t i, bool in_turn)
{
    if (in_turn && !(f->free >> i & 1)) {
        f->turn[(f->first + f->turns++) % PER_CHUNK] = (uint8_t)i;
        f->used |= 1ull << i;
    }
    f->free |= 1ull << i;
}

static void note(const struct store_env *e, uint32_t extent, uint32_t frame)
{
    if (e->freed)
        freed_note(freed_of(e, extent), frame);
}

void frames_put_back(const struct store_env *e, uint32_t extent, uint32_t frame)
{
    struct store_frames *f = &e->frames[extent];
    if (f->word && !f->closing && frame / PER_CHUNK == f->chunk)
        is_freed(f, frame % PER_CHUNK, e->in_turn);
    else
        note(e, extent, frame);
}

void frames_hold(const struct store_env *e, uint32_t extent)
{
    struct store_frames *f = &e->frames[extent];
    struct store_held *h = e->held;
    h->of[h->n].extent = extent;
    h->of[h->n].chunk = f->chunk;
    h->of[h->n++].word = f->word;
    for (; f->free; f->free &= f->free - 1)
        note(e, extent, f->chunk * PER_CHUNK + (uint32_t)__builtin_ctzll(f->free));
    *f = (struct store_frames){.chunk = (f->chunk + 1) % (uint32_t)e->shape->chunks};
}

static bool is_held(const struct store_env *e, uint32_t extent, uint32_t chunk)
{
    for (uint32_t i = 0; e->held && i < e->held->n; i++)
        if (e->held->of[i].extent == extent && e->held->of[i].chunk == chunk)
            return true;
    return false;
}

uint32_t store_held_ops(const struct store_env *e, dsm_op *ops)
{
    const struct store_held *h = e->held;
    for (uint32_t i = 0; i < h->n; i++)
        ops[i] = store_swap_op(e, first_of(e, h->of[i].extent), chunk_at(e->shape, h->of[i].chunk), h->of[i].word,
                               chunk_next(h->of[i].word, 0, CHUNK_CLOSED));
    return h->n;
}

/* One whose answer was lost is sent again; if it has been executed, that has no effect. */
void store_held_done(struct store_env *e, const dsm_op *ops, uint32_t n)
{
    struct store_held *h = e->held;
    uint32_t left = 0;
    for (uint32_t i = 0; i < n; i++)
        if (ops[i].status)
            h->of[left++] = h->of[i];
        else if (e->freed && ops[i].result == ops[i].operand)
            freed_of(e, h->of[i].extent)->of[h->of[i].chunk].word = ops[i].desired;
    h->n = left;
}

static enum store_next end(struct store_chunking *m, int status)
{
    m->status = status;
    return STORE_DONE;
}

static enum store_next post(struct store_chunking *m, uint32_t n, int step)
{
    m->n = n;
    m->step = step;
    return STORE_POST;
}

/* The chunk that is open in the extent. */
static struct store_frames *frames_in(const struct store_chunking *m, const struct store_env *e)
{
    return &e->frames[m->extent];
}

/* ---- which chunk ---- */

/* Besides those that are not open: one that the slot has open, and that this client does not know. The answer was lost
 * when it was opened, or one of its frames was in doubt; the READ of the word has settled both. */
static bool may_open(const struct store_chunking *m, const struct store_env *e, uint64_t word, uint32_t chunk)
{
    return chunk_state(word) != CHUNK_OPEN || (chunk_owner(word) == e->slot + 1 && !is_held(e, m->extent, chunk));
}

static void look(struct store_chunking *m, const struct store_env *e, uint32_t at, uint32_t most, dsm_op *op)
{
    uint64_t left = e->shape->chunks - at;
    m->got = left < most ? (uint32_t)left : most;
    m->at = at;
    m->in = 0;
    *op = store_read_op(e, first_of(e, m->extent), chunk_at(e->shape, at), m->words, 8 * (uint64_t)m->got);
}

/* Whether all heads are to be read before other chunks are looked at. */
static bool wants_survey(const struct store_chunking *m, const struct store_env *e)
{
    const struct store_freed *g = freed_of(e, m->extent);
    return g && !m->surveyed && freed_is_poor(g, e->survey_costs);
}

/* The op that looks at the next chunks. Those that may have free frames go first, but each only once; and then all in
 * their order, before there is said to be none; or none of these, when all heads were read. False: another step is due.
 */
static bool look_on(struct store_chunking *m, struct store_env *e, dsm_op *op)
{
    struct store_freed *g = freed_of(e, m->extent);
    if (wants_survey(m, e))
        return false;
    uint32_t chunk = g ? freed_next(g, (uint32_t)e->shape->chunks, m->next, m->vain || m->surveyed) : NO_CHUNK;
    m->guesses = chunk != NO_CHUNK;
    if (!m->guesses && (m->looked > 2 * e->shape->chunks || (m->surveyed && !m->whole)))
        return false;
    look(m, e, m->guesses ? chunk : m->next, m->guesses ? 1 : PER_CHUNK, op);
    return true;
}

static enum store_next search(struct store_chunking *m, struct store_env *e);

/* Reads all heads, which name the frames that are not free, and then all words, which say what is open. */
static enum store_next survey(struct store_chunking *m, struct store_env *e)
{
    uint64_t pages = e->shape->pages, end = m->surveyed < pages ? pages : pages + e->shape->chunks;
    uint64_t at = m->surveyed < pages ? head_at(e->shape, m->surveyed) : chunk_at(e->shape, m->surveyed - pages);
    m->got = end - m->surveyed < e->survey_words ? (uint32_t)(end - m->surveyed) : e->survey_words;
    m->ops[0] = store_read_op(e, first_of(e, m->extent), at, e->survey, 8 * (uint64_t)m->got);
    return post(m, 1, CHUNK_SURVEYS);
}

static enum store_next surveyed(struct store_chunking *m, struct store_env *e)
{
    struct store_freed *g = freed_of(e, m->extent);
    uint32_t chunks = (uint32_t)e->shape->chunks;
    for (uint32_t i = 0; i < m->got; i++, m->surveyed++) {
        uint32_t chunk = (uint32_t)(m->surveyed - e->shape->pages);
        if (m->surveyed < e->shape->pages)
            freed_is_named(g, chunks, e->survey[i]);
        else if (!may_open(m, e, e->survey[i], chunk))
            freed_is_open(g, chunk);
    }
    if (m->surveyed < e->shape->pages + chunks)
        return survey(m, e);
    freed_surveyed(g, chunks, true);
    return search(m, e);
}

static enum store_next search(struct store_chunking *m, struct store_env *e)
{
    if (look_on(m, e, &m->ops[0]))
        return post(m, 1, CHUNK_LOOKS);
    if (!wants_survey(m, e)) /* other clients have opened every one that was found to be closed */
        return end(m, err_set(DSM_EBUSY, 0,
                              "no frame is free: transactions of this and of other clients have them, or clients that "
                              "are not proven dead; change fewer pages at once, or try again"));
    freed_survey(freed_of(e, m->extent), (uint32_t)e->shape->chunks);
    return survey(m, e);
}

/* The chunk can't be opened now. What is free in one that is held is known when that is closed. */
static void pass(struct store_chunking *m, const struct store_env *e, uint32_t chunk)
{
    if (!m->guesses)
        m->looked++;
    else if (is_held(e, m->extent, chunk))
        freed_is_open(freed_of(e, m->extent), chunk);
    else
        freed_forget(freed_of(e, m->extent), chunk);
}

/* Tries the next chunk of the words at hand; behind the last of them it looks on. */
static enum store_next try(struct store_chunking *m, struct store_env *e)
{
    for (; m->in < m->got; m->in++) {
        uint64_t word = m->words[m->in], offset = chunk_at(e->shape, m->at + m->in);
        if (may_open(m, e, word, m->at + m->in)) {
            frames_in(m, e)->chunk = m->at + m->in;
            m->ops[0] =
                store_swap_op(e, first_of(e, m->extent), offset, word, chunk_next(word, e->slot + 1, CHUNK_OPEN));
            return post(m, 1, CHUNK_SWAPS);
        }
        pass(m, e, m->at + m->in);
    }
    if (!m->guesses)
        m->next = (m->at + m->got) % (uint32_t)e->shape->chunks;
    return search(m, e);
}

/* ---- the one before ---- */

/* Whatever is answered, no frame of the chunk is used from now on. In the same posting the next ones are looked at. */
static enum store_next close_it(struct store_chunking *m, struct store_env *e)
{
    struct store_frames *f = frames_in(m, e);
    f->closing = true;
    f->free = f->used = 0;
    f->turns = 0;
    if (!m->guesses) {
        m->next = (f->chunk + 1) % (uint32_t)e->shape->chunks;
        m->looked++;
    }
    m->ops[0] = store_swap_op(e, first_of(e, m->extent), chunk_at(e->shape, f->chunk), f->word,
                              chunk_next(f->word, 0, CHUNK_CLOSED));
    return post(m, look_on(m, e, &m->ops[1]) ? 2 : 1, CHUNK_CLOSES);
}

/* No WRITE of one of its frames may be under way then, to any copy of the extent. */
static enum store_next give_up(struct store_chunking *m, struct store_env *e)
{
    uint32_t n = 0, first = first_of(e, m->extent);
    for (uint32_t k = 0; e->dues && k < copies_of(e, m->extent); k++)
        if (e->dues->unsettled >> (first + k) & 1)
            m->ops[n++] = store_read_op(e, first + k, slot_at(e->slot), &m->heads[k], 8);
    return n ? post(m, n, CHUNK_SETTLES) : close_it(m, e);
}

/* It is given up, also by an answer that was lost: no other client can open it before it is closed. */
static enum store_next closed(struct store_chunking *m, struct store_env *e)
{
    struct store_frames *f = frames_in(m, e);
    if (e->freed && m->ops[0].result == f->word)
        freed_of(e, m->extent)->of[f->chunk].word = m->ops[0].desired;
    *f = (struct store_frames){.chunk = m->next};
    return m->n > 1 ? try(m, e) : search(m, e);
}

/* ---- its frames ---- */

/* Of those that may be free. */
static enum store_next read_pids(struct store_chunking *m, const struct store_env *e)
{
    uint64_t first = (uint64_t)frames_in(m, e)->chunk * PER_CHUNK;
    uint32_t n = 0;
    for (uint64_t left = m->maybe; left; left &= left - 1) {
        uint32_t i = (uint32_t)__builtin_ctzll(left);
        m->ops[n++] =
            store_read_op(e, first_of(e, m->extent), frame_at(e->shape, first + i), &m->frames[i], sizeof m->frames[i]);
    }
    return post(m, n, CHUNK_FRAMES);
}

/* A frame that was never written, or whose id is damaged, is of no page. */
static bool is_of_page(const struct store_chunking *m, const struct store_env *e, uint32_t i)
{
    uint64_t pid = m->frames[i].pid, number = page_number(pid);
    return page_generation(pid) && number < store_pages(e->shape) && extent_of(e->shape, number) == m->extent;
}

/* Of the pages whose ids stand in the frames. */
static enum store_next read_heads(struct store_chunking *m, const struct store_env *e)
{
    uint32_t n = 0;
    for (uint64_t left = m->maybe; left; left &= left - 1) {
        uint32_t i = (uint32_t)__builtin_ctzll(left);
        uint64_t number = is_of_page(m, e, i) ? page_number(m->frames[i].pid) : m->extent;
        m->ops[n++] = store_look_at_head(e, 0, number, &m->heads[i]);
    }
    return post(m, n, CHUNK_HEADS);
}

/* The client has it, with a free frame. */
static enum store_next is_open(struct store_chunking *m, struct store_env *e)
{
    struct store_freed *g = freed_of(e, m->extent);
    if (g)
        freed_found(g, (uint32_t)__builtin_popcountll(frames_in(m, e)->free), !m->guesses);
    return end(m, 0);
}

/* Behind a lock is the version that the page had, and the one that it is to have, which is in a frame already. */
static bool may_be_named(const struct store_chunking *m, const struct store_env *e, uint32_t frame, uint32_t i)
{
    uint64_t head = m->heads[i];
    if (head_locked(head))
        return is_of_page(m, e, i) && ((m->frames[i].version - head_version(head)) & LOW28) <= 1;
    return head_state(head) == HEAD_FRAMED && head_low(head) == frame;
}

static enum store_next find_free(struct store_chunking *m, struct store_env *e)
{
    struct store_frames *f = frames_in(m, e);
    for (uint64_t left = m->maybe; left; left &= left - 1) {
        uint32_t i = (uint32_t)__builtin_ctzll(left);
        if (!may_be_named(m, e, f->chunk * PER_CHUNK + i, i))
            f->free |= 1ull << i;
    }
    if (f->free)
        return is_open(m, e);
    m->vain = true;
    if (freed_of(e, m->extent))
        freed_found(freed_of(e, m->extent), 0, !m->guesses);
    return give_up(m, e);
}

/* ---- steps ---- */

static enum store_next opened(struct store_chunking *m, struct store_env *e)
{
    uint64_t from = m->words[m->in];
    struct store_frames *f = frames_in(m, e);
    struct store_freed *g = freed_of(e, m->extent);
    uint32_t chunk = f->chunk;
    if (m->ops[0].result != from) { /* another client was faster */
        pass(m, e, chunk);
        m->in++;
        return try(m, e);
    }
    *f = (struct store_frames){.word = m->ops[0].desired, .chunk = chunk, .since = e->now};
    f->free = chunk_state(from) == CHUNK_FREE ? ~0ull : g ? freed_known(g, chunk, from) : 0;
    m->maybe = m->guesses && g->of[chunk].guess ? g->of[chunk].guess : ~0ull;
    if (g)
        freed_forget(g, chunk);
    return f->free ? is_open(m, e) : read_pids(m, e);
}

/* A lock of this client may stand at a backup alone, and stand for a frame that no head names. */
static bool keeps_any(const struct store_env *e, uint32_t extent)
{
    for (uint32_t i = 0; e->dues && i < e->dues->n_kept; i++)
        if (extent_of(e->shape, e->dues->pages[i]) == extent)
            return copies_of(e, extent) > 1;
    return false;
}

/* A chunk in doubt, or one whose opening got no answer, is the first that is looked at: a slot has one open. */
static enum store_next begin(struct store_chunking *m, struct store_env *e)
{
    struct store_frames *f = frames_in(m, e);
    if (f->doubt && keeps_any(e, m->extent))
        return end(m, err_set(DSM_EBUSY, 0, "what has become of an earlier change is not known yet; try again"));
    if (f->word && !f->doubt)
        return give_up(m, e);
    m->next = f->chunk % (uint32_t)e->shape->chunks;
    *f = (struct store_frames){.chunk = m->next};
    look(m, e, m->next, PER_CHUNK, &m->ops[0]);
    return post(m, 1, CHUNK_LOOKS);
}

static enum store_next failed(struct store_chunking *m, const struct store_env *e, int status)
{
    if (m->step == CHUNK_SURVEYS)
        freed_surveyed(freed_of(e, m->extent), (uint32_t)e->shape->chunks, false);
    return end(m, status);
}

enum store_next store_open_chunk_step(struct store_chunking *m, struct store_env *e)
{
    if (m->step == CHUNK_BEGINS)
        return begin(m, e);
    store_looked(e, m->ops, m->n);
    for (uint32_t i = 0; i < m->n; i++)
        if (m->ops[i].status)
            return failed(m, e, m->ops[i].status);
    switch (m->step) {
    case CHUNK_SETTLES:
        e->dues->unsettled &= ~places_of(e, m->extent);
        return close_it(m, e);
    case CHUNK_CLOSES:
        return closed(m, e);
    case CHUNK_LOOKS:
        return try(m, e);
    case CHUNK_SURVEYS:
        return surveyed(m, e);
    case CHUNK_SWAPS:
        return opened(m, e);
    case CHUNK_FRAMES:
        return read_heads(m, e);
    default:
        return find_free(m, e);
    }
}
