/* The blocking driver of recovery (recover.h). What its ops do may be done twice, so those that fail are sent again. */
#include "../base/error.h"
#include "../core/core.h"
#include "../core/remote.h"
#include "../objects/sure.h"
#include "place.h"
#include "recover.h"

#include <stdlib.h>
#include <string.h>

/* What has survived of a store: its places, those of an extent beside each other, and of each extent the members. */
struct survivors {
    struct store_shape shape;
    uint32_t n;
    uint32_t extents[STORE_PLACES_MOST]; /* of those that were given */
    dsm_remote *at[STORE_PLACES_MOST];
    uint8_t first[STORE_PLACES_MOST + 1];
    uint64_t members[STORE_PLACES_MOST];
};

/* All copies of one store, each of them once. */
static int look_at_all(dsm_remote *const *given, struct survivors *s, uint32_t *failed)
{
    uint64_t found[STORE_PLACES_MOST] = {0};
    for (uint32_t k = 0; k < s->n; k++) {
        struct store_shape one;
        *failed = k;
        int rc = place_look(given[k], &one, NULL);
        if (!rc && k && !store_same(&one, &s->shape))
            rc = err_set(DSM_EMISMATCH, 0, "it is a copy of another store than the first");
        if (!rc && found[one.extent] >> one.index & 1)
            rc = err_set(DSM_EMISMATCH, 0, "copy %u of extent %u of the store is named twice", one.index, one.extent);
        if (rc)
            return rc;
        if (!found[one.extent]) /* the primary */
            s->members[one.extent] = store_members(0, one.index);
        found[one.extent] |= 1ull << one.index;
        s->members[one.extent] |= 1ull << one.index;
        s->extents[k] = one.extent;
        if (!k || one.epoch > s->shape.epoch) /* some may have missed it: a change of epoch that was not ended */
            s->shape = one;
    }
    *failed = 0;
    return 0;
}

/* The places of an extent keep the order in which they were given. */
static int sort(dsm_remote *const *given, struct survivors *s)
{
    uint32_t n = 0;
    for (uint32_t x = 0; x < s->shape.extents; x++) {
        s->first[x] = (uint8_t)n;
        for (uint32_t k = 0; k < s->n; k++)
            if (s->extents[k] == x)
                s->at[n++] = given[k];
        if (n == s->first[x])
            return err_set(DSM_EMISMATCH, 0, "no copy of extent %u of the store is among them: pass one of each of %u",
                           x, s->shape.extents);
    }
    s->first[s->shape.extents] = (uint8_t)n;
    return 0;
}

static uint32_t copy_of(dsm_remote *const *given, const dsm_op *op)
{
    uint32_t k = 0;
    while (given[k] != op->remote)
        k++;
    return k;
}

static int post(struct store_recovery *m, dsm_remote *const *given, uint32_t *failed)
{
    uint64_t nbytes = 0;
    int rc = 0, tries = 0;
    for (uint32_t i = 0; i < m->n; i++)
        nbytes += m->ops[i].nbytes;
    do {
        size_t at = 0;
        rc = err_known(dsm_execute(given[0]->ctx, m->ops, m->n, remote_timeout_for(given[0], nbytes), &at));
        if (rc)
            *failed = copy_of(given, &m->ops[at < m->n ? at : 0]);
        if (!rc && wait_interrupted())
            return err_set(DSM_ETIME, 0, "a signal handler ended the recovery of a store; begin it again");
    } while (rc && sure_again(rc == -DSM_EUNKNOWN ? -DSM_EIO : rc, &tries) && !wait_interrupted());
    return sure_error(rc);
}

static int run(const struct survivors *s, dsm_remote *const *given, uint64_t epoch, dsm_store_recovered *out,
               uint32_t *failed)
{
    struct store_env e = {.shape = &s->shape, .copies = s->shape.copies, .first = s->first, .at = s->at};
    struct store_recovery *m = calloc(1, sizeof *m);
    int rc = 0;
    if (!m)
        return err_set(DSM_ENOMEM, 0, "the recovery of a store");
    m->epoch = epoch;
    m->members = s->members;
    while (!rc && store_recovery_step(m, &e) == STORE_POST)
        rc = post(m, given, failed);
    rc = rc ? rc : m->status;
    *out = m->done;
    free(m);
    return rc;
}

int dsm_store_recover(dsm_remote *const *at, uint32_t n, uint64_t epoch, dsm_store_recovered *out, uint32_t *failed)
{
    struct survivors s = {.n = n};
    *failed = 0;
    *out = (dsm_store_recovered){0};
    if (!n || n > STORE_PLACES_MOST || !epoch)
        return err_set(DSM_EINVAL, 0, "%u copies of 1 to %d, and epoch %llu; the first one is 1", n, STORE_PLACES_MOST,
                       (unsigned long long)epoch);
    for (uint32_t k = 0; k < n; k++)
        if (!at[k]->ctx)
            return err_set(DSM_EUNSUPPORTED, 0, "the recovery of a store in a file that is mapped");
    int rc = look_at_all(at, &s, failed);
    if (!rc)
        rc = sort(at, &s);
    if (!rc && s.shape.epoch > epoch)
        rc = err_set(DSM_EINVAL, 0, "the store is in epoch %llu, %llu is older", (unsigned long long)s.shape.epoch,
                     (unsigned long long)epoch);
    return rc ? rc : run(&s, at, epoch, out, failed);
}
