/* Attaching to memory of other processes: which peer and which way, what the owner is asked, and the remote that
 * results. attach_many.c is for many descriptors. */
#include "../base/deadline.h"
#include "../core/remote.h"
#include "agent.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void drop_grant(struct fabric_grant *g)
{
    while (g->blob.nfds)
        close(g->blob.fds[--g->blob.nfds]);
}

/* Finds or creates the peer for a node as reached by a device at an address, and adds a reference. A dead peer is not
 * used, except with devices that connect endpoints, as it can connect again. Frees peers that are dead and have no
 * remote. */
static int find_peer(dsm_ctx *c, struct fabric_dev *dev, const uint8_t node[DSM_NODE_ID], const char *address,
                     struct peer **out)
{
    struct peer *found = NULL;
    int rc = 0;
    peers_bury(c);
    core_lock(&c->lock);
    for (struct peer *p = c->peers; p; p = p->next) {
        bool dead = p->service || p->ending || (load_relaxed_u32(&p->dead) && !dev->connected);
        if (!dead && p->dev == dev && !memcmp(p->node, node, DSM_NODE_ID) && !strcmp(p->address, address))
            found = p;
    }
    if (!found && !(rc = peer_new(c, dev, node, address, &found))) {
        found->next = c->peers;
        c->peers = found;
    }
    if (!rc)
        found->refs++;
    core_unlock(&c->lock);
    *out = found;
    return rc;
}

static int check_parts(const struct peer *p, const struct wanted *w, const struct fabric_grant *g)
{
    for (size_t i = 0; i < w->n; i++)
        if (w->asked[i].part.nbytes > g->nbytes || w->asked[i].part.offset > g->nbytes - w->asked[i].part.nbytes)
            return err_set(DSM_EPROTO, 0, "%s granted regions that leave their pool", p->address);
    return 0;
}

static void drop_grants(struct fabric_grant *g)
{
    for (size_t i = 0; i < FABRIC_DEVICES_MAX; i++)
        drop_grant(&g[i]);
}

/* Asks the owner for the region, by each of its devices of the fabric. It need not be served by all. */
static int ask(struct peer *p, struct wanted *w, struct fabric_grant g[FABRIC_DEVICES_MAX], int64_t deadline)
{
    int rc = client_attach(p, w, &g[0], deadline);
    if (rc)
        return rc;
    peer_find_paths(p, &g[0]);
    for (uint32_t i = 1; i < g[0].devices; i++) {
        struct wanted by = {.d = w->d, .device = i};
        rc = client_attach(p, &by, &g[i], deadline);
        if (rc && rc != -DSM_EUNSUPPORTED)
            return rc;
    }
    return 0;
}

static int import_all(struct peer *p, const struct fabric_grant g[FABRIC_DEVICES_MAX], struct fabric_remote **out)
{
    const struct fabric *f = p->dev->fabric;
    int rc = f->import(p->dev, &g[0], out);
    for (uint32_t i = 1; i < g[0].devices && !rc; i++) {
        if (!g[i].nbytes)
            continue;
        rc = f->import_by(*out, i, &g[i]);
        if (rc)
            f->forget(*out);
    }
    return rc;
}

/* Asks the owner for the region, and imports it with what the owner grants. */
static int import(struct peer *p, struct wanted *w, int64_t deadline, struct fabric_remote **out)
{
    struct fabric_grant g[FABRIC_DEVICES_MAX] = {0};
    int rc = peer_lock_control(p, deadline);
    if (rc)
        return rc;
    bool fresh = p->fd < 0 || load_relaxed_u32(&p->dead);
    rc = fresh ? client_connect(p, deadline) : 0;
    if (!rc)
        rc = ask(p, w, g, deadline);
    if (rc == -DSM_EPEER && !fresh) { /* the connection had ended unnoticed: connect again, once */
        drop_grants(g);
        rc = client_connect(p, deadline);
        if (!rc)
            rc = ask(p, w, g, deadline);
    }
    pthread_mutex_unlock(&p->control_lock);
    if (!rc && p->dev->connected)
        rc = peer_ready(p, false, deadline);
    if (!rc)
        rc = check_parts(p, w, &g[0]);
    if (!rc)
        rc = import_all(p, g, out);
    drop_grants(g);
    return rc;
}

/* Attaches by one way: with this device, at this address of the owner's agent. */
static int attach_by(dsm_ctx *c, struct fabric_dev *dev, const char *address, struct wanted *w, int64_t deadline,
                     dsm_remote **out)
{
    struct peer *p;
    dsm_remote *r = calloc(1, sizeof *r);
    if (!r)
        return err_set(DSM_ENOMEM, 0, "remote");
    int rc = find_peer(c, dev, w->d->node, address, &p);
    if (rc) {
        free(r);
        return rc;
    }
    rc = import(p, w, deadline, &r->target.remote);
    core_lock(&c->lock);
    if (rc)
        p->refs--;
    else
        c->live_remotes++;
    core_unlock(&c->lock);
    if (rc) {
        free(r);
        peers_bury(c);
        return rc;
    }
    r->mapped = r->target.remote->mapped;
    r->state = r->target.remote->state;
    r->nbytes = r->target.remote->nbytes;
    r->access = r->target.remote->access;
    r->forks = c->forks;
    r->ctx = c;
    r->peer = p;
    r->region = w->d->region;
    r->generation = w->d->generation;
    r->holders = 1;
    *out = r;
    return 0;
}

/* The address of the owner's agent for a device; NULL: it is not among these ways. */
static const char *find_way(const struct dsm_way *ways, uint32_t n, const struct fabric_dev *dev)
{
    for (uint32_t i = 0; i < n; i++)
        if (ways[i].fabric == dev->wire_id)
            return ways[i].address;
    return NULL;
}

static const char *way_of(const dsm_descriptor *d, const struct fabric_dev *dev)
{
    return find_way(d->ways, d->nways, dev);
}

static const char *bulk_way_of(const dsm_descriptor *d, const struct fabric_dev *dev)
{
    return find_way(d->ways + d->nways, d->nbulk, dev);
}

/* Appends a name to a list of them, as far as there is room. */
static void append(char *text, size_t room, const char *name)
{
    size_t n = strlen(text);
    snprintf(text + n, room - n, "%s%s", n ? ", " : "", name);
}

static int refuse_fabrics(const dsm_ctx *c, const dsm_descriptor *d)
{
    char theirs[80] = "", ours[80] = "";
    for (uint32_t i = 0; i < d->nways; i++) {
        const char *name = dsm_fabric_name(d->ways[i].fabric);
        append(theirs, sizeof theirs, name ? name : "a later release");
    }
    for (size_t i = 0; i < c->ndevs; i++)
        append(ours, sizeof ours, c->devs[i]->caps.fabric);
    return err_set(DSM_EINVAL, 0, "the descriptor belongs to %s, this context to %s", theirs, ours);
}

/* Adds the way for bulk, if the descriptor has one that this context can go: by it the memory is mapped here. Any
 * failure leaves the remote as it is. */
static void add_bulk(dsm_ctx *c, const dsm_descriptor *d, int64_t deadline, dsm_remote *r)
{
    struct wanted w = {.d = d};
    if (remote_is_mapped(r) || !(r->access & DSM_READ))
        return;
    for (size_t i = 0; i < c->ndevs && !r->bulk; i++) {
        const char *address = c->devs[i]->caps.local_memory ? bulk_way_of(d, c->devs[i]) : NULL;
        if (!address || attach_by(c, c->devs[i], address, &w, deadline, &r->bulk))
            continue;
        if (r->bulk->nbytes == r->nbytes && remote_is_mapped(r->bulk))
            break;
        dsm_remote_close(r->bulk);
        r->bulk = NULL;
    }
}

/* Whether the owner may be on another host, or in a container of its own: at its address on this host listens no
 * process, or another one, which fails the handshake or has another node id (ESTALE). If the region is what is stale,
 * the next way says so, too. */
static bool is_elsewhere(const struct fabric_dev *d, int rc)
{
    return d->maps && (rc == -DSM_EPEER || rc == -DSM_EAUTH || rc == -DSM_EPROTO || rc == -DSM_ESTALE);
}

/* Tries the ways in this context's order of preference. Any failure but is_elsewhere() is the answer. */
int attach_wanted(dsm_ctx *c, struct wanted *w, int64_t deadline, dsm_remote **out)
{
    bool tried = false;
    int rc = 0;
    w->stale = SIZE_MAX;
    for (size_t i = 0; i < c->ndevs; i++) {
        const char *address = c->devs[i]->number ? NULL : way_of(w->d, c->devs[i]); /* a way has all its devices */
        if (!address)
            continue;
        tried = true;
        rc = attach_by(c, c->devs[i], address, w, deadline, out);
        if (!rc && w->d->nbulk)
            add_bulk(c, w->d, deadline, *out);
        if (!is_elsewhere(c->devs[i], rc) || w->stale != SIZE_MAX) /* the pool's owner has said that a part is stale */
            return rc;
    }
    return tried ? rc : refuse_fabrics(c, w->d);
}

int64_t attach_deadline(const dsm_ctx *c, int64_t timeout_ns)
{
    return deadline_after(timeout_ns < 0 ? c->peer_timeout_ns : timeout_ns);
}

int dsm_attach(dsm_ctx *c, const void *descriptor, size_t len, int64_t timeout_ns, dsm_remote **out)
{
    dsm_descriptor d;
    dsm_remote *whole;
    if (ctx_forked(c))
        return refuse_forked();
    int rc = dsm_descriptor_parse(descriptor, len, &d);
    if (rc)
        return rc;
    struct asked part = {d.part, 0};
    struct wanted w = {.d = &d, .asked = &part, .n = d.part.generation ? 1 : 0};
    rc = attach_wanted(c, &w, attach_deadline(c, timeout_ns), &whole);
    if (rc)
        return rc;
    if (!w.n) {
        *out = whole;
        return 0;
    }
    rc = remote_part(whole, d.part.offset, d.part.nbytes, out);
    dsm_remote_close(whole); /* the part keeps it */
    return rc;
}
