/* Endpoints of shm: ops complete in post. They are used by the fault fabric only, since the core itself executes ops on
 * mapped memory (core/ops.c). */
#include "../../base/mapped_ops.h"
#include "shm.h"

#include <stdlib.h>

int shm_ep_open(struct fabric_dev *d, bool passive, struct fabric_ep **out)
{
    (void)passive;
    struct fabric_ep *e = calloc(1, sizeof *e);
    if (!e)
        return err_set(DSM_ENOMEM, 0, "shm endpoint");
    e->dev = d;
    *out = e;
    return 0;
}

void shm_ep_abort(struct fabric_ep *e) { e->broken = true; }

void shm_ep_close(struct fabric_ep *e) { free(e); }

void shm_post(struct fabric_ep *e, struct fabric_op *list)
{
    fetch_add_u64(&e->dev->stats->doorbells, 1);
    while (list) {
        struct fabric_op *w = list;
        list = w->next;
        assert(fabric_op_checked(w->op));
        if (e->broken) {
            fabric_op_done(w, -DSM_ECANCELED);
            continue;
        }
        const struct fabric_remote *r = fabric_remote_of(w->op);
        if (load_acquire_u32(r->state) != SHM_LIVE) {
            fabric_op_done(w, -DSM_ESTALE);
            continue;
        }
        mapped_execute(r->mapped + fabric_target_of(w->op)->base, w->op);
        fabric_op_done(w, 0);
    }
}

int shm_poll(struct fabric_ep *e)
{
    (void)e;
    return 0;
}

int shm_arm(struct fabric_ep *e)
{
    (void)e;
    return 0;
}
