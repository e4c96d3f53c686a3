/*
 * What has become of a change whose answers were lost: the page as it is now says it. Nothing of the change may arrive
 * any more, since its epoch has ended, or its connections have; docs/protocols/pages.md, "A change in doubt", has the
 * rules and why they hold.
 */
#include "doubt.h"

#include "../base/error.h"

enum { STEPS_MOST = 64 }; /* back, over the changes since */

static enum store_next post(struct store_outcome *m, dsm_op op, int step)
{
    m->op = op;
    m->ops = &m->op;
    m->n = 1;
    m->step = step;
    return STORE_POST;
}

static enum store_next end(struct store_outcome *m, int status)
{
    m->status = status;
    return STORE_DONE;
}

static enum store_next begin(struct store_outcome *m, struct store_env *e);

/* Changes that were made together: the first page that knows says it for all. */
static enum store_next says(struct store_outcome *m, int is, struct store_env *e)
{
    m->is = is;
    m->at++;
    return is == DSM_STORE_UNKNOWN && m->at < m->count ? begin(m, e) : end(m, 0);
}

static bool is_own(const dsm_store_doubt *d, const struct frame_header *h) { return !memcmp(d->header, h, sizeof *h); }

/* The page is free, or has another life, which begins with the version behind that of its end. A life ends once; but
 * two clients that free a page make the same head. */
static int ended(const dsm_store_doubt *d, uint64_t head)
{
    bool is_empty = head_state(head) == HEAD_EMPTY, frees = head_state(d->to) == HEAD_FREE;
    if ((!is_empty && head_state(head) != HEAD_FREE) || head_low(head) != generation_after(page_generation(d->pid)))
        return DSM_STORE_UNKNOWN;
    bool was_then = ((head_version(head) - is_empty) & LOW28) == head_version(d->to);
    return was_then != frees ? DSM_STORE_NOT_DONE : DSM_STORE_UNKNOWN;
}

static enum store_next read_header(struct store_outcome *m, const struct store_env *e, uint64_t head, int step)
{
    uint32_t place = place_of(e, page_number(m->of[m->at].pid), 0);
    dsm_op op = store_read_op(e, place, frame_at(e->shape, head_low(head)), &m->header, sizeof m->header);
    return post(m, op, step);
}

/* A later version has replaced the one in question, or one after that. A header says which head its writer was to
 * replace, and that was the page's once, even if no head ever named the frame. m->header is of m->version. */
static enum store_next trace(struct store_outcome *m, struct store_env *e)
{
    const dsm_store_doubt *d = &m->of[m->at];
    uint64_t before = m->header.before;
    bool is_frame = head_state(before) == HEAD_FRAMED && head_low(before) < frames_of(e->shape);
    m->head = before;
    if (m->version == d->version + 1) /* another client may have made this head too, in the same frame */
        return before == d->to ? read_header(m, e, before, OUTCOME_READS) : says(m, DSM_STORE_NOT_DONE, e);
    return is_frame && ++m->steps < STEPS_MOST ? read_header(m, e, before, OUTCOME_TRACES)
                                               : says(m, DSM_STORE_UNKNOWN, e);
}

static enum store_next traced(struct store_outcome *m, struct store_env *e)
{
    const struct frame_header *h = &m->header;
    uint64_t pid = m->of[m->at].pid;
    m->version--;
    if (!frame_fits(h, page_number(pid), m->head) || h->pid != pid || h->version != m->version)
        return says(m, DSM_STORE_UNKNOWN, e); /* it has been used again */
    return trace(m, e);
}

/* The page has the version in question. A header that is not ours counts if the head is still there afterwards: the
 * frame may have been used again. */
static enum store_next compare(struct store_outcome *m, struct store_env *e)
{
    const dsm_store_doubt *d = &m->of[m->at];
    if (m->head != d->to)
        return says(m, DSM_STORE_NOT_DONE, e);
    if (is_own(d, &m->header))
        return says(m, DSM_STORE_DONE, e);
    return post(m, store_look_at_head(e, 0, page_number(d->pid), &m->head), OUTCOME_LOOKS_AGAIN);
}

static enum store_next looked(struct store_outcome *m, struct store_env *e)
{
    const dsm_store_doubt *d = &m->of[m->at];
    if (m->look.status && m->look.status != -DSM_EPAGE)
        return end(m, m->look.status);
    m->head = m->look.guess;
    m->version = m->look.version;
    m->header = m->look.header;
    if (m->look.status)
        return says(m, ended(d, m->head), e);
    if (head_state(d->to) == HEAD_FREE || head_state(m->head) == HEAD_EMPTY || m->version < d->version)
        return says(m, DSM_STORE_NOT_DONE, e);
    return m->version > d->version ? trace(m, e) : compare(m, e);
}

static enum store_next look(struct store_outcome *m, struct store_env *e)
{
    m->step = OUTCOME_LOOKS;
    enum store_next next = store_step(&m->look, e);
    m->ops = m->look.ops;
    m->n = m->look.n;
    return next == STORE_DONE ? looked(m, e) : next;
}

static enum store_next begin(struct store_outcome *m, struct store_env *e)
{
    m->steps = 0;
    memset(&m->look, 0, sizeof m->look);
    store_op_begin(&m->look, STORE_VERSION, m->of[m->at].pid, NULL);
    return look(m, e);
}

enum store_next store_outcome_step(struct store_outcome *m, struct store_env *e)
{
    const dsm_store_doubt *d = &m->of[m->at];
    if (m->step == OUTCOME_BEGINS)
        return m->count ? begin(m, e) : end(m, 0);
    if (m->step == OUTCOME_LOOKS)
        return look(m, e);
    store_looked(e, &m->op, 1);
    if (m->op.status)
        return end(m, m->op.status);
    if (m->step == OUTCOME_TRACES)
        return traced(m, e);
    if (m->step == OUTCOME_READS)
        return says(m, is_own(d, &m->header) ? DSM_STORE_DONE : DSM_STORE_UNKNOWN, e);
    return says(m, m->head == d->to ? DSM_STORE_NOT_DONE : DSM_STORE_UNKNOWN, e);
}
