/* Many parts of what has been attached at once: ops that address them by number, and remotes of single ones. */
#include "../base/mapped_ops.h"
#include "remote.h"

#include <stdlib.h>

size_t dsm_remotes_count(const dsm_remotes *r) { return r->n; }

void dsm_remotes_sizes(const dsm_remotes *r, uint64_t *nbytes)
{
    for (size_t i = 0; i < r->n; i++)
        nbytes[i] = r->pieces[i].nbytes;
}

int dsm_remotes_get(const dsm_remotes *r, size_t i, dsm_remote **out)
{
    if (ctx_forked(r->ctx))
        return refuse_forked();
    if (i >= r->n)
        return err_set(DSM_EBOUNDS, 0, "region %zu of %zu", i, r->n);
    const struct piece *p = &r->pieces[i];
    return remote_part(r->wholes[p->whole], p->offset, p->nbytes, out);
}

int dsm_remotes_close(dsm_remotes *r)
{
    dsm_ctx *c = r->ctx;
    bool forked = ctx_forked(c);
    for (size_t i = 0; i < r->nwholes && !forked; i++)
        if (load_acquire_u32(&r->wholes[i]->users))
            return err_set(DSM_EBUSY, 0, "%u ops are under way", load_acquire_u32(&r->wholes[i]->users));
    if (forked)
        return 0;
    for (size_t i = 0; i < r->nwholes; i++)
        dsm_remote_close(r->wholes[i]);
    free(r->wholes);
    free(r->pieces);
    free(r);
    ctx_leave(c, &c->live_remotes);
    return 0;
}

/* ---- many ops of one size ---- */

/* Finds byte 'offset' of a region, and checks that 'each' bytes from there on may be accessed. */
static int locate(const dsm_remotes *r, uint64_t region, uint64_t offset, uint64_t each, uint32_t right,
                  dsm_remote **whole, uint64_t *at)
{
    if (region >= r->n)
        return err_set(DSM_EBOUNDS, 0, "region %llu of %zu", (unsigned long long)region, r->n);
    const struct piece *p = &r->pieces[region];
    if (each > p->nbytes || offset > p->nbytes - each)
        return err_set(DSM_EBOUNDS, 0, "offset %llu + %llu bytes, region %llu has %llu", (unsigned long long)offset,
                       (unsigned long long)each, (unsigned long long)region, (unsigned long long)p->nbytes);
    *whole = r->wholes[p->whole];
    *at = p->offset + offset;
    return remote_check(*whole, *at, each, right);
}

struct many {
    dsm_remotes *r;
    const uint64_t *regions, *offsets;
    size_t n;
    uint8_t *local;
    uint64_t each;
    uint8_t code;
};

/* The numbers may change after they have been checked: each is loaded once for each use, and checked then. */
static int locate_next(const struct many *m, size_t i, dsm_remote **whole, uint64_t *at)
{
    return locate(m->r, load_relaxed_u64(&m->regions[i]), load_relaxed_u64(&m->offsets[i]), m->each,
                  m->code == DSM_OP_READ ? DSM_READ : DSM_WRITE, whole, at);
}

static int check_all(const struct many *m)
{
    dsm_remote *whole;
    uint64_t at;
    int rc = 0;
    for (size_t i = 0; i < m->n && !rc; i++)
        rc = locate_next(m, i, &whole, &at);
    return rc;
}

static int move_mapped(const struct many *m)
{
    dsm_remote *whole;
    uint64_t at;
    int rc = check_all(m);
    for (size_t i = 0; i < m->n && !rc; i++) {
        if ((rc = locate_next(m, i, &whole, &at)))
            break;
        if (m->code == DSM_OP_READ)
            mapped_read(whole->mapped + at, m->local + i * m->each, m->each);
        else
            mapped_write(whole->mapped + at, m->local + i * m->each, m->each);
    }
    return rc;
}

static int move_remote(const struct many *m, int64_t timeout_ns)
{
    dsm_op *ops = malloc(m->n * sizeof *ops);
    if (!ops)
        return err_set(DSM_ENOMEM, 0, "%zu ops", m->n);
    int rc = 0;
    for (size_t i = 0; i < m->n && !rc; i++) {
        dsm_remote *whole;
        uint64_t at;
        if (!(rc = locate_next(m, i, &whole, &at)))
            ops[i] = (dsm_op){
                .code = m->code, .remote = whole, .offset = at, .local = m->local + i * m->each, .nbytes = m->each};
    }
    if (!rc)
        rc = dsm_execute(m->r->ctx, ops, m->n, timeout_ns, NULL);
    free(ops);
    return rc;
}

static int move(const struct many *m, int64_t timeout_ns)
{
    if (ctx_forked(m->r->ctx))
        return refuse_forked();
    if (!m->n)
        return 0;
    return m->r->mapped ? move_mapped(m) : move_remote(m, timeout_ns);
}

int dsm_remotes_read_many(dsm_remotes *r, const uint64_t *regions, const uint64_t *offsets, size_t n, void *out,
                          uint64_t each, int64_t timeout_ns)
{
    struct many m = {r, regions, offsets, n, out, each, DSM_OP_READ};
    return move(&m, timeout_ns);
}

int dsm_remotes_write_many(dsm_remotes *r, const uint64_t *regions, const uint64_t *offsets, size_t n, const void *data,
                           uint64_t each, int64_t timeout_ns)
{
    struct many m = {r, regions, offsets, n, (uint8_t *)(uintptr_t)data, each, DSM_OP_WRITE};
    return move(&m, timeout_ns);
}
