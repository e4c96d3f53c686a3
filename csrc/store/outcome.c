/* The blocking driver of doubt.h. */
#include "../base/deadline.h"
#include "../base/error.h"
#include "../core/remote.h"
#include "client.h"
#include "doubt.h"

#include <stdlib.h>

void dsm_store_doubt_of(const dsm_store *s, dsm_store_doubt *out) { *out = s->doubt; }

static int drive(dsm_store *s, struct store_outcome *m)
{
    struct store_env env = s->env;
    for (;;) {
        int rc = 0;
        store_ask(&env);
        switch (store_outcome_step(m, &env)) {
        case STORE_POST:
            store_insist(s, m->ops, m->n);
            break;
        case STORE_SLEEP:
            store_sleep(m->look.sleep_ns);
            if (wait_interrupted())
                rc = err_set(DSM_ETIME, 0, "a signal handler ended the wait for page %llu",
                             (unsigned long long)m->look.pid);
            break;
        case STORE_RECOVER:
            rc = store_explain(s, store_recover(s, m->look.locked, m->look.lock, m->look.copy));
            break;
        default:
            return store_explain(s, m->status);
        }
        if (rc)
            return rc;
    }
}

int dsm_store_outcome(dsm_store *s, const dsm_store_doubt *of, size_t n, int *outcome)
{
    struct store_outcome *m = calloc(1, sizeof *m);
    *outcome = DSM_STORE_UNKNOWN;
    if (!m)
        return err_set(DSM_ENOMEM, 0, "a look at pages that are in doubt");
    m->of = of;
    m->count = n;
    int rc = store_enter(s);
    if (!rc)
        rc = store_exit(s, drive(s, m));
    *outcome = rc ? DSM_STORE_UNKNOWN : m->is;
    free(m);
    return rc;
}
