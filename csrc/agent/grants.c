/*
 * The identities that this process has claimed for participants in its memory on behalf of other nodes (decision 0023).
 *
 * They end, which lets others take over what was held under them, only when nothing that the node has sent can reach
 * the memory any more: all endpoints of the node have been closed, each of which is a fence for what came through it
 * (fabric_dev.ends), and the node is refused from then on, or has said that it holds nothing that it will use.
 */
#include "../base/deadline.h"
#include "../base/identity.h"
#include "../base/wire.h"
#include "agent.h"

#include <stdlib.h>
#include <string.h>

enum { RANGES_MOST = 256, GRANTS_MOST = 16 }; /* of a key; of a node */

struct grant {
    struct grant *next;
    uint8_t node[DSM_NODE_ID];
    uint64_t key;    /* of one peer of the node */
    int64_t expires; /* 0: the node is connected, or it may stay away */
    size_t n;
    struct identity_range ranges[RANGES_MOST];
};

static bool is_of(const struct grant *g, const uint8_t node[DSM_NODE_ID])
{
    return !memcmp(g->node, node, DSM_NODE_ID);
}

static void end_one(struct grant **at)
{
    struct grant *g = *at;
    *at = g->next;
    while (g->n)
        identity_end_range(&g->ranges[--g->n]);
    free(g);
}

/* Whether what came through an endpoint that is gone may still take effect. Then the identities live on. */
static bool is_unsure(const struct agent *a)
{
    bool unsure = false;
    for (size_t i = 0; i < a->ctx->ndevs; i++)
        unsure |= a->ctx->devs[i]->unclosed && load_relaxed_u32(a->ctx->devs[i]->unclosed);
    return unsure;
}

/* With key 0: all of the node's. 'node' is not a grant's, which is freed here. */
static void end(struct agent *a, const uint8_t node[DSM_NODE_ID], uint64_t key)
{
    for (struct grant **at = &a->grants, *g; (g = *at);) {
        if (!is_of(g, node) || (key && g->key != key)) {
            at = &g->next;
            continue;
        }
        if (is_unsure(a)) {
            g->expires = 0;
            at = &g->next;
            continue;
        }
        end_one(at);
    }
}

void grants_end_node(struct agent *a, const uint8_t node[DSM_NODE_ID]) { end(a, node, 0); }

void grants_end_all(struct agent *a)
{
    for (struct grant *g; (g = a->grants);) {
        if (is_unsure(a))
            g->n = 0; /* the locks stay, until the process ends */
        end_one(&a->grants);
    }
}

void grants_bye(struct agent *a, const struct conn *n, uint64_t key)
{
    if (key)
        end(a, n->handshake.client, key);
}

/* ---- to claim ---- */

/* The grant of a key, which is made if there is none. NULL: there are too many, or there is no memory. */
static struct grant *find(struct agent *a, const uint8_t node[DSM_NODE_ID], uint64_t key)
{
    size_t of_node = 0;
    for (struct grant *g = a->grants; g; g = g->next) {
        if (is_of(g, node) && g->key == key)
            return g;
        of_node += is_of(g, node);
    }
    struct grant *g = of_node < GRANTS_MOST ? calloc(1, sizeof *g) : NULL;
    if (!g)
        return NULL;
    memcpy(g->node, node, DSM_NODE_ID);
    g->key = key;
    g->next = a->grants;
    return a->grants = g;
}

/* 0, or a DSM_E…: no identity is claimed then, and the node draws its own, of which nothing is proven. So it is not
 * evicted on their account: what it holds under them would stay held. */
int grants_claim(struct agent *a, const struct conn *n, uint64_t key, uint8_t answer[IDENTITIES_SIZE])
{
    struct grant *g = key ? find(a, n->handshake.client, key) : NULL;
    if (!g || g->n == RANGES_MOST)
        return DSM_EUNSUPPORTED;
    if (identity_claim_range(&g->ranges[g->n], g->n)) {
        if (!g->n)
            end(a, n->handshake.client, key);
        return DSM_EUNSUPPORTED;
    }
    const struct identity_range *r = &g->ranges[g->n++];
    put_u64(answer, r->first);
    put_u64(answer + 8, r->count);
    return 0;
}

void grants_ended(const uint8_t *question, size_t n, uint8_t *answer)
{
    for (size_t i = 0; i < n; i++)
        answer[i] = identity_ended(get_u64(question + 8 * i));
}

/* ---- nodes that are away ---- */

static bool is_connected(const struct agent *a, const uint8_t node[DSM_NODE_ID])
{
    for (const struct conn *n = a->conns; n; n = n->next)
        if (n->state == CONN_OPEN && !memcmp(n->handshake.client, node, DSM_NODE_ID))
            return true;
    return false;
}

void grants_look(struct agent *a, const uint8_t node[DSM_NODE_ID])
{
    bool waits = a->service.on && a->service.grace_ns >= 0 && !is_connected(a, node);
    for (struct grant *g = a->grants; g; g = g->next)
        if (is_of(g, node))
            g->expires = waits ? deadline_after(a->service.grace_ns) : 0;
}

void grants_look_all(struct agent *a)
{
    for (const struct grant *g = a->grants; g; g = g->next)
        grants_look(a, g->node);
}

int64_t grants_next(const struct agent *a)
{
    int64_t next = DEADLINE_NEVER;
    for (const struct grant *g = a->grants; g; g = g->next)
        if (g->expires && g->expires < next)
            next = g->expires;
    return next;
}

void grants_expire(struct agent *a)
{
    int64_t now = a->grants ? clock_ns() : 0;
    for (struct grant *g = a->grants; g;) {
        if (!g->expires || g->expires > now) {
            g = g->next;
            continue;
        }
        uint8_t node[DSM_NODE_ID];
        memcpy(node, g->node, DSM_NODE_ID);
        if (agent_deny(a, node)) { /* no memory: the node may come back, so its identities live on */
            g->expires = now + 1000000000;
            g = g->next;
            continue;
        }
        end(a, node, 0);
        g = a->grants;
    }
}
