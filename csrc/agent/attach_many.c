/*
 * Attaching to many: descriptors are grouped by the pool or region that they name; each group is imported once. Groups
 * of one owner are asked for one behind another. Owners are asked at once: by the caller, and by threads beside it that
 * end with the call.
 */
#include "../base/deadline.h"
#include "../base/thread.h"
#include "../core/remote.h"
#include "agent.h"

#include <stdlib.h>
#include <string.h>

/* ---- reading ---- */

/* The descriptors of one pool, or one of a region, that come with a call. */
struct group {
    struct group *next, *next_alike;
    struct group *same_owner, **last; /* the next group of this owner; last: of the first one, where they end */
    struct group *next_owner;         /* of the first group of an owner */
    struct group *next_first;         /* the same, in the list of 'firsts' */
    dsm_descriptor d;                 /* the first of them */
    size_t number, row;               /* of the group; index of that descriptor */
    size_t n, cap;
    struct asked *asked;
};

enum { GROUP_LISTS = 1024 };

struct reading {
    dsm_remotes *out;
    struct group *groups, **last;
    struct group *alike[GROUP_LISTS];  /* by generation, which is random */
    struct group *firsts[GROUP_LISTS]; /* the first groups of owners by node, which is random, too */
    struct group *owners, **last_owner;
    size_t nowners;
};

static bool same_region(const dsm_descriptor *a, const dsm_descriptor *b)
{
    return a->region == b->region && a->generation == b->generation && !memcmp(a->node, b->node, DSM_NODE_ID);
}

/* Appends a new group to those of its owner. */
static void join_owner(struct reading *r, struct group *g)
{
    uint64_t node;
    memcpy(&node, g->d.node, sizeof node);
    struct group **list = &r->firsts[node % GROUP_LISTS], *first = *list;
    while (first && memcmp(first->d.node, g->d.node, DSM_NODE_ID) != 0)
        first = first->next_first;
    if (first) {
        *first->last = g;
        first->last = &g->same_owner;
        return;
    }
    g->last = &g->same_owner;
    g->next_first = *list;
    *list = g;
    *r->last_owner = g;
    r->last_owner = &g->next_owner;
    r->nowners++;
}

static struct group *group_of(struct reading *r, const dsm_descriptor *d)
{
    struct group **first = &r->alike[d->generation % GROUP_LISTS];
    for (struct group *g = *first; g; g = g->next_alike)
        if (same_region(&g->d, d))
            return g;
    struct group *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->d = *d;
    g->number = r->out->nwholes++;
    g->row = r->out->n;
    *r->last = g;
    r->last = &g->next;
    g->next_alike = *first;
    *first = g;
    join_owner(r, g);
    return g;
}

/* Adds a descriptor, the index of which is out->n. */
static int add(struct reading *r, struct group *g, const struct dsm_part *part)
{
    dsm_remotes *out = r->out;
    out->pieces[out->n] = (struct piece){part->offset, part->nbytes, g->number};
    if (part->generation) {
        if (g->n == g->cap) {
            size_t cap = g->cap ? g->cap * 2 : 64;
            struct asked *p = realloc(g->asked, cap * sizeof *p);
            if (!p)
                return err_set(DSM_ENOMEM, 0, "%zu descriptors", cap);
            g->asked = p;
            g->cap = cap;
        }
        g->asked[g->n++] = (struct asked){*part, out->n};
    }
    out->n++;
    return 0;
}

/* Reads all descriptors into groups and pieces. */
static int read_all(struct reading *r, const uint8_t *bytes, size_t len, size_t *failed)
{
    struct descriptor_reader reader = {.at = bytes, .end = bytes + len};
    struct group *g = NULL;
    dsm_descriptor d;
    int rc = 0;
    while (reader.at < reader.end && !rc) {
        bool same;
        *failed = r->out->n;
        rc = descriptor_next(&reader, &d, &same);
        if (!rc && !same && !(g = group_of(r, &d)))
            rc = err_set(DSM_ENOMEM, 0, "descriptors");
        if (!rc)
            rc = add(r, g, &d.part);
    }
    if (!rc || rc == -DSM_ENOMEM)
        *failed = SIZE_MAX;
    return rc;
}

/* The pieces that are whole regions have the length that the owner has granted. */
static void complete(dsm_remotes *out)
{
    out->mapped = true;
    for (size_t i = 0; i < out->nwholes; i++)
        out->mapped = out->mapped && remote_is_mapped(out->wholes[i]);
    for (size_t i = 0; i < out->n; i++)
        if (!out->pieces[i].nbytes)
            out->pieces[i].nbytes = out->wholes[out->pieces[i].whole]->nbytes;
}

/* ---- asking ---- */

enum { THREADS_MAX = 7 }; /* beside the caller */

struct asking {
    dsm_ctx *c;
    dsm_remote **wholes; /* by number of the group */
    int64_t deadline;
    uint32_t stop; /* the waits of the threads end, and no owner is asked any more */
    bool interrupted;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t cond;
    size_t threads;      /* that have not ended */
    struct group *owner; /* the first group of the next owner that has not been asked */
    int rc;              /* of the failure with the lowest row */
    size_t row, failed;  /* failed: what the call says of it */
    dsm_failure failure;
};

static struct group *next_owner(struct asking *a)
{
    pthread_mutex_lock(&a->lock);
    struct group *g = load_relaxed_u32(&a->stop) ? NULL : a->owner;
    if (g)
        a->owner = g->next_owner;
    pthread_mutex_unlock(&a->lock);
    return g;
}

static void note_failure(struct asking *a, int rc, const struct group *g, const struct wanted *w)
{
    bool of_group = rc != -DSM_ENOMEM && rc != -DSM_ESYS && rc != -DSM_EFORK;
    pthread_mutex_lock(&a->lock);
    if (!a->rc || g->row < a->row) {
        a->rc = rc;
        a->row = g->row;
        a->failed = !of_group ? SIZE_MAX : w->stale < g->n ? g->asked[w->stale].row : g->row;
        a->failure = *dsm_last_error();
    }
    pthread_mutex_unlock(&a->lock);
}

/* Asks owners until none is left. What one of them refuses does not end the questions to others: so the call says the
 * same whichever answers first. */
static int ask_owners(struct asking *a)
{
    int rc = 0;
    for (struct group *g; rc != -DSM_ETIME && rc != -DSM_EFORK && (g = next_owner(a));)
        for (rc = 0; g && !rc; g = g->same_owner) {
            struct wanted w = {.d = &g->d, .asked = g->asked, .n = g->n};
            rc = attach_wanted(a->c, &w, a->deadline, &a->wholes[g->number]);
            if (rc)
                note_failure(a, rc, g, &w);
        }
    return rc;
}

static void *ask_beside(void *arg)
{
    struct asking *a = arg;
    wait_for(&a->stop);
    ask_owners(a);
    pthread_mutex_lock(&a->lock);
    a->threads--;
    pthread_cond_signal(&a->cond);
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

/* Waits for the threads. False: a signal handler has forked, and this is the child, which does not have them. */
static bool wait_for_threads(struct asking *a)
{
    for (bool left = true; left;) {
        struct timespec until = clock_time(deadline_after(WAIT_SLICE_NS));
        if (ctx_forked(a->c))
            return false;
        pthread_mutex_lock(&a->lock);
        if (a->threads)
            pthread_cond_timedwait(&a->cond, &a->lock, &until);
        left = a->threads;
        pthread_mutex_unlock(&a->lock);
        if (left && wait_interrupted()) {
            a->interrupted = true;
            store_relaxed_u32(&a->stop, 1);
        }
    }
    return true;
}

/* Asks all owners. False: this is the child of a fork. */
static bool ask_all(struct asking *a, size_t nowners)
{
    pthread_t threads[THREADS_MAX];
    size_t n = 0, most = nowners - 1 < THREADS_MAX ? nowners - 1 : THREADS_MAX;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&a->cond, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&a->lock, NULL);
    a->threads = most;
    while (n < most && !thread_start(&threads[n], ask_beside, a))
        n++;
    pthread_mutex_lock(&a->lock);
    a->threads -= most - n; /* there were none: the others ask for them */
    pthread_mutex_unlock(&a->lock);
    if (ask_owners(a) == -DSM_ETIME) /* the deadline has passed, or a handler wants the wait to end */
        store_relaxed_u32(&a->stop, 1);
    if (!wait_for_threads(a))
        return false;
    for (size_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    pthread_cond_destroy(&a->cond);
    pthread_mutex_destroy(&a->lock);
    return true;
}

static int attach_groups(dsm_ctx *c, const struct reading *r, int64_t deadline, size_t *failed)
{
    dsm_remotes *out = r->out;
    struct asking a = {.c = c, .deadline = deadline, .owner = r->owners, .failed = SIZE_MAX};
    a.wholes = out->wholes = calloc(out->nwholes + 1, sizeof(dsm_remote *));
    if (!out->wholes)
        return err_set(DSM_ENOMEM, 0, "remotes");
    if (r->nowners && !ask_all(&a, r->nowners))
        return refuse_forked();
    if (a.rc)
        err_again(&a.failure);
    else if (a.interrupted)
        a.rc = err_set(DSM_ETIME, 0, "a signal handler has ended the wait for the agents");
    *failed = a.failed;
    for (size_t i = 0; a.rc && i < out->nwholes; i++)
        if (out->wholes[i])
            dsm_remote_close(out->wholes[i]);
    if (!a.rc)
        complete(out);
    return a.rc;
}

static void drop_groups(struct reading *r)
{
    for (struct group *g; (g = r->groups);) {
        r->groups = g->next;
        free(g->asked);
        free(g);
    }
}

/* An object of its own beside its wholes: each was counted when it was attached. */
static void count_one(dsm_ctx *c)
{
    core_lock(&c->lock);
    c->live_remotes++;
    core_unlock(&c->lock);
}

int dsm_attach_many(dsm_ctx *c, const void *descriptors, size_t len, int64_t timeout_ns, dsm_remotes **out,
                    size_t *failed)
{
    size_t ignored, *bad = failed ? failed : &ignored;
    *bad = SIZE_MAX;
    if (ctx_forked(c))
        return refuse_forked();
    struct reading r = {.out = calloc(1, sizeof *r.out)};
    r.last = &r.groups;
    r.last_owner = &r.owners;
    if (r.out)
        r.out->pieces = calloc(len / DESC_MIN + 1, sizeof *r.out->pieces);
    int64_t deadline = attach_deadline(c, timeout_ns);
    int rc = r.out && r.out->pieces ? 0 : err_set(DSM_ENOMEM, 0, "remotes");
    if (!rc)
        rc = read_all(&r, descriptors, len, bad);
    if (!rc) {
        r.out->ctx = c;
        rc = attach_groups(c, &r, deadline, bad);
    }
    drop_groups(&r);
    if (rc && r.out) {
        free(r.out->wholes);
        free(r.out->pieces);
        free(r.out);
        return rc;
    }
    if (rc)
        return rc;
    count_one(c);
    *out = r.out;
    return 0;
}
