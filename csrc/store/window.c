/*
 * Many pages of memory that is not mapped: up to WINDOW machines take their steps together, and what they post goes out
 * as one list of ops. So a window costs as many round trips as the slowest of its pages, not the sum of all.
 *
 * Nothing is under way while machines take their steps. Two machines on one page take turns, in the order of the call.
 * A chunk is opened only when no machine has a frame: then every compare-swap that names one has been decided.
 *
 * When a machine fails, those before it go on. Those behind it end, but for those whose own change is in doubt, or not
 * yet at all copies.
 */
#include "window.h"

#include "../base/deadline.h"
#include "../base/error.h"
#include "../core/core.h"
#include "posting.h"

#include <stdlib.h>

enum { WINDOW = DSM_STORE_DOUBTS, WINDOW_BYTES = 4 << 20, NONE = -1 };
enum { OPENING_COSTS = 8 }; /* postings; as long as the frames at hand need no more, they are used first */

enum is { BEGINS, POSTS, SLEEPS, LACKS_FRAMES, MEETS_LOCK, ENDED };

struct place {
    struct store_op m;
    enum is is;
    int64_t until; /* SLEEPS */
    int behind;    /* the last one before it that is on the same page, or NONE */
    bool again;    /* POSTS: only those that were cancelled */
    bool done;     /* ENDED: and it was */
};

struct store_window {
    struct place places[WINDOW];
    dsm_op ops[STORE_OPS_MOST * WINDOW], *of[STORE_OPS_MOST * WINDOW]; /* those of machines, for the posting */
    uint32_t n, failed;                                                /* the first that has failed, or n */
    dsm_failure failure;
    uint32_t canceled;   /* postings in a row of which an op was cancelled */
    uint64_t has_opened; /* extents with a chunk of which no frame has been used, a bit each */
    uint8_t *copies;     /* of the pages that are written, one for each place */
    bool hurries;        /* as of struct store_op */
    uint8_t *statuses;   /* of the pages of the call; a page that fails by itself has not failed then. Or NULL */
};

/* How many pages. */
static uint32_t window_of(uint64_t page_bytes)
{
    return WINDOW_BYTES / page_bytes < WINDOW ? (uint32_t)(WINDOW_BYTES / page_bytes) : WINDOW;
}

struct store_window *window_new(uint64_t page_bytes)
{
    struct store_window *w = calloc(1, sizeof *w);
    if (w && !(w->copies = malloc(window_of(page_bytes) * page_bytes))) {
        free(w);
        return NULL;
    }
    return w;
}

void window_free(struct store_window *w)
{
    if (w)
        free(w->copies);
    free(w);
}

/* ---- steps ---- */

static bool waits_its_turn(const struct store_window *w, const struct place *p)
{
    return p->behind != NONE && w->places[p->behind].is != ENDED;
}

static void end(dsm_store *s, struct store_window *w, uint32_t i, int status)
{
    w->places[i].is = ENDED;
    w->places[i].done = !status;
    if (!status || i >= w->failed || (w->statuses && w->places[i].m.of_page))
        return;
    w->failed = i;
    store_explain(s, status);
    w->failure = *dsm_last_error();
    w->failure.code = -status;
}

static void step(dsm_store *s, struct store_window *w, uint32_t i, struct store_env *e)
{
    struct place *p = &w->places[i];
    e->copy = w->copies + (uint64_t)i * e->shape->page_bytes;
    switch (store_step(&p->m, e)) {
    case STORE_POST:
        p->is = POSTS;
        p->again = false;
        return;
    case STORE_SLEEP:
        p->is = SLEEPS;
        p->until = e->now + p->m.sleep_ns;
        return;
    case STORE_FRAMES:
        p->is = LACKS_FRAMES;
        return;
    case STORE_RECOVER:
        p->is = MEETS_LOCK;
        return;
    default:
        end(s, w, i, p->m.status);
    }
}

/* Behind the one that has failed. */
static void give_up_rest(struct store_window *w, struct store_env *e)
{
    for (uint32_t i = w->failed + 1; i < w->n; i++) {
        struct place *p = &w->places[i];
        if (p->is == ENDED || store_must_go_on(&p->m) || (p->is == POSTS && p->again && p->m.step == OP_PUTS))
            continue;
        if (p->is == POSTS)
            store_give_up(&p->m, e);
        p->is = ENDED;
    }
}

static void step_all(dsm_store *s, struct store_window *w, struct store_env *e)
{
    store_ask(e);
    for (uint32_t i = 0; i < w->n; i++)
        if (w->places[i].is == BEGINS && !waits_its_turn(w, &w->places[i]))
            step(s, w, i, e);
    give_up_rest(w, e);
}

static uint32_t count(const struct store_window *w, enum is is)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n; i++)
        n += w->places[i].is == is;
    return n;
}

/* ---- posting ---- */

/* Another one's failure has ended its ops. Those have certainly had no effect; others of the machine may have. */
static bool was_canceled(const dsm_op *ops, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (store_was_canceled(ops, n, i))
            return true;
    return false;
}

static bool is_due(const struct place *p, uint32_t k) { return !p->again || store_was_canceled(p->m.ops, p->m.n, k); }

/* The first op of each, then the second of each: fabrics send ops that are alike together. */
static void execute(dsm_store *s, struct store_window *w)
{
    uint32_t n = 0;
    for (uint32_t k = 0, left = 1; left; k++) {
        left = 0;
        for (uint32_t i = 0; i < w->n; i++) {
            if (w->places[i].is != POSTS || k >= w->places[i].m.n)
                continue;
            left++;
            if (is_due(&w->places[i], k)) {
                w->of[n] = &w->places[i].m.ops[k];
                w->ops[n++] = w->places[i].m.ops[k];
            }
        }
    }
    posting_execute(s, w->ops, n);
    for (uint32_t i = 0; i < n; i++)
        *w->of[i] = w->ops[i];
}

static void post(dsm_store *s, struct store_window *w)
{
    uint32_t canceled = 0;
    bool interrupted = false;
    execute(s, w);
    for (uint32_t i = 0; i < w->n; i++) {
        struct place *p = &w->places[i];
        if (p->is != POSTS)
            continue;
        p->is = BEGINS;
        if (w->canceled == STORE_CANCELED_MOST || interrupted || !was_canceled(p->m.ops, p->m.n))
            continue;
        interrupted = !canceled++ && wait_interrupted();
        p->is = interrupted ? BEGINS : POSTS;
        p->again = true;
    }
    w->canceled = canceled ? w->canceled + 1 : 0;
    w->has_opened = 0;
}

/* ---- frames, and sleeping ---- */

static bool lacks(const struct place *p, uint32_t extent) { return p->is == LACKS_FRAMES && p->m.extent == extent; }

static void open_chunk(dsm_store *s, struct store_window *w, uint32_t extent)
{
    uint32_t lack = 0, free = (uint32_t)__builtin_popcountll(s->frames[extent].free);
    int rc = 0;
    for (uint32_t i = 0; i < w->n; i++)
        lack += lacks(&w->places[i], extent);
    if (!(w->has_opened >> extent & 1) && lack > OPENING_COSTS * free) {
        rc = store_open_chunk(s, extent);
        w->has_opened |= 1ull << extent;
    }
    for (uint32_t i = 0; rc && i < w->n; i++)
        if (lacks(&w->places[i], extent))
            end(s, w, i, rc);
}

/* A put that sleeps may have locked backups alone: to the opening of a chunk its frame is free. And before that, locks
 * that are kept are resolved: those of its page are its own now. */
static bool any_puts(const dsm_store *s, const struct store_window *w, uint32_t extent)
{
    for (uint32_t i = 0; i < w->n; i++) {
        const struct place *p = &w->places[i];
        if (p->is != ENDED && p->m.step == OP_PUTS && extent_of(&s->shape, page_number(p->m.pid)) == extent)
            return true;
    }
    return false;
}

/* In the extents where it may be done now; false: in none. */
static bool open_chunks(dsm_store *s, struct store_window *w)
{
    uint64_t opened = 0;
    for (uint32_t i = 0; i < w->n; i++) {
        struct place *p = &w->places[i];
        uint32_t extent = p->m.extent;
        if (p->is != LACKS_FRAMES || (!(opened >> extent & 1) && any_puts(s, w, extent)))
            continue;
        if (!(opened >> extent & 1))
            open_chunk(s, w, extent);
        opened |= 1ull << extent;
        p->is = p->is == LACKS_FRAMES ? BEGINS : p->is;
    }
    return opened;
}

static void recover(dsm_store *s, struct store_window *w)
{
    for (uint32_t i = 0; i < w->n; i++) {
        struct place *p = &w->places[i];
        if (p->is != MEETS_LOCK)
            continue;
        p->is = BEGINS;
        int rc = store_recover(s, p->m.locked, p->m.lock, p->m.copy);
        if (rc && !store_must_go_on(&p->m))
            end(s, w, i, rc);
    }
}

static void sleep_for_the_first(struct store_window *w)
{
    int64_t until = DEADLINE_NEVER, now = clock_ns();
    for (uint32_t i = 0; i < w->n; i++)
        if (w->places[i].is == SLEEPS && w->places[i].until < until)
            until = w->places[i].until;
    if (until > now)
        store_sleep(until - now);
    for (uint32_t i = 0; i < w->n; i++)
        if (w->places[i].is == SLEEPS && w->places[i].until <= until)
            w->places[i].is = BEGINS;
}

/* ---- a window ---- */

static bool end_interrupted(dsm_store *s, struct store_window *w, struct store_env *e)
{
    if (!wait_interrupted())
        return false;
    for (uint32_t i = 0; i < w->n; i++) {
        struct place *p = &w->places[i];
        if (p->is == ENDED)
            continue;
        store_give_up(&p->m, e);
        end(s, w, i, p->m.status ? p->m.status : err_set(DSM_ETIME, 0, "a signal handler ended the call"));
    }
    return true;
}

static void run(dsm_store *s, struct store_window *w)
{
    struct store_env env = s->env;
    for (;;) {
        step_all(s, w, &env);
        if (count(w, POSTS)) {
            post(s, w);
        } else if (open_chunks(s, w)) {
            continue;
        } else if (count(w, MEETS_LOCK)) {
            recover(s, w);
        } else if (count(w, SLEEPS)) {
            sleep_for_the_first(w);
            if (end_interrupted(s, w, &env))
                return;
        } else {
            return;
        }
    }
}

static void begin(struct store_window *w, enum store_kind kind, const uint64_t *pids, uint8_t *pages, uint64_t each,
                  int64_t ends)
{
    w->failed = w->n;
    w->canceled = 0;
    w->has_opened = 0;
    for (uint32_t i = 0; i < w->n; i++) {
        struct place *p = &w->places[i];
        store_op_begin(&p->m, kind, pids[i], pages + i * each);
        p->m.ends = ends;
        p->m.hurries = w->hurries;
        p->is = BEGINS;
        p->behind = (int)i - 1;
        p->again = p->done = false;
        while (p->behind != NONE && page_number(w->places[p->behind].m.pid) != page_number(p->m.pid))
            p->behind--;
    }
}

static int failed_at(enum store_kind kind, size_t i, size_t n, const dsm_failure *f)
{
    return err_set_op(f->code, f->cause, f->status, f->vendor, "ids[%zu] of %zu: %s%s", i, n, f->detail,
                      kind_changes(kind) ? " (those before it were done, and some after it may have been)" : "");
}

int window_run(dsm_store *s, enum store_kind kind, const uint64_t *pids, size_t n, const void *pages,
               uint64_t *versions, uint8_t *statuses)
{
    int rc = store_enter(s);
    if (rc)
        return rc;
    s->window->n = 0; /* no doubt of a call before is this one's */
    rc = kind_changes(kind) ? store_may_change(s) : 0;
    if (rc)
        return store_exit(s, rc);
    s->window->statuses = statuses;
    s->window->hurries = false;
    rc = window_operate(s, kind, pids, n, pages, versions, NULL, 0);
    s->window->statuses = NULL;
    return store_exit(s, rc);
}

/* Of a page with several copies a machine notes a change only if its outcome is unknown, whatever it ends with. */
uint32_t dsm_store_doubts(const dsm_store *s, dsm_store_doubt *out)
{
    const struct store_window *w = s->window;
    uint32_t n = 0;
    for (uint32_t i = 0; w && i < w->n; i++) {
        const struct store_op *m = &w->places[i].m;
        if (m->doubt.pid && (m->status == -DSM_EUNKNOWN || copies_of_page(&s->env, page_number(m->doubt.pid)) > 1))
            out[n++] = m->doubt;
    }
    return n;
}

int window_operate(dsm_store *s, enum store_kind kind, const uint64_t *pids, size_t n, const void *pages,
                   uint64_t *versions, uint64_t *heads, int64_t ends)
{
    struct store_window *w = s->window;
    uint64_t each = s->shape.page_bytes, most = window_of(each);
    uint8_t *at = (uint8_t *)(uintptr_t)pages;
    int rc = 0;
    for (size_t from = 0; from < n && !rc; from += w->n) {
        if (from && wait_interrupted()) {
            rc = err_set(DSM_ETIME, 0, "a signal handler ended the call before ids[%zu]", from);
            break;
        }
        w->n = (uint32_t)(n - from < most ? n - from : most);
        begin(w, kind, pids + from, at + from * each, each, ends);
        run(s, w);
        for (uint32_t i = 0; versions && i < w->n; i++)
            versions[from + i] = w->places[i].done ? w->places[i].m.version : 0;
        for (uint32_t i = 0; w->statuses && i < w->n; i++) {
            w->statuses[from + i] = w->places[i].m.of_page ? (uint8_t)-w->places[i].m.status : 0;
            w->hurries |= w->statuses[from + i] == DSM_EBUSY;
        }
        for (uint32_t i = 0; heads && i < w->failed; i++)
            heads[from + i] = w->places[i].m.guess;
        if (w->failed < w->n)
            rc = failed_at(kind, from + w->failed, n, &w->failure);
    }
    return rc;
}
