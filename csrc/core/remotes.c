/* Many parts of what has been attached at once: their handle, and remotes of single ones. many.c has their ops. */
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
