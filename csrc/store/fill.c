/*
 * Rounds over all pages: those whose head is another one than the last time are copied, each to the frame of the same
 * number. A frame that a head names does not change, and no head comes twice. So the copy of a page is right at the end
 * if its head is then the one that it was copied for, whatever has happened in between.
 */
#include "fill.h"

#include "../base/error.h"

static enum store_next end(struct store_fill *m, int status)
{
    m->status = status;
    m->step = FILL_BEGINS;
    m->bytes = 0;
    return STORE_DONE;
}

static enum store_next post(struct store_fill *m, uint32_t n, int step)
{
    m->n = n;
    m->step = step;
    return STORE_POST;
}

static dsm_op op_on(dsm_remote *r, uint8_t code, uint64_t offset, void *local, uint64_t nbytes)
{
    return (dsm_op){.remote = r, .code = code, .offset = offset, .local = local, .nbytes = nbytes};
}

/* Of the page at an index of the extent. */
static uint64_t number_of(const struct store_fill *m, uint64_t index)
{
    return number_at(m->shape, m->shape->extent, index);
}

static uint64_t frame_bytes(const struct store_fill *m) { return sizeof(struct frame_header) + m->shape->page_bytes; }

static uint8_t *room_of(const struct store_fill *m, uint32_t i) { return m->frames + i * frame_bytes(m); }

static enum store_next read_words(struct store_fill *m, uint64_t first, uint64_t all, int step)
{
    m->got = all - m->at < m->batch ? all - m->at : m->batch;
    m->in = 0;
    m->ops[0] = op_on(m->from, DSM_OP_READ, first + 8 * m->at, m->heads, 8 * m->got);
    return post(m, 1, step);
}

static enum store_next write_words(struct store_fill *m, uint64_t first, int step)
{
    m->ops[0] = op_on(m->to, DSM_OP_WRITE, first + 8 * m->at, m->heads, 8 * m->got);
    return post(m, 1, step);
}

static enum store_next read_heads(struct store_fill *m)
{
    return read_words(m, head_at(m->shape, 0), m->shape->pages, FILL_READS);
}

/* ---- a window of pages ---- */

/* Where a READ may mix, the head is looked at on the way to the frame: what a mixture names may be a frame that no head
 * has named yet, and that is written again before one does. */
static enum store_next read_frames(struct store_fill *m)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->taken; i++) {
        uint64_t frame = frame_at(m->shape, head_low(m->of[i].head));
        if (m->mixes && !m->last)
            m->ops[n++] = op_on(m->from, DSM_OP_COMPARE_SWAP, head_at(m->shape, m->of[i].index), &m->of[i].again, 8);
        m->ops[n++] = op_on(m->from, DSM_OP_READ, frame, room_of(m, i), frame_bytes(m));
    }
    return post(m, n, FILL_FRAMES);
}

static enum store_next next_heads(struct store_fill *m);

/* A page without a frame is its head. */
static enum store_next next_window(struct store_fill *m)
{
    m->taken = 0;
    for (; m->in < m->got && m->taken < m->window; m->in++) {
        uint64_t index = m->at + m->in, head = m->heads[m->in];
        bool framed = head_state(head) == HEAD_FRAMED;
        if (head == m->seen[index])
            continue;
        if (m->last && (head_locked(head) || (framed && head_low(head) >= frames_of(m->shape))))
            return end(m, err_set(DSM_ECORRUPT, 0, "page number %llu has a head that no recovery leaves",
                                  (unsigned long long)number_of(m, index)));
        if (head_locked(head) || (framed && head_low(head) >= frames_of(m->shape)))
            m->left++;
        else if (framed)
            m->of[m->taken++] = (typeof(*m->of)){.index = index, .head = head, .again = head};
        else
            m->seen[index] = head;
    }
    return m->taken ? read_frames(m) : next_heads(m);
}

/* Whether these bytes are the page that the head names. Otherwise the page has changed since the head was read, and
 * need not be copied for it; or it is damaged. */
static bool is_whole(const struct store_fill *m, uint32_t i)
{
    struct frame_header h;
    const uint8_t *bytes = room_of(m, i);
    memcpy(&h, bytes, sizeof h);
    return m->of[i].again == m->of[i].head && frame_fits(&h, number_of(m, m->of[i].index), m->of[i].head) &&
           frame_holds(&h, bytes + sizeof h, m->shape->page_bytes);
}

static enum store_next copied(struct store_fill *m)
{
    for (uint32_t i = 0; i < m->taken; i++)
        if (m->of[i].whole) {
            m->seen[m->of[i].index] = m->of[i].head;
            m->bytes += frame_bytes(m);
            m->copied++;
        }
    if (m->last || m->bytes < m->most)
        return next_window(m);
    m->at += m->in; /* the other heads are read again */
    m->over = m->at == m->shape->pages;
    if (m->over)
        m->at = 0;
    return end(m, 0);
}

/* A page that is damaged stays so at the new copy, where a read finds it out, too. */
static enum store_next copy_frames(struct store_fill *m)
{
    uint32_t n = 0;
    for (uint32_t i = 0; m->mixes && !m->last && i < m->taken; i++)
        m->of[i].again = m->ops[2 * i].result;
    for (uint32_t i = 0; i < m->taken; i++) {
        bool whole = is_whole(m, i);
        m->of[i].whole = whole || m->last;
        m->damaged += m->last && !whole;
        m->left += !m->of[i].whole;
        if (m->of[i].whole)
            m->ops[n++] =
                op_on(m->to, DSM_OP_WRITE, frame_at(m->shape, head_low(m->of[i].head)), room_of(m, i), frame_bytes(m));
    }
    return n ? post(m, n, FILL_COPIES) : next_window(m);
}

/* ---- steps ---- */

static enum store_next read_more_words(struct store_fill *m)
{
    if (m->at < m->shape->slots)
        return read_words(m, word_at(m->shape, 0), m->shape->slots, FILL_WORDS);
    m->at = 0;
    m->over = true;
    return end(m, 0);
}

static enum store_next more_heads(struct store_fill *m)
{
    m->at += m->got;
    m->got = m->in = 0;
    if (m->at < m->shape->pages)
        return read_heads(m);
    m->at = 0;
    if (m->last)
        return read_more_words(m);
    m->over = true;
    return end(m, 0);
}

/* Those at hand are done with. The heads of the new copy come behind the frames that they name. */
static enum store_next next_heads(struct store_fill *m)
{
    return m->last ? write_words(m, head_at(m->shape, 0), FILL_SETS_HEADS) : more_heads(m);
}

static enum store_next begin(struct store_fill *m)
{
    if (m->over || m->last) {
        m->at = m->last ? 0 : m->at;
        m->copied = m->left = m->damaged = 0;
    }
    m->over = false;
    return read_heads(m);
}

enum store_next store_fill_step(struct store_fill *m)
{
    for (uint32_t i = 0; m->step != FILL_BEGINS && i < m->n; i++)
        if (m->ops[i].status)
            return end(m, m->ops[i].status);
    switch (m->step) {
    case FILL_BEGINS:
        return begin(m);
    case FILL_READS:
        return next_window(m);
    case FILL_FRAMES:
        return copy_frames(m);
    case FILL_COPIES:
        return copied(m);
    case FILL_SETS_HEADS:
        return more_heads(m);
    case FILL_WORDS:
        return write_words(m, word_at(m->shape, 0), FILL_SETS_WORDS);
    default:
        m->at += m->got;
        return read_more_words(m);
    }
}
