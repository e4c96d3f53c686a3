/* The blocking driver of a client's machines, and its turn. */
#include "client.h"

#include "../base/deadline.h"
#include "../base/mapped_ops.h"
#include "../core/remote.h"
#include "freed.h"
#include "place.h"
#include "posting.h"

#include <time.h>

/* ---- one thread at a time ---- */

/* A call that waits may run signal handlers. One that uses the handle would change chunk and frames under the call that
 * it has interrupted. */
int store_enter(dsm_store *s)
{
    if (s->leaving)
        return err_set(DSM_ECLOSED, 0, "the store is being closed");
    uint64_t user = remote_is_mapped(s->at[0]) ? 0 : compare_swap_u64(&s->user, 0, this_thread());
    if (!user) {
        if (!remote_is_mapped(s->at[0]))
            posting_begin(s);
        return 0;
    }
    return user == this_thread() ? dsm_refuse_reentry("store")
                                 : err_set(DSM_EBUSY, 0, "another thread is in a call with this handle of a store");
}

void dsm_store_demand(dsm_store *s, uint32_t copies) { s->demanded = copies; }

int dsm_store_has_demanded(const dsm_store *s) { return s->fewest >= s->demanded; }

int store_may_change(const dsm_store *s)
{
    return dsm_store_has_demanded(s) ? 0
                                     : err_set(DSM_ECOPIES, 0, "%u of %u copies count, and %u are demanded", s->fewest,
                                               s->shape.copies, s->demanded);
}

int store_enter_to_change(dsm_store *s)
{
    int rc = store_enter(s);
    if (!rc && (rc = store_may_change(s)))
        store_exit(s, rc);
    return rc;
}

int store_exit(dsm_store *s, int rc)
{
    if (!remote_is_mapped(s->at[0])) {
        posting_unlock(s);
        store_release_u64(&s->user, 0);
    }
    return rc;
}

/* ---- machines ---- */

/* The first of the ops at the end that were certainly not executed, since their connection ended while the owner lives.
 * n: there is none, or another op has failed. */
static uint32_t first_canceled(const dsm_op *ops, uint32_t n)
{
    uint32_t first = n;
    while (first && ops[first - 1].status == -DSM_ECANCELED)
        first--;
    for (uint32_t i = 0; i < first; i++)
        if (ops[i].status)
            return n;
    return first;
}

void store_insist(dsm_store *s, dsm_op *ops, uint32_t n)
{
    if (store_places(&s->env) > 1) {
        posting_insist(s, ops, n);
        return;
    }
    for (int i = 0; n && i < STORE_CANCELED_MOST && !(i && wait_interrupted()); i++) {
        posting_execute(s, ops, n);
        uint32_t first = first_canceled(ops, n);
        ops += first;
        n -= first;
    }
}

int store_recover(dsm_store *s, uint64_t number, uint64_t lock, uint32_t copy)
{
    return posting_recover(s, number, lock, copy);
}

int store_explain(dsm_store *s, int rc) { return rc ? posting_explain(s, rc) : 0; }

void store_sleep(int64_t ns) { nanosleep(&(struct timespec){.tv_nsec = ns}, NULL); }

static int open_chunk(dsm_store *s, uint32_t extent, bool whole)
{
    struct store_chunking m = {.extent = extent, .whole = whole, .step = CHUNK_BEGINS};
    struct store_env env = s->env;
    store_ask(&env);
    while (store_open_chunk_step(&m, &env) == STORE_POST)
        store_insist(s, m.ops, m.n);
    return store_explain(s, err_known(m.status)); /* whatever became of the chunk: the write has not begun */
}

/* When all heads say that no frame is free, dead clients may have some. To look at each chunk takes long. */
int store_open_chunk(dsm_store *s, uint32_t extent)
{
    if (s->frames[extent].doubt)
        posting_try_kept(s, 1ull << extent);
    int rc = open_chunk(s, extent, false);
    if (rc != -DSM_EBUSY || s->frames[extent].doubt)
        return rc;
    int found = place_reap(s);
    if (found < 0)
        return store_explain(s, found);
    if (found)
        freed_all_changed(freed_of(&s->env, extent));
    return open_chunk(s, extent, true);
}

/* A put that sleeps ends then, and what has become of it is said; other machines have changed nothing. */
static int interrupted(dsm_store *s, struct store_op *m, struct store_env *e)
{
    store_give_up(m, e);
    return m->status
               ? store_explain(s, m->status)
               : err_set(DSM_ETIME, 0, "a signal handler ended the wait for page %llu", (unsigned long long)m->pid);
}

int store_drive(dsm_store *s, struct store_op *m)
{
    struct store_env env = s->env; /* time and chance of this thread: reads run beside each other */
    for (;;) {
        int rc = 0;
        store_ask(&env);
        switch (store_step(m, &env)) {
        case STORE_POST:
            store_insist(s, m->ops, m->n);
            break;
        case STORE_SLEEP: /* no op is under way */
            store_sleep(m->sleep_ns);
            if (wait_interrupted())
                rc = interrupted(s, m, &env);
            break;
        case STORE_FRAMES:
            rc = store_open_chunk(s, m->extent);
            break;
        case STORE_RECOVER:
            rc = store_explain(s, store_recover(s, m->locked, m->lock, m->copy));
            rc = store_must_go_on(m) ? 0 : rc; /* it waits on, with what it has locked */
            break;
        default:
            rc = store_explain(s, m->status);
            return rc == -DSM_EBUSY ? posting_name_client(s, rc, m->lock) : rc;
        }
        if (rc)
            return rc;
    }
}
