/* Versions of a segment: segment.h has the protocol. Numbers of steps are those of the table there. */
#include "../base/clock.h"
#include "../fabric/near.h"
#include "../mem/remote.h"
#include "member.h"
#include "pause.h"
#include "segment.h"

#include <stdlib.h>

enum { TRIES = 8, CHUNK = 1 << 20 };

static uint64_t bytes_of(const dsm_segment *s, uint64_t rows) { return rows * s->row_bytes; }

static bool may_write(const dsm_remote *r)
{
    return (r->access & (DSM_WRITE | DSM_ATOMIC)) == (DSM_WRITE | DSM_ATOMIC);
}

static struct bell *bell_of(dsm_remote *r) { return (struct bell *)(void *)(r->near + SEGMENT_BELL); }

/* The words, the rows of which are safe to use. */
static int words(dsm_remote *r, const dsm_segment *s, struct segment_words *w)
{
    uint64_t each = r->near ? 8 : sizeof *w; /* near, only 8 bytes are never a mixture */
    int rc = 0;
    for (uint64_t at = 0; !rc && at < sizeof *w; at += each)
        rc = dsm_read(r, SEGMENT_ROWS + at, (char *)w + at, each, remote_patience(r));
    if (rc)
        return rc;
    if (w->rows > s->capacity || w->shadow_rows > s->capacity || (w->head & PHASE_MASK) == PHASE_MASK)
        return err_set(DSM_ECORRUPT, 0, "the segment has %llu and %llu rows, head %llx", (unsigned long long)w->rows,
                       (unsigned long long)w->shadow_rows, (unsigned long long)w->head);
    return 0;
}

/* By the writer alone: the word is as he left it. */
static int move(dsm_remote *r, uint64_t offset, uint64_t from, uint64_t to)
{
    uint64_t old;
    int rc = from == to ? 0 : dsm_compare_swap(r, offset, from, to, &old, remote_patience(r));
    if (rc || from == to || old == from)
        return rc;
    return err_set(DSM_ECORRUPT, 0, "word %llu of the segment was changed by another than its writer",
                   (unsigned long long)offset);
}

static int copy(dsm_remote *r, uint64_t from, uint64_t to, uint64_t n)
{
    if (!n)
        return 0;
    if (r->near) {
        near_copy(r->near + to, r->near + from, n);
        return 0;
    }
    uint64_t piece = n < CHUNK ? n : CHUNK;
    void *buffer = malloc(piece);
    int rc = buffer ? 0 : err_set(DSM_ENOMEM, 0, "copying a frame");
    for (uint64_t at = 0; !rc && at < n; at += piece) {
        uint64_t now = n - at < piece ? n - at : piece;
        rc = dsm_read(r, from + at, buffer, now, -1);
        if (!rc)
            rc = dsm_write(r, to + at, buffer, now, -1);
    }
    free(buffer);
    return rc;
}

/* ---- the writer's word ---- */

/* 1: taken, 0: *holder has it, or -DSM_E…. */
static int try(dsm_remote *r, const dsm_segment *s, uint64_t *holder)
{
    uint64_t old, seen = 0;
    for (;;) {
        int rc = dsm_compare_swap(r, SEGMENT_WRITER, seen, s->identity, &old, remote_patience(r));
        if (rc)
            return rc;
        if (old == seen)
            return 1;
        *holder = old;
        if (!r->near || !member_dead(old)) /* a pid says nothing to who is on another host */
            return 0;
        seen = old;
    }
}

static int acquire(dsm_remote *r, const dsm_segment *s, int64_t deadline)
{
    struct pause pause = PAUSE_INIT;
    uint64_t holder = 0;
    char who[MEMBER_TEXT];
    for (;;) {
        uint32_t rung = r->near ? bell_listen(bell_of(r)) : 0;
        int rc = try(r, s, &holder);
        if (rc)
            return rc < 0 ? rc : 0;
        if (clock_ns() >= deadline)
            return err_set(DSM_ETIME, 0, "%s is writing the segment; nothing was written",
                           member_describe(holder, who));
        if (r->near)
            bell_sleep(bell_of(r), rung, deadline);
        else
            pause_sleep(&pause, deadline);
    }
}

static int release(dsm_remote *r, const dsm_segment *s)
{
    int rc = move(r, SEGMENT_WRITER, s->identity, 0);
    dsm_segment_ring(r);
    return rc;
}

/* Steps 5 and 6. */
static int refresh_shadow(dsm_remote *r, const dsm_segment *s, struct segment_words *w)
{
    before_writes(); /* the head before the shadow; pairs with after_reads() in near_snapshot() */
    int rc = copy(r, s->data, s->shadow, bytes_of(s, w->rows));
    if (!rc)
        rc = move(r, SEGMENT_SHADOW_ROWS, w->shadow_rows, w->rows);
    if (!rc)
        rc = move(r, SEGMENT_HEAD, w->head, w->head & ~(uint64_t)PHASE_MASK);
    w->shadow_rows = w->rows;
    w->head &= ~(uint64_t)PHASE_MASK;
    return rc;
}

/* From step 2 or 3 back to before it. */
static int restore_data(dsm_remote *r, const dsm_segment *s, struct segment_words *w)
{
    int rc = copy(r, s->shadow, s->data, bytes_of(s, w->shadow_rows));
    if (!rc)
        rc = move(r, SEGMENT_ROWS, w->rows, w->shadow_rows);
    if (!rc)
        rc = move(r, SEGMENT_HEAD, w->head, w->head & ~(uint64_t)PHASE_MASK);
    w->rows = w->shadow_rows;
    w->head &= ~(uint64_t)PHASE_MASK;
    return rc;
}

/* Step 1, and what a dead writer has left is brought to an end. */
static int enter(dsm_remote *r, const dsm_segment *s, int64_t deadline, struct segment_words *w)
{
    if (!may_write(r))
        return err_set(DSM_EACCESS, 0, "no right to write the segment; its maker chooses that with mode= or access=");
    int rc = acquire(r, s, deadline);
    if (rc)
        return rc;
    rc = words(r, s, w);
    if (!rc && (w->head & PHASE_MASK) == PHASE_LIVE)
        rc = restore_data(r, s, w);
    else if (!rc && (w->head & PHASE_MASK) == PHASE_COPY)
        rc = refresh_shadow(r, s, w);
    if (rc)
        release(r, s);
    return rc;
}

/* ---- writing ---- */

static int unversioned(void)
{
    return err_set(DSM_EINVAL, 0, "the segment was made without versioned=True and has no versions");
}

int dsm_segment_begin(dsm_remote *r, const dsm_segment *s, int64_t timeout_ns, uint64_t *version, uint64_t *rows)
{
    struct segment_words w;
    if (!s->shadow)
        return unversioned();
    int rc = enter(r, s, deadline_after(timeout_ns), &w);
    if (rc)
        return rc;
    rc = move(r, SEGMENT_HEAD, w.head, w.head | PHASE_LIVE);
    if (rc) {
        release(r, s);
        return rc;
    }
    before_writes(); /* the head before the data; pairs with after_reads() in near_snapshot() */
    *version = w.head >> 2;
    *rows = w.rows;
    return 0;
}

static int commit_near(dsm_remote *r, const dsm_segment *s, const void *data, struct segment_words *w)
{
    if (data)
        near_copy(r->near + s->data, data, bytes_of(s, w->rows));
    uint64_t head = (w->head & ~(uint64_t)PHASE_MASK) + 4 + PHASE_COPY;
    int rc = move(r, SEGMENT_HEAD, w->head, head);
    w->head = head;
    return rc ? rc : refresh_shadow(r, s, w);
}

/* Steps 3 to 7 in one posting: on one connection they take effect in order, where each waits for the atomics before it. */
static int commit_far(dsm_remote *r, const dsm_segment *s, const void *data, const struct segment_words *w)
{
    uint64_t n = bytes_of(s, w->rows), done = (w->head & ~(uint64_t)PHASE_MASK) + 4;
    dsm_op ops[6];
    size_t k = 0;
#define COMMIT_CAS(at, from, to) \
    ops[k++] = (dsm_op) \
    { \
        .code = DSM_OP_COMPARE_SWAP, .flags = DSM_OP_FENCE, .remote = r, .offset = (at), .nbytes = 8, \
        .operand = (from), .desired = (to) \
    }
#define COMMIT_WRITE(at) \
    ops[k++] = (dsm_op) \
    { \
        .code = DSM_OP_WRITE, .flags = DSM_OP_FENCE, .remote = r, .offset = (at), .local = (void *)(uintptr_t)data, \
        .nbytes = n \
    }
    if (n)
        COMMIT_WRITE(s->data);
    COMMIT_CAS(SEGMENT_HEAD, w->head, done | PHASE_COPY);
    if (n)
        COMMIT_WRITE(s->shadow);
    COMMIT_CAS(SEGMENT_SHADOW_ROWS, w->shadow_rows, w->rows);
    COMMIT_CAS(SEGMENT_HEAD, done | PHASE_COPY, done);
    COMMIT_CAS(SEGMENT_WRITER, s->identity, 0);
#undef COMMIT_CAS
#undef COMMIT_WRITE
    int rc = dsm_execute(r->ctx, ops, k, -1, NULL);
    for (size_t i = 0; !rc && i < k; i++)
        if (ops[i].code == DSM_OP_COMPARE_SWAP && ops[i].result != ops[i].operand)
            rc = err_set(DSM_ECORRUPT, 0, "the segment was changed by another than its writer");
    return rc;
}

/* The words as the writer, who is the caller, has them; he must be in phase LIVE. */
static int own_words(dsm_remote *r, const dsm_segment *s, struct segment_words *w)
{
    int rc = words(r, s, w);
    if (!rc && (w->writer != s->identity || (w->head & PHASE_MASK) != PHASE_LIVE))
        return err_set(DSM_ENOTHELD, 0, "the segment is not being written by this process");
    return rc;
}

int dsm_segment_commit(dsm_remote *r, const dsm_segment *s, const void *data, uint64_t *version)
{
    struct segment_words w;
    int rc = own_words(r, s, &w);
    if (rc)
        return rc;
    if (data && w.rows != s->rows) /* data has no more than those */
        return err_set(DSM_ECORRUPT, 0, "the segment has %llu rows, its writer knows %llu", (unsigned long long)w.rows,
                       (unsigned long long)s->rows);
    *version = (w.head >> 2) + 1;
    if (!r->near)
        return commit_far(r, s, data, &w);
    rc = commit_near(r, s, data, &w);
    int freed = release(r, s);
    return rc ? rc : freed;
}

int dsm_segment_abort(dsm_remote *r, const dsm_segment *s)
{
    struct segment_words w;
    int rc = own_words(r, s, &w);
    if (rc)
        return rc;
    rc = restore_data(r, s, &w);
    int freed = release(r, s);
    return rc ? rc : freed;
}

/* ---- reading ---- */

/* Whether what was copied after 'before' was read, and before 'after' was, is one version. */
static bool proven(uint64_t before, uint64_t after)
{
    if ((before & PHASE_MASK) == PHASE_COPY)
        return before == after;
    return before >> 2 == after >> 2 && (after & PHASE_MASK) != PHASE_COPY;
}

static uint64_t whole_rows(const struct segment_words *w)
{
    return (w->head & PHASE_MASK) == PHASE_COPY ? w->rows : w->shadow_rows;
}

static uint64_t whole_frame(const dsm_segment *s, const struct segment_words *w)
{
    return (w->head & PHASE_MASK) == PHASE_COPY ? s->data : s->shadow;
}

/* 0: *w tells what was copied, 1: it was not one version or has other rows, or -DSM_E…. */
static int near_snapshot(dsm_remote *r, const dsm_segment *s, void *out, uint64_t rows, struct segment_words *w)
{
    uint64_t before = 0, after = 0;
    int rc = dsm_read(r, SEGMENT_HEAD, &before, 8, -1);
    if (!rc)
        rc = words(r, s, w);
    if (rc)
        return rc;
    w->head = before;
    if (whole_rows(w) == rows)
        near_copy(out, r->near + whole_frame(s, w), bytes_of(s, rows));
    after_reads(); /* the bytes before the head; pairs with before_writes() of the writer */
    rc = dsm_read(r, SEGMENT_HEAD, &after, 8, -1);
    return rc ? rc : !proven(before, after) || whole_rows(w) != rows;
}

static int far_snapshot(dsm_remote *r, const dsm_segment *s, void *out, uint64_t rows, struct segment_words *w)
{
    struct segment_words after;
    uint64_t frame = whole_frame(s, w), n = bytes_of(s, rows); /* as it was when last seen; nearly always the shadow */
    dsm_op ops[3];
    size_t k = 0;
    ops[k++] = (dsm_op){.code = DSM_OP_READ, .remote = r, .offset = SEGMENT_ROWS, .local = w, .nbytes = sizeof *w};
    if (n)
        ops[k++] = (dsm_op){
            .code = DSM_OP_READ, .flags = DSM_OP_FENCE, .remote = r, .offset = frame, .local = out, .nbytes = n};
    ops[k++] = (dsm_op){.code = DSM_OP_READ,
                        .flags = DSM_OP_FENCE,
                        .remote = r,
                        .offset = SEGMENT_ROWS,
                        .local = &after,
                        .nbytes = sizeof after};
    int rc = dsm_execute(r->ctx, ops, k, -1, NULL);
    if (rc)
        return rc;
    return !proven(w->head, after.head) || whole_frame(s, w) != frame || whole_rows(w) != rows;
}

/* By whoever may write, when the writers are too quick for him: none of them is at it meanwhile. */
static int exclusive_snapshot(dsm_remote *r, const dsm_segment *s, void *out, uint64_t rows, int64_t deadline,
                              struct segment_words *w)
{
    int rc = enter(r, s, deadline, w);
    if (rc)
        return rc;
    uint64_t n = bytes_of(s, rows);
    if (w->shadow_rows == rows && n)
        rc = dsm_read(r, s->shadow, out, n, -1);
    int freed = release(r, s);
    return rc ? rc : freed ? freed : w->shadow_rows != rows;
}

int dsm_segment_snapshot(dsm_remote *r, const dsm_segment *s, void *out, uint64_t *rows, int64_t timeout_ns,
                         uint64_t *version)
{
    int64_t deadline = deadline_after(timeout_ns);
    struct pause pause = PAUSE_INIT;
    struct segment_words w = {0};
    if (!s->shadow)
        return unversioned();
    for (int tries = 1;; tries++) {
        int rc = may_write(r) && tries > TRIES ? exclusive_snapshot(r, s, out, *rows, deadline, &w)
                 : r->near                     ? near_snapshot(r, s, out, *rows, &w)
                                               : far_snapshot(r, s, out, *rows, &w);
        if (rc < 0)
            return rc;
        if (whole_rows(&w) > s->capacity)
            return err_set(DSM_ECORRUPT, 0, "the segment has %llu rows", (unsigned long long)whole_rows(&w));
        *version = w.head >> 2;
        if (rc == 0)
            return 0;
        if (whole_rows(&w) != *rows) {
            *rows = whole_rows(&w);
            return 1;
        }
        if (clock_ns() >= deadline)
            return err_set(DSM_ETIME, 0, "writers overtook each of %d copies; allow more time, or let writers pause",
                           tries);
        pause_sleep(&pause, deadline);
    }
}
