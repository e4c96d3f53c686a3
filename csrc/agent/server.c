/* The server side of the control protocol (docs/protocols/handshake.md). It never waits: a connection that does not
 * accept a reply at once is dropped. */
#include "../base/random.h"
#include "../base/wire.h"
#include "agent.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

/* No byte of the challenge depends on the secret, so an unauthenticated client gets no input for a guessing attack. */
static bool challenge(struct agent *a, struct conn *n, uint16_t status)
{
    uint8_t out[CHALLENGE_SIZE] = HELLO_MAGIC;
    put_u16(out + 4, PROTOCOL_VERSION);
    put_u16(out + 6, status);
    memcpy(out + 8, a->ctx->node, DSM_NODE_ID);
    if (!status)
        memcpy(out + 24, n->handshake.server_nonce, NONCE);
    return conn_send(n, out, sizeof out) && !status;
}

static bool on_hello(struct agent *a, struct conn *n)
{
    const uint8_t *in = n->in;
    if (memcmp(in, HELLO_MAGIC, 4))
        return false;
    if (get_u16(in + 4) != PROTOCOL_VERSION)
        return challenge(a, n, DSM_EVERSION);
    if (get_u16(in + 6))
        return false;
    memcpy(n->handshake.client, in + 8, DSM_NODE_ID);
    memcpy(n->handshake.client_nonce, in + 24, NONCE);
    memcpy(n->handshake.server, a->ctx->node, DSM_NODE_ID);
    memcpy(n->handshake.address, n->local ? a->ctx->unix_address : a->ctx->tcp_address, ADDRESS_MAX);
    if (agent_denies(a, n->handshake.client))
        return challenge(a, n, DSM_EFENCED);
    if (random_bytes(n->handshake.server_nonce, NONCE))
        return challenge(a, n, DSM_ESYS);
    n->state = CONN_PROOF;
    return challenge(a, n, 0);
}

static bool proves(struct agent *a, const struct conn *n)
{
    uint8_t want[MAC];
    handshake_mac(a->ctx, LABEL_CLIENT, &n->handshake, want);
    return same_bytes(want, n->in, MAC);
}

/* The client has dialled the address in a descriptor or, to reach a service, the one at which the connection has
 * arrived. */
static bool authentic(struct agent *a, struct conn *n)
{
    if (proves(a, n))
        return true;
    if (n->local || !a->service.on)
        return false;
    socket_arrived_at(n->fd, n->handshake.address);
    return proves(a, n);
}

static bool on_proof(struct agent *a, struct conn *n)
{
    uint8_t verdict[VERDICT_SIZE] = {0};
    int status = !authentic(a, n)                       ? DSM_EAUTH
                 : agent_denies(a, n->handshake.client) ? DSM_EFENCED /* fenced since its hello */
                                                        : 0;
    put_u32(verdict, (uint32_t)status);
    if (!status)
        handshake_mac(a->ctx, LABEL_SERVER, &n->handshake, verdict + 4);
    if (!conn_send(n, verdict, sizeof verdict) || status)
        return false;
    session_begin(a->ctx, &n->handshake, &n->session);
    n->state = CONN_OPEN;
    a->unauthenticated--;
    grants_look(a, n->handshake.client);
    return true;
}

/* ---- messages ---- */

static bool reply_with(struct conn *n, int status, const void *payload, size_t len, const int *fds, uint32_t nfds)
{
    return conn_reply_with(n, get_u16(n->in + 4), status, payload, len, fds, nfds);
}

static bool reply(struct conn *n, int status, const void *payload, size_t len)
{
    return reply_with(n, status, payload, len, NULL, 0);
}

/* The index of the device that a question names, if its peers connect to the socket that this one has connected to. */
static int find_device(const dsm_ctx *c, const struct conn *n, uint32_t named)
{
    for (size_t i = 0; i < c->ndevs; i++)
        if (device_named(c->devs[i]->wire_id, c->devs[i]->number) == named && c->devs[i]->maps == n->local)
            return (int)i;
    return -DSM_EUNSUPPORTED;
}

/* Under c->lock: while it is held, the region can't be closed. */
static int grant(dsm_ctx *c, const struct conn *n, const uint8_t *question, struct fabric_grant *out)
{
    const dsm_region *r = region_find(c, get_u64(question), get_u64(question + 8));
    if (!r)
        return -DSM_ESTALE;
    int i = find_device(c, n, get_u32(question + NAME_SIZE));
    if (i < 0 || !r->mem[i])
        return -DSM_EUNSUPPORTED;
    out->nbytes = r->memory->nbytes;
    out->access = region_access_by(r, (size_t)i);
    out->kind = r->memory->kind;
    out->devices = ctx_devices(c, c->devs[i]->wire_id, &out->atomics);
    return c->devs[i]->fabric->export(r->mem[i], &out->blob);
}

static bool on_attach(dsm_ctx *c, struct conn *n, const uint8_t *question)
{
    struct fabric_grant g = {0};
    uint8_t answer[ANSWER_MAX];
    core_lock(&c->lock);
    int rc = grant(c, n, question, &g);
    core_unlock(&c->lock);
    put_u64(answer, g.nbytes);
    put_u32(answer + 8, g.access);
    put_u16(answer + 12, (uint16_t)g.kind);
    answer[14] = (uint8_t)(g.devices ? g.devices - 1 : 0);
    answer[15] = (uint8_t)g.atomics;
    memcpy(answer + GRANT_SIZE, g.blob.bytes, g.blob.nbytes);
    bool good =
        rc ? reply(n, -rc, NULL, 0) : reply_with(n, 0, answer, GRANT_SIZE + g.blob.nbytes, g.blob.fds, g.blob.nfds);
    while (g.blob.nfds)
        close(g.blob.fds[--g.blob.nfds]);
    return good;
}

/* Which parts of a pool are its regions now: how many from the first on. */
static bool on_parts(dsm_ctx *c, struct conn *n, const uint8_t *question, size_t len)
{
    struct dsm_part parts[PARTS_MAX];
    size_t asked = 0;
    uint8_t answer[4];
    for (const uint8_t *at = question + NAME_SIZE; at < question + len; at += PART_SIZE)
        parts[asked++] = (struct dsm_part){get_u64(at), get_u64(at + 8), get_u64(at + 16), get_u64(at + 24)};
    core_lock(&c->lock);
    dsm_region *r = region_find(c, get_u64(question), get_u64(question + 8));
    dsm_pool *pool = r ? r->pool : NULL;
    if (pool)
        pool_hold(pool);
    core_unlock(&c->lock); /* a long allocation holds the pool's lock: only this answer waits for it */
    if (!pool)
        return reply(n, DSM_ESTALE, NULL, 0);
    put_u32(answer, (uint32_t)pool_count_live(pool, parts, asked));
    pool_drop(pool);
    return reply(n, 0, answer, sizeof answer);
}

static bool on_status(dsm_ctx *c, struct conn *n, const uint8_t *name)
{
    core_lock(&c->lock);
    bool live = region_find(c, get_u64(name), get_u64(name + 8));
    core_unlock(&c->lock);
    return reply(n, live ? 0 : DSM_ESTALE, NULL, 0);
}

/* Closes the endpoints that the node has on the fabric, also those of its other connections, whose end may not have
 * been noticed here yet. */
static void close_endpoints(struct agent *a, const struct conn *n, const struct fabric_dev *d)
{
    for (struct conn *old = a->conns; old; old = old->next)
        if (old->ep && old->ep->dev->wire_id == d->wire_id &&
            !memcmp(old->handshake.client, n->handshake.client, DSM_NODE_ID))
            conn_close_endpoint(old);
}

/* Replaces the node's earlier endpoint of the same fabric, if any: it is closed first, so no op arrives through it any
 * more (objects/sure.h). It may be of another device: a node uses one path at a time. */
static bool on_endpoint(struct agent *a, struct conn *n, const uint8_t *question, size_t len)
{
    dsm_ctx *c = a->ctx;
    int i = find_device(c, n, get_u32(question));
    if (i < 0 || !c->devs[i]->connected)
        return reply(n, DSM_EUNSUPPORTED, NULL, 0);
    struct fabric_dev *d = c->devs[i];
    uint8_t mine[FABRIC_ADDRESS_MAX];
    conn_close_endpoint(n);
    close_endpoints(a, n, d);
    int rc = endpoint_open(d, true, &n->ep);
    if (rc) {
        n->ep = NULL;
        return reply(n, -rc, NULL, 0);
    }
    int size = d->fabric->ep_address(n->ep, mine);
    rc = size < 0 ? size : endpoint_connect(n->ep, question + FABRIC_SIZE, len - FABRIC_SIZE);
    if (rc)
        conn_close_endpoint(n);
    n->awaits = !rc && d->streams && size == STREAM_TOKEN;
    if (n->awaits)
        memcpy(n->token, mine, STREAM_TOKEN);
    return reply(n, -rc, mine, rc ? 0 : (size_t)size);
}

_Static_assert(OUTCOMES_SIZE + FABRIC_OUTCOMES * OUTCOME_SIZE <= ANSWER_MAX, "all of them fit into an answer");

/* The answer to OUTCOMES: its length, or -DSM_E…. */
static int tell_outcomes(struct fabric_dev *d, const uint8_t *question, size_t len, uint8_t answer[ANSWER_MAX])
{
    struct fabric_outcomes o;
    int rc = device_outcomes(d, question + ASKED_SIZE, len - ASKED_SIZE, get_u64(question + FABRIC_SIZE), &o);
    if (rc)
        return rc;
    put_u64(answer, o.next);
    put_u64(answer + 8, o.known);
    put_u64(answer + 16, o.through);
    uint8_t *at = answer + OUTCOMES_SIZE;
    for (uint32_t i = 0; i < o.n; i++, at += OUTCOME_SIZE) {
        put_u64(at, o.of[i].number);
        put_u32(at + 8, o.of[i].ops);
        put_u32(at + 12, o.of[i].status);
        put_u64(at + 16, o.of[i].result);
    }
    return (int)(at - answer);
}

/* The device closes the endpoint that is asked about; the agent's part of it is closed with its connection. */
static bool on_outcomes(dsm_ctx *c, struct conn *n, const uint8_t *question, size_t len)
{
    uint8_t answer[ANSWER_MAX];
    int i = find_device(c, n, get_u32(question));
    int got = i < 0 ? i : tell_outcomes(c->devs[i], question, len, answer);
    return reply(n, got < 0 ? -got : 0, answer, got < 0 ? 0 : (size_t)got);
}

/* Whether processes of this host may reach the memory by mapping it, which no fence ends. */
static bool is_mapped_too(const dsm_ctx *c)
{
    bool maps = false;
    for (size_t i = 0; i < c->ndevs; i++)
        maps |= c->devs[i]->maps;
    return maps;
}

/* The device for whose peers this process claims identities; NULL: the question is not about one. Where an adapter's
 * atomics have a domain of their own a node of this host that uses them moves long reads and writes through mapped
 * memory (core/bulk.c), so that the end of its queue pairs is not the end of its writes. */
static struct fabric_dev *ends_at(const dsm_ctx *c, const struct conn *n, const uint8_t *question)
{
    int i = find_device(c, n, get_u32(question));
    struct fabric_dev *d = i >= 0 ? c->devs[i] : NULL;
    return d && d->ends && (d->streams || !is_mapped_too(c)) ? d : NULL;
}

static bool on_identities(struct agent *a, struct conn *n, const uint8_t *question)
{
    uint8_t answer[IDENTITIES_SIZE];
    int status =
        ends_at(a->ctx, n, question) ? grants_claim(a, n, get_u64(question + FABRIC_SIZE), answer) : DSM_EUNSUPPORTED;
    return reply(n, status, answer, status ? 0 : sizeof answer);
}

static bool on_ended(struct conn *n, const uint8_t *question, size_t len)
{
    uint8_t answer[PAYLOAD_MAX / 8];
    grants_ended(question, len / 8, answer);
    return reply(n, 0, answer, len / 8);
}

/* The peer sends nothing more. What it has sent through an earlier connection may still be on its way, so all its
 * endpoints are closed before its identities end. */
static bool on_bye(struct agent *a, struct conn *n, const uint8_t *payload, size_t len)
{
    conn_close_endpoint(n);
    struct fabric_dev *d = len == KEY_SIZE ? ends_at(a->ctx, n, payload) : NULL;
    if (d) {
        close_endpoints(a, n, d);
        grants_bye(a, n, get_u64(payload + FABRIC_SIZE));
    }
    return !len || len == KEY_SIZE;
}

/* Accepts each message once and in order: its number must be the next one. */
static bool on_message(struct agent *a, struct conn *n)
{
    const uint8_t *payload = n->in + HEADER_SIZE;
    size_t len = get_u16(n->in + 6);
    if (!message_genuine(&n->session.asking, n->in) || get_u64(n->in + 8) != n->session.number + 1)
        return false;
    n->session.number++;
    switch (get_u16(n->in + 4)) {
    case MSG_ATTACH:
        return len == NAME_SIZE + FABRIC_SIZE && on_attach(a->ctx, n, payload);
    case MSG_ENDPOINT:
        return len >= FABRIC_SIZE && len <= FABRIC_SIZE + FABRIC_ADDRESS_MAX && on_endpoint(a, n, payload, len);
    case MSG_STATUS:
        return len == NAME_SIZE && on_status(a->ctx, n, payload);
    case MSG_PARTS:
        return len > NAME_SIZE && (len - NAME_SIZE) % PART_SIZE == 0 && on_parts(a->ctx, n, payload, len);
    case MSG_CALL:
        return service_on_call(a, n, payload, len);
    case MSG_OUTCOMES:
        return len > ASKED_SIZE && len <= ASKED_SIZE + FABRIC_ADDRESS_MAX && on_outcomes(a->ctx, n, payload, len);
    case MSG_IDENTITIES:
        return len == KEY_SIZE && on_identities(a, n, payload);
    case MSG_ENDED:
        return len && len % 8 == 0 && len <= 8 * ENDED_MOST && on_ended(n, payload, len);
    case MSG_BYE:
        return on_bye(a, n, payload, len);
    default:
        return false;
    }
}

/* ---- streams ---- */

/* The connection whose endpoint waits for this stream; NULL: there is none, or the stream is not that node's. */
static struct conn *find_asker(struct agent *a, const uint8_t question[STREAM_SIZE])
{
    static const uint8_t no_answer[STREAM_ANSWER];
    uint8_t asking[MAC], answering[MAC];
    struct conn *found = NULL;
    for (struct conn *n = a->conns; n; n = n->next)
        if (n->awaits && same_bytes(n->token, question + 8, STREAM_TOKEN))
            found = n;
    if (!found)
        return NULL;
    stream_sums(&found->session, question, no_answer, asking, answering);
    return same_bytes(asking, question + STREAM_SIZE - MAC, MAC) ? found : NULL;
}

/* A peer connects an endpoint for which it has asked through its control connection: this one becomes the endpoint's.
 * Returns false in any case: it is not a connection of the agent any more. */
static bool on_stream(struct agent *a, struct conn *n)
{
    uint8_t out[STREAM_ANSWER] = STREAM_MAGIC, asking[MAC];
    bool speaks = get_u16(n->in + 4) == PROTOCOL_VERSION;
    struct conn *asker = speaks && n->have == STREAM_SIZE && !n->local ? find_asker(a, n->in) : NULL;
    int fd = n->fd, rc = !speaks ? -DSM_EVERSION : -DSM_EPEER; /* the endpoint that it was for is gone */
    if (asker) {
        asker->awaits = false;
        epoll_ctl(a->epoll, EPOLL_CTL_DEL, fd, NULL);
        rc = endpoint_stream(asker->ep, fd);
    }
    put_u16(out + 4, PROTOCOL_VERSION);
    put_u16(out + 6, (uint16_t)-rc);
    if (asker && !rc)
        stream_sums(&asker->session, n->in, out, asking, out + STREAM_ANSWER - MAC);
    conn_send(n, out, sizeof out); /* the peer sends nothing before this, so the endpoint has sent nothing yet */
    if (!rc)
        n->fd = -1;
    n->left = asker;
    return false;
}

static bool begins(const struct conn *n, const char *magic) { return !memcmp(n->in, magic, n->have < 4 ? n->have : 4); }
static bool is_stream(const struct conn *n) { return n->have >= 4 && begins(n, STREAM_MAGIC); }

/* The length of the first message in n->in; 0: not known yet; -1: not a message. */
static int message_size(const struct conn *n)
{
    if (n->state == CONN_HELLO)
        return is_stream(n) ? STREAM_SIZE : HELLO_SIZE;
    if (n->state == CONN_PROOF)
        return PROOF_SIZE;
    if (n->have < HEADER_SIZE)
        return 0;
    if (memcmp(n->in, MESSAGE_MAGIC, 4) || get_u16(n->in + 6) > PAYLOAD_MAX)
        return -1;
    return (int)message_length(n->in);
}

bool conn_input(struct agent *a, struct conn *n)
{
    while (!n->calling) {
        int size = message_size(n);
        if (size < 0)
            return false;
        if (!size || n->have < (size_t)size)
            return n->state != CONN_HELLO || begins(n, HELLO_MAGIC) || begins(n, STREAM_MAGIC);
        bool good = n->state == CONN_HELLO   ? is_stream(n) ? on_stream(a, n) : on_hello(a, n)
                      : n->state == CONN_PROOF ? on_proof(a, n)
                                             : on_message(a, n);
        if (!good)
            return false;
        n->have -= (size_t)size;
        memmove(n->in, n->in + size, n->have);
    }
    return true;
}
