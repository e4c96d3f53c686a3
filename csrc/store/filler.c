/* The blocking driver of a copy that is made again (fill.h). Ops that fail are sent again. */
#include "../base/error.h"
#include "../core/core.h"
#include "../core/remote.h"
#include "../objects/sure.h"
#include "fill.h"
#include "place.h"

#include <stdlib.h>

enum { WINDOW_BYTES = 4 << 20 };
enum { BATCH = 512 }; /* heads, while clients change them: pages of one that was read long ago have changed */

struct dsm_store_filler {
    struct store_shape shape;
    struct store_fill m;
};

/* Both of one extent of a store, which differ. One that replaces the other has its number, and belongs to no epoch. */
static int look_at_both(dsm_remote *from, dsm_remote *to, struct store_shape *shape)
{
    struct store_shape one, other;
    int rc = from->ctx && to->ctx ? place_look(from, &one, NULL)
                                  : err_set(DSM_EUNSUPPORTED, 0, "a copy of a store in a file; attach by a context");
    if (!rc)
        rc = place_look(to, &other, NULL);
    bool replaces = !rc && one.index == other.index && one.epoch && !other.epoch;
    if (!rc && (!store_same(&one, &other) || one.extent != other.extent || (one.index == other.index && !replaces)))
        rc = err_set(DSM_EMISMATCH, 0,
                     "copy %u of extent %u of a store, and copy %u of extent %u of the same or another one; pass two "
                     "copies of one extent",
                     one.index, one.extent, other.index, other.extent);
    if (!rc)
        *shape = one;
    return rc;
}

int dsm_store_fill_new(dsm_remote *from, dsm_remote *to, dsm_store_filler **out)
{
    dsm_store_filler *f = calloc(1, sizeof *f);
    if (!f)
        return err_set(DSM_ENOMEM, 0, "what fills a copy of a store");
    int rc = look_at_both(from, to, &f->shape);
    uint64_t frame = sizeof(struct frame_header) + f->shape.page_bytes, most = WINDOW_BYTES / frame;
    f->m = (struct store_fill){.shape = &f->shape, .to = to, .over = true, .batch = BATCH};
    f->m.window = most < FILL_WINDOW ? (uint32_t)most : FILL_WINDOW;
    f->m.seen = rc ? NULL : malloc(f->shape.pages * sizeof *f->m.seen);
    f->m.frames = rc ? NULL : malloc(f->m.window * frame);
    if (!rc && (!f->m.seen || !f->m.frames))
        rc = err_set(DSM_ENOMEM, 0, "the heads of %llu pages", (unsigned long long)f->shape.pages);
    if (rc) {
        dsm_store_fill_drop(f);
        return rc;
    }
    for (uint64_t i = 0; i < f->shape.pages; i++)
        f->m.seen[i] = FILL_UNSEEN;
    f->m.from = from;
    f->m.mixes = !remote_reads_whole(from);
    *out = f;
    return 0;
}

void dsm_store_fill_drop(dsm_store_filler *f)
{
    free(f->m.seen);
    free(f->m.frames);
    free(f);
}

/* All on one remote. */
static int execute(dsm_op *ops, uint32_t n)
{
    dsm_remote *r = ops->remote;
    uint64_t nbytes = 0;
    for (uint32_t i = 0; i < n; i++)
        nbytes += ops[i].nbytes;
    return dsm_execute(r->ctx, ops, n, remote_timeout_for(r, nbytes), NULL);
}

static int insist(dsm_op *ops, uint32_t n)
{
    int rc, tries = 0;
    do {
        rc = err_known(execute(ops, n));
        if (!rc && wait_interrupted())
            return err_set(DSM_ETIME, 0, "a signal handler ended the copy of a store; call it again to go on");
    } while (rc && sure_again(rc == -DSM_EUNKNOWN ? -DSM_EIO : rc, &tries) && !wait_interrupted());
    return sure_error(rc);
}

/* Says which of the two the failure of an op is about. */
static int explain(const dsm_remote *r, int rc)
{
    dsm_failure f = *dsm_last_error();
    return err_set_op(-rc, f.cause, f.status, f.vendor, "the copy of the store at %s: %s", dsm_remote_address(r),
                      f.code == -rc ? f.detail : dsm_strerror(rc));
}

/* An error ends the round where it is; the next call goes on there. */
static int run(dsm_store_filler *f, dsm_store_filled *out)
{
    struct store_fill *m = &f->m;
    int rc = 0;
    while (!rc && store_fill_step(m) == STORE_POST)
        rc = insist(m->ops, m->n);
    if (rc) {
        rc = explain(m->ops->remote, rc);
        m->step = FILL_BEGINS;
    }
    *out = (dsm_store_filled){.copied = m->copied, .left = m->left, .damaged = m->damaged, .done = m->over};
    out->passed = m->over ? m->shape->pages : m->at;
    return rc ? rc : m->status;
}

int dsm_store_fill_round(dsm_store_filler *f, uint64_t most_bytes, dsm_store_filled *out)
{
    f->m.most = most_bytes;
    return run(f, out);
}

int dsm_store_fill_finish(dsm_store_filler *f, dsm_remote *from, dsm_store_filled *out)
{
    dsm_remote *before = f->m.from;
    struct store_shape same;
    int rc = look_at_both(from, f->m.to, &same);
    *out = (dsm_store_filled){0};
    if (rc)
        return rc;
    f->m.from = from;
    f->m.last = true;
    f->m.batch = FILL_HEADS;
    rc = run(f, out);
    f->m.from = rc ? before : from;
    f->m.last = false;
    f->m.batch = BATCH;
    f->m.at = 0; /* it may be among words that are no heads: a round begins with the first page */
    f->m.over = true;
    return rc;
}
