/*
 * Identities of participants in another process's memory, and whether others have ended (decision 0023).
 *
 * The owner's process claims identities for a peer, many at a time, and ends them when nothing that the peer sends can
 * reach the memory any more. Where it can't know that (fabric_dev.ends) it claims none: then nothing is proven.
 */
#include "../base/deadline.h"
#include "../base/identity.h"
#include "../base/random.h"
#include "remote.h"

#include <string.h>

/* Under peer->control_lock. A question whose connection ends is asked again over a new one. */
static int asked(struct peer *p, int (*ask)(struct peer *, void *, int64_t), void *arg, int64_t deadline)
{
    int rc = 0;
    for (int i = 0; i < 2; i++) {
        rc = load_relaxed_u32(&p->dead) ? p->ctx->control->connect(p, deadline) : 0;
        if (!rc)
            rc = ask(p, arg, deadline);
        if (rc != -DSM_EPEER)
            break;
    }
    return rc;
}

static int ask_identities(struct peer *p, void *arg, int64_t deadline)
{
    (void)arg;
    if (!p->identities.key && random_bytes(&p->identities.key, sizeof p->identities.key))
        return -DSM_ESYS;
    return p->ctx->control->identities(p, deadline);
}

/* Each answer has more numbers than the one before, up to many times what any object needs. */
enum { ANSWERS_MOST = 4 };

static int draw(struct peer *p, uint64_t n, uint64_t *first, int64_t deadline)
{
    int rc = 0;
    for (int i = 0; i < ANSWERS_MOST && !rc && p->identities.left < n && !p->identities.none; i++)
        rc = asked(p, ask_identities, NULL, deadline);
    *first = 0;
    if (rc || p->identities.left < n)
        return rc;
    *first = p->identities.next;
    p->identities.next += n;
    p->identities.left -= n;
    store_relaxed_u32(&p->identities.kept, 1);
    return 0;
}

int remote_identities(dsm_remote *r, uint64_t n, uint64_t *first)
{
    struct peer *p = r->peer;
    *first = 0;
    if (!p->dev->connected)
        return 0;
    int64_t deadline = deadline_after(remote_timeout(r));
    int rc = peer_lock_control(p, deadline);
    if (rc)
        return rc;
    rc = draw(p, n, first, deadline);
    pthread_mutex_unlock(&p->control_lock);
    return rc;
}

struct question {
    const uint64_t *identities;
    size_t n;
    uint8_t *ended;
};

static int ask_ended(struct peer *p, void *arg, int64_t deadline)
{
    const struct question *q = arg;
    return p->ctx->control->ended(p, q->identities, q->n, q->ended, deadline);
}

int remote_ended(dsm_remote *r, const uint64_t *identities, size_t n, uint8_t *ended)
{
    memset(ended, 0, n);
    if (!r->ctx || ctx_forked(r->ctx))
        return -DSM_EFORK;
    int64_t deadline = deadline_after(remote_timeout(r));
    int rc = peer_lock_control(r->peer, deadline);
    if (rc)
        return rc;
    for (size_t i = 0; i < n && !rc; i += ENDED_MOST) {
        struct question q = {identities + i, n - i < ENDED_MOST ? n - i : ENDED_MOST, ended + i};
        rc = asked(r->peer, ask_ended, &q, deadline);
    }
    pthread_mutex_unlock(&r->peer->control_lock);
    return rc;
}
