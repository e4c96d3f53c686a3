/* Versions of a segment. segment.h has the protocol; step numbers are those of the table there. */
#include "../../base/deadline.h"
#include "../../base/mapped_ops.h"
#include "../backoff.h"
#include "../member.h"
#include "../sure.h"
#include "../word.h"
#include "segment.h"

#include <stdlib.h>

enum { TRIES = 8, CHUNK = 1 << 20 };

static uint64_t bytes_of(const dsm_segment *s, uint64_t rows) { return rows * s->row_bytes; }

static bool may_write(const dsm_remote *r)
{
    return (r->access & (DSM_WRITE | DSM_ATOMIC)) == (DSM_WRITE | DSM_ATOMIC);
}

/* Of local memory: one by one, since only a load of 8 bytes is never a mixture. remote_check() has allowed it. */
static void load_words(const dsm_remote *r, struct segment_words *w)
{
    for (uint64_t at = 0; at < sizeof *w; at += 8)
        mapped_read(remote_at(r, SEGMENT_ROWS + at), (char *)w + at, 8);
}

static int check_words(const dsm_segment *s, const struct segment_words *w)
{
    if (w->rows > s->capacity || w->shadow_rows > s->capacity || (w->head & PHASE_MASK) == PHASE_MASK)
        return err_set(DSM_ECORRUPT, 0, "the segment has %llu and %llu rows, head %llx", (unsigned long long)w->rows,
                       (unsigned long long)w->shadow_rows, (unsigned long long)w->head);
    return 0;
}

/* Reads the words. After it has succeeded, both numbers of rows are within the capacity. */
static int words(dsm_remote *r, const dsm_segment *s, struct segment_words *w)
{
    int rc = remote_is_mapped(r) ? remote_check(r, SEGMENT_ROWS, sizeof *w, DSM_READ)
                                 : sure_words(r, SEGMENT_ROWS, &w->rows, sizeof *w / 8);
    if (rc)
        return rc;
    if (remote_is_mapped(r))
        load_words(r, w);
    return check_words(s, w);
}

static int copy(dsm_remote *r, uint64_t from, uint64_t to, uint64_t n)
{
    if (!n)
        return 0;
    if (remote_is_mapped(r)) {
        mapped_copy(remote_at(r, to), remote_at(r, from), n);
        return 0;
    }
    uint64_t piece = n < CHUNK ? n : CHUNK;
    void *buffer = malloc(piece);
    int rc = buffer ? 0 : err_set(DSM_ENOMEM, 0, "copying a frame");
    for (uint64_t at = 0; !rc && at < n; at += piece) {
        uint64_t now = n - at < piece ? n - at : piece;
        rc = sure_read(r, from + at, buffer, now);
        if (!rc)
            rc = sure_write(r, to + at, buffer, now);
    }
    free(buffer);
    return rc;
}

/* ---- the writer's word ---- */

#define LOOK_NS 40000000 /* between two questions whether the writer has ended */

/* With the thread in s->turn: a write is open, and none of its calls is under way. */
#define BETWEEN_CALLS (1ull << 63)

/* Remote, the identity belongs to *s, and only the thread that has the turn writes with it. So if that thread finds
 * this identity in 'writer', an earlier call has left it there: its outcome was unknown, or the call could not finish
 * the write. */
static int take_turn(dsm_remote *r, dsm_segment *s, int64_t deadline)
{
    struct backoff backoff = BACKOFF_INIT;
    uint64_t holder, me = this_thread();
    while (!remote_is_mapped(r) && (holder = compare_swap_u64(&s->turn, 0, me))) {
        if (holder == me)
            return dsm_refuse_reentry("segment");
        if (clock_ns() >= deadline)
            return err_set(DSM_ETIME, 0, "another thread is writing the segment with the same handle");
        backoff_sleep(&backoff, deadline);
    }
    return 0;
}

/* A signal handler that runs in the midst of a call is refused. One that runs between begin and commit waits, as
 * another thread does. Commit and abort may run in another thread than begin did. */
static void call_begins(const dsm_remote *r, dsm_segment *s)
{
    uint64_t turn = load_acquire_u64(&s->turn);
    if (!remote_is_mapped(r) && turn & BETWEEN_CALLS)
        compare_swap_u64(&s->turn, turn, this_thread());
}

static void call_ends(const dsm_remote *r, dsm_segment *s)
{
    if (!remote_is_mapped(r))
        compare_swap_u64(&s->turn, this_thread(), this_thread() | BETWEEN_CALLS);
}

/* 'left' is stored first: the next thread that has the turn reads it. */
static void end_turn(dsm_remote *r, dsm_segment *s, bool left)
{
    if (remote_is_mapped(r))
        return;
    store_relaxed_u32(&s->left, left);
    store_release_u64(&s->turn, 0); /* pairs with compare_swap_u64 in take_turn() */
}

/* 1: taken, 0: *holder has it, or -DSM_E…. With may_look it is taken over from a dead one. */
static int try(dsm_remote *r, const dsm_segment *s, bool may_look, uint64_t *holder)
{
    uint64_t old, seen = 0;
    for (;;) {
        int rc = sure_swap(r, SEGMENT_WRITER, seen, s->identity, &old);
        if (rc < 0 || rc == SWAP_DONE)
            return rc;
        if (!remote_is_mapped(r) && old == s->identity)
            return 1;
        if (rc == SWAP_UNKNOWN && !old)
            return 0; /* to be tried again, after a backoff */
        *holder = old;
        if (!may_look || !member_ended(r, old))
            return 0;
        seen = old;
    }
}

/* *left is set if the call failed, and 'writer' may hold this identity all the same. */
static int acquire(dsm_remote *r, const dsm_segment *s, int64_t deadline, bool *left)
{
    struct backoff backoff = BACKOFF_INIT;
    struct eventcount *eventcount = segment_eventcount(r);
    uint64_t holder = 0;
    int64_t look_at = 0; /* remote, to look takes a question to the owner */
    char text[MEMBER_TEXT];
    for (;;) {
        uint32_t rung = eventcount ? eventcount_prepare(eventcount) : 0;
        bool may_look = remote_is_mapped(r) || clock_ns() >= look_at;
        int rc = try(r, s, may_look, &holder);
        if (may_look)
            look_at = deadline_after(LOOK_NS);
        *left |= rc < 0;
        if (rc)
            return rc < 0 ? rc : 0;
        if (clock_ns() >= deadline)
            return err_set(
                DSM_ETIME, 0,
                "%s is writing the segment; nothing was written; wait longer, or free it with break_() if that is gone",
                member_describe(holder, text));
        if (eventcount)
            eventcount_wait(eventcount, rung, deadline);
        else
            backoff_sleep(&backoff, deadline);
    }
}

/* Step 7. Remote, an earlier attempt may have taken effect already; local, that is an error. */
static int release(dsm_remote *r, const dsm_segment *s)
{
    uint64_t found = s->identity;
    int rc = SWAP_UNKNOWN;
    for (int i = 0; i < SURE_TRIES && rc == SWAP_UNKNOWN && found == s->identity; i++)
        rc = sure_swap(r, SEGMENT_WRITER, s->identity, 0, &found);
    dsm_segment_notify(r);
    if (rc < 0 || (rc == SWAP_UNKNOWN && found == s->identity))
        return rc < 0 ? rc : err_set(DSM_EIO, 0, "%d times in a row", SURE_TRIES);
    return rc == SWAP_REFUSED && remote_is_mapped(r) ? err_set(DSM_ECORRUPT, 0, "the writer was changed by another")
                                                     : 0;
}

/* Steps 5 and 6. */
static int refresh_shadow(dsm_remote *r, const dsm_segment *s, struct segment_words *w)
{
    fence_release(); /* the head before the shadow; pairs with fence_acquire() in mapped_snapshot() */
    int rc = copy(r, s->data, s->shadow, bytes_of(s, w->rows));
    if (!rc)
        rc = sure_move(r, SEGMENT_SHADOW_ROWS, w->shadow_rows, w->rows);
    if (!rc)
        rc = sure_move(r, SEGMENT_HEAD, w->head, w->head & ~(uint64_t)PHASE_MASK);
    w->shadow_rows = w->rows;
    w->head &= ~(uint64_t)PHASE_MASK;
    return rc;
}

/* Goes back from step 2 or 3 to the state before step 2. */
static int restore_data(dsm_remote *r, const dsm_segment *s, struct segment_words *w)
{
    int rc = copy(r, s->shadow, s->data, bytes_of(s, w->shadow_rows));
    if (!rc)
        rc = sure_move(r, SEGMENT_ROWS, w->rows, w->shadow_rows);
    if (!rc)
        rc = sure_move(r, SEGMENT_HEAD, w->head, w->head & ~(uint64_t)PHASE_MASK);
    w->rows = w->shadow_rows;
    w->head &= ~(uint64_t)PHASE_MASK;
    return rc;
}

/* Finishes or undoes what a dead writer, or an earlier call of this one, has left. The writer does this before step
 * 2. */
static int recover(dsm_remote *r, const dsm_segment *s, struct segment_words *w)
{
    int rc = words(r, s, w);
    if (!rc && (w->head & PHASE_MASK) == PHASE_LIVE)
        rc = restore_data(r, s, w);
    else if (!rc && (w->head & PHASE_MASK) == PHASE_COPY)
        rc = refresh_shadow(r, s, w);
    return rc;
}

/* Gives back the writer's word and the turn. If the word can't be given back, the next write does it. */
static int leave_with(dsm_remote *r, dsm_segment *s, int rc)
{
    int freed = release(r, s);
    end_turn(r, s, freed != 0);
    return rc ? rc : freed;
}

/* Step 1: takes the turn among this handle's threads, then the writer's word, and recovers what an earlier writer has
 * left half done. */
static int enter(dsm_remote *r, dsm_segment *s, int64_t deadline, struct segment_words *w)
{
    if (!may_write(r))
        return err_set(DSM_EACCESS, 0, "no right to write the segment; its creator chooses that with mode= or access=");
    int rc = take_turn(r, s, deadline);
    if (rc)
        return rc;
    bool left = load_relaxed_u32(&s->left);
    rc = acquire(r, s, deadline, &left);
    if (rc) {
        end_turn(r, s, left);
        return rc;
    }
    rc = recover(r, s, w);
    return rc ? leave_with(r, s, rc) : 0;
}

/* ---- writing ---- */

static int unversioned(void)
{
    return err_set(DSM_EINVAL, 0, "the segment was made without versioned=True and has no versions");
}

int dsm_segment_begin(dsm_remote *r, dsm_segment *s, int64_t timeout_ns, uint64_t *version, uint64_t *rows)
{
    struct segment_words w;
    if (!s->shadow)
        return unversioned();
    int rc = enter(r, s, deadline_after(timeout_ns), &w);
    if (rc)
        return rc;
    rc = sure_move(r, SEGMENT_HEAD, w.head, w.head | PHASE_LIVE);
    if (rc)
        return leave_with(r, s, rc);
    fence_release(); /* the head before the data; pairs with fence_acquire() in mapped_snapshot() */
    *version = w.head >> 2;
    *rows = w.rows;
    call_ends(r, s);
    return 0;
}

static int taken_away(void)
{
    return err_set(DSM_ENOTHELD, 0, "break_() took the turn from this writer; nothing was written");
}

static int commit_mapped(dsm_remote *r, const dsm_segment *s, const void *data, struct segment_words *w)
{
    if (data)
        mapped_copy(remote_at(r, s->data), data, bytes_of(s, w->rows));
    uint64_t head = (w->head & ~(uint64_t)PHASE_MASK) + 4 + PHASE_COPY;
    int rc = sure_move(r, SEGMENT_HEAD, w->head, head);
    if (rc == -DSM_ECORRUPT) /* another took the turn meanwhile, perhaps a thread with the same identity */
        return taken_away();
    w->head = head;
    if (!rc)
        rc = refresh_shadow(r, s, w);
    int freed = release(r, s);
    return rc ? rc : freed;
}

static dsm_op remote_swap(dsm_remote *r, uint64_t offset, uint64_t from, uint64_t to)
{
    return (dsm_op){.code = DSM_OP_COMPARE_SWAP,
                    .flags = DSM_OP_FENCE,
                    .remote = r,
                    .offset = offset,
                    .nbytes = 8,
                    .operand = from,
                    .desired = to};
}

static dsm_op remote_write(dsm_remote *r, uint64_t offset, const void *data, uint64_t n)
{
    return (dsm_op){.code = DSM_OP_WRITE,
                    .flags = DSM_OP_FENCE,
                    .remote = r,
                    .offset = offset,
                    .local = (void *)(uintptr_t)data,
                    .nbytes = n};
}

/* Posts what is left of steps 3 to 7, according to *w, all at once. On one connection the ops take effect in order, if
 * each waits for the atomics before it. done: the head at the end. */
static int post_commit(dsm_remote *r, const dsm_segment *s, const void *data, const struct segment_words *w,
                       uint64_t done)
{
    uint64_t n = bytes_of(s, w->rows);
    dsm_op ops[6];
    size_t k = 0;
    if (w->head != done && w->head != (done | PHASE_COPY)) {
        if (n)
            ops[k++] = remote_write(r, s->data, data, n);
        ops[k++] = remote_swap(r, SEGMENT_HEAD, w->head, done | PHASE_COPY);
    }
    if (w->head != done) {
        if (n)
            ops[k++] = remote_write(r, s->shadow, data, n);
        ops[k++] = remote_swap(r, SEGMENT_SHADOW_ROWS, w->shadow_rows, w->rows);
        ops[k++] = remote_swap(r, SEGMENT_HEAD, done | PHASE_COPY, done);
    }
    ops[k++] = remote_swap(r, SEGMENT_WRITER, s->identity, 0);
    int rc = err_known(dsm_execute(r->ctx, ops, k, remote_timeout_for(r, 2 * n), NULL));
    for (size_t i = 0; !rc && i < k; i++)
        if (ops[i].code == DSM_OP_COMPARE_SWAP && ops[i].result != ops[i].operand)
            rc = err_set(DSM_ECORRUPT, 0, "the segment was changed by another than its writer");
    return rc;
}

/* After a failure the words say how far the commit came: only the writer changes them, and 'writer' last. So if
 * 'writer' no longer holds this identity, everything took effect, unless the version is still the old one: then
 * break_() has taken this writer's turn. */
static int commit_remote(dsm_remote *r, const dsm_segment *s, const void *data, struct segment_words *w)
{
    uint64_t done = (w->head & ~(uint64_t)PHASE_MASK) + 4;
    int rc, tries = 0;
    while ((rc = post_commit(r, s, data, w, done)) && sure_again(rc, &tries)) {
        int seen = words(r, s, w);
        if (seen)
            return seen;
        if (w->writer != s->identity)
            return w->head >> 2 < done >> 2 ? taken_away() : 0;
    }
    return sure_error(rc);
}

static int not_writing(void) { return err_set(DSM_ENOTHELD, 0, "the segment is not being written by this call"); }

/* Reads the words, and checks that the caller is the writer. Local, threads share an identity. There the head tells
 * whose turn it is, since a turn that was not given back by its own writer leaves another version. */
static int own_words(dsm_remote *r, const dsm_segment *s, uint64_t version, struct segment_words *w)
{
    int rc = words(r, s, w);
    if (!rc && (w->writer != s->identity || (remote_is_mapped(r) && w->head != (version << 2 | PHASE_LIVE))))
        return not_writing();
    return rc;
}

static int commit(dsm_remote *r, dsm_segment *s, const void *data, uint64_t *version)
{
    struct segment_words w;
    int rc = own_words(r, s, *version, &w);
    if (!rc && w.head != (*version << 2 | PHASE_LIVE))
        rc = not_writing();
    if (rc)
        return rc;
    if (data && w.rows != s->rows) /* data has no more rows than s->rows */
        return err_set(DSM_ECORRUPT, 0, "the segment has %llu rows, its writer knows %llu", (unsigned long long)w.rows,
                       (unsigned long long)s->rows);
    rc = remote_is_mapped(r) ? commit_mapped(r, s, data, &w) : commit_remote(r, s, data, &w);
    if (rc)
        return rc;
    end_turn(r, s, false);
    *version += 1;
    return 0;
}

int dsm_segment_commit(dsm_remote *r, dsm_segment *s, const void *data, uint64_t *version)
{
    call_begins(r, s);
    int rc = commit(r, s, data, version);
    if (rc)
        call_ends(r, s);
    return rc;
}

/* Remote, the write may be in any phase. If it has reached step 4, it has taken effect, and it is finished. */
int dsm_segment_abort(dsm_remote *r, dsm_segment *s, uint64_t version)
{
    struct segment_words w;
    call_begins(r, s);
    int rc = own_words(r, s, version, &w);
    if (rc == -DSM_ENOTHELD) {
        end_turn(r, s, false);
        return rc;
    }
    if (!rc)
        rc = recover(r, s, &w);
    if (!rc || remote_is_mapped(r))
        return leave_with(r, s, rc);
    end_turn(r, s, true);
    return rc;
}

int dsm_segment_leave(dsm_remote *r, dsm_segment *s)
{
    if (remote_is_mapped(r) || !s->shadow || !may_write(r) ||
        !(load_acquire_u64(&s->turn) || load_relaxed_u32(&s->left)))
        return 0;
    int rc = dsm_segment_abort(r, s, 0); /* remote: the version does not matter */
    return rc == -DSM_ENOTHELD || sure_lost(rc) ? 0 : rc;
}

int dsm_segment_writer(dsm_remote *r, uint64_t *identity) { return sure_read(r, SEGMENT_WRITER, identity, 8); }

/* Finishes or undoes what the broken turn has left. If the broken writer is a process of this host, its version is
 * skipped, unless it has taken effect: should that process be alive after all, it commits from a head that never comes
 * again, so its commit fails. A remote writer learns from 'writer' that the turn is no longer its own. There the
 * version is kept, so that the writer can tell a commit in doubt from a broken turn. */
static int end_broken(dsm_remote *r, const dsm_segment *s, bool local)
{
    struct segment_words w;
    int rc = words(r, s, &w);
    bool pass = local && !rc && (w.head & PHASE_MASK) != PHASE_COPY;
    if (!rc)
        rc = recover(r, s, &w);
    return rc || !pass ? rc : sure_move(r, SEGMENT_HEAD, w.head, w.head + 4);
}

int dsm_segment_evict(dsm_remote *r, dsm_segment *s, uint64_t holder)
{
    uint64_t found = holder;
    int rc = SWAP_UNKNOWN;
    if (!s->shadow)
        return unversioned();
    if (!may_write(r))
        return err_set(DSM_EACCESS, 0, "no right to write the segment; its creator chooses that with mode= or access=");
    if (!holder)
        return 0;
    if (!remote_is_mapped(r) &&
        load_acquire_u64(&s->turn) == (this_thread() | BETWEEN_CALLS)) /* it would wait for itself */
        return dsm_refuse_reentry("segment");
    int busy = take_turn(r, s, deadline_after(remote_timeout(r)));
    if (busy)
        return busy;
    for (int i = 0; i < SURE_TRIES && rc == SWAP_UNKNOWN && found == holder; i++)
        rc = sure_swap(r, SEGMENT_WRITER, holder, s->identity, &found);
    if (rc != SWAP_DONE) {
        end_turn(r, s, load_relaxed_u32(&s->left) || rc < 0);
        if (rc == SWAP_UNKNOWN && found == holder)
            return err_set(DSM_EIO, 0, "%d times in a row", SURE_TRIES);
        return rc < 0 ? rc : 0;
    }
    rc = leave_with(r, s, end_broken(r, s, !member_elsewhere(holder)));
    return rc ? rc : 1;
}

/* ---- reading ---- */

/* Whether a copy that was made between the loads of 'before' and 'after' is one version. */
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

/* 0: *w describes what was copied, 1: it was not one version or has another number of rows, or -DSM_E…. */
static int mapped_snapshot(dsm_remote *r, const dsm_segment *s, void *out, uint64_t rows, struct segment_words *w)
{
    uint64_t before, after;
    int rc = remote_check(r, SEGMENT_ROWS, sizeof *w, DSM_READ);
    if (rc)
        return rc;
    mapped_read(remote_at(r, SEGMENT_HEAD), &before, 8);
    load_words(r, w);
    rc = check_words(s, w);
    if (rc)
        return rc;
    w->head = before;
    if (whole_rows(w) == rows)
        mapped_copy(out, remote_at(r, whole_frame(s, w)), bytes_of(s, rows));
    fence_acquire(); /* the bytes before the head; pairs with fence_release() of the writer */
    mapped_read(remote_at(r, SEGMENT_HEAD), &after, 8);
    rc = remote_check(r, SEGMENT_HEAD, 8, DSM_READ); /* the owner has not closed the region meanwhile */
    return rc ? rc : !proven(before, after) || whole_rows(w) != rows;
}

/* The head as several READs of the words say it, if they say the same. */
static bool says_head(const struct segment_words *seen, uint32_t n, uint64_t *head)
{
    *head = seen[0].head;
    for (uint32_t i = 1; i < n; i++)
        if (seen[i].head != *head)
            return false;
    return true;
}

static dsm_op read_words(dsm_remote *r, struct segment_words *to)
{
    return (dsm_op){.code = DSM_OP_READ, .remote = r, .offset = SEGMENT_ROWS, .local = to, .nbytes = sizeof *to};
}

/* Where a READ may mix a head with an older one: WORD_BOUNDS equal READs before the frame and as many after it bound
 * the head from both sides (word.h). For a head only grows, if its phases are put in the order in which they come, and
 * that order changes nothing but single bytes. One READ more before the frame gives the rows: the head
 * has been reached when it begins. */
static int remote_snapshot(dsm_remote *r, const dsm_segment *s, void *out, uint64_t rows, struct segment_words *w)
{
    struct segment_words before[WORD_BOUNDS + 1], after[WORD_BOUNDS];
    uint64_t frame = whole_frame(s, w), n = bytes_of(s, rows), head; /* as last seen; nearly always the shadow */
    uint32_t bounds = remote_reads_whole(r) ? 1 : WORD_BOUNDS, first = bounds == 1 ? 1 : bounds + 1;
    dsm_op ops[2 * WORD_BOUNDS + 2];
    size_t k = 0;
    for (uint32_t i = 0; i < first; i++)
        ops[k++] = read_words(r, &before[i]);
    if (n)
        ops[k++] = (dsm_op){
            .code = DSM_OP_READ, .flags = DSM_OP_FENCE, .remote = r, .offset = frame, .local = out, .nbytes = n};
    for (uint32_t i = 0; i < bounds; i++) {
        ops[k] = read_words(r, &after[i]);
        ops[k++].flags = i ? 0 : DSM_OP_FENCE;
    }
    int rc, tries = 0;
    do
        rc = dsm_execute(r->ctx, ops, k, remote_timeout_for(r, n), NULL);
    while (rc && sure_again(rc, &tries));
    if (rc)
        return sure_error(rc);
    bool good = says_head(before, first, &head) && says_head(after, bounds, &head) && proven(before->head, head);
    *w = before[first - 1];
    if (!good && bounds > 1) /* its rows may be mixtures: to be tried again with those that the caller knows */
        w->rows = w->shadow_rows = rows;
    return !good || whole_frame(s, w) != frame || whole_rows(w) != rows;
}

/* For a reader that may write, if the writers overtake its copies: it takes the turn, so that none of them writes
 * meanwhile. */
static int exclusive_snapshot(dsm_remote *r, dsm_segment *s, void *out, uint64_t rows, int64_t deadline,
                              struct segment_words *w)
{
    int rc = enter(r, s, deadline, w);
    if (rc)
        return rc;
    uint64_t n = bytes_of(s, rows);
    int tries = 0;
    if (w->shadow_rows == rows && n)
        do
            rc = dsm_read(r, s->shadow, out, n, remote_timeout_for(r, n));
        while (rc && sure_again(rc, &tries));
    rc = leave_with(r, s, sure_error(rc));
    return rc ? rc : w->shadow_rows != rows;
}

int dsm_segment_snapshot(dsm_remote *r, dsm_segment *s, void *out, uint64_t *rows, int64_t timeout_ns, int *tries,
                         uint64_t *version)
{
    int64_t deadline = deadline_after(timeout_ns);
    struct backoff backoff = BACKOFF_INIT;
    struct segment_words w = {0};
    if (!s->shadow)
        return unversioned();
    for (;;) {
        *tries += *tries <= TRIES;
        int rc = may_write(r) && *tries > TRIES ? exclusive_snapshot(r, s, out, *rows, deadline, &w)
                 : remote_is_mapped(r)          ? mapped_snapshot(r, s, out, *rows, &w)
                                                : remote_snapshot(r, s, out, *rows, &w);
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
            return err_set(DSM_ETIME, 0, "writers overtook every copy; allow more time, or let writers pause");
        backoff_sleep(&backoff, deadline);
    }
}
