/*
 * A peer for which the owner keeps identities connects again by itself when its control connection has ended. What is
 * held under them goes to others when this node has been away for longer than the owner's grace period (decision 0023),
 * and a program may work for long without an op on that owner.
 *
 * The peer's helper does it, since nothing else may wait: at once, and then after pauses that grow to a second, as long
 * as a remote is open. It ends when the owner says that it is another node by now or has cut this one off, or when the
 * context is closed. With no remote left the peer holds nothing: it connects to say goodbye, and gives up soon.
 */
#include "../base/deadline.h"
#include "../base/random.h"
#include "core.h"

enum { PAUSE_MIN_NS = 10000000, PAUSE_MAX_NS = 1000000000 };
#define TRY_NS 2000000000            /* of one attempt, during which other threads wait for the control connection */
#define STEADY_NS 10000000000        /* a connection that has lasted for so long is no reason for a longer pause */
#define GIVE_UP_AFTER_NS 60000000000 /* with no remote */

/* The next attempt is due after a pause. Its second half is random, so that clients that were cut off together do not
 * come back together. Under peer->lock. */
static void plan(struct peer *p)
{
    uint64_t random = 0;
    int64_t longest = p->rejoin.pause * 2;
    p->rejoin.pause = longest < PAUSE_MIN_NS ? PAUSE_MIN_NS : longest > PAUSE_MAX_NS ? PAUSE_MAX_NS : longest;
    random_bytes(&random, sizeof random); /* without them: together */
    p->rejoin.at = clock_ns() + p->rejoin.pause / 2 + (int64_t)(random % (uint64_t)p->rejoin.pause) / 2;
}

void rejoin_begin(struct peer *p)
{
    int64_t now = clock_ns();
    if (p->rejoin.wanted)
        return;
    if (now - p->rejoin.joined > STEADY_NS)
        p->rejoin.pause = 0;
    p->rejoin.wanted = true;
    p->rejoin.since = now;
    plan(p);
}

static bool has_remotes(struct peer *p)
{
    core_lock(&p->ctx->lock);
    bool yes = p->refs;
    core_unlock(&p->ctx->lock);
    return yes;
}

/* With control_lock held no participant draws an identity. */
static int join(struct peer *p)
{
    int64_t deadline = deadline_after(deadline_earlier(p->ctx->peer_timeout_ns, TRY_NS));
    int rc = peer_lock_control(p, deadline);
    if (rc)
        return rc;
    if (load_relaxed_u32(&p->dead))
        rc = p->ctx->control->connect(p, deadline);
    if (!rc && !has_remotes(p))
        p->ctx->control->bye(p);
    pthread_mutex_unlock(&p->control_lock);
    return rc;
}

/* Whether the identities have ended, or will without this node: it can't come back as the one that it was. */
static bool is_final(int rc)
{
    return rc == -DSM_EFENCED || rc == -DSM_ESTALE || rc == -DSM_EAUTH || rc == -DSM_EVERSION || rc == -DSM_EFORK ||
           rc == -DSM_ECLOSED;
}

void rejoin_try(struct peer *p)
{
    p->rejoin.wanted = load_relaxed_u32(&p->identities.kept);
    if (!p->rejoin.wanted)
        return;
    core_unlock(&p->lock);
    int rc = join(p);
    bool drops = is_final(rc) || (rc && clock_ns() - p->rejoin.since > GIVE_UP_AFTER_NS && !has_remotes(p));
    core_lock(&p->lock);
    if (drops)
        store_relaxed_u32(&p->identities.kept, 0);
    if (!load_relaxed_u32(&p->dead))
        p->rejoin.joined = clock_ns();
    p->rejoin.wanted = load_relaxed_u32(&p->dead) && load_relaxed_u32(&p->identities.kept);
    plan(p);
}
