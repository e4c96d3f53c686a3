/* What the agent says to other nodes (docs/protocols/handshake.md). Never waits: who does not take a reply is dropped. */
#include "../base/sha256.h"
#include "../base/wire.h"
#include "agent.h"

#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

void handshake_mac(const dsm_ctx *c, const char role[12], const struct handshake *h, uint8_t mac[MAC])
{
    uint8_t text[12 + sizeof *h];
    memcpy(text, role, 12);
    memcpy(text + 12, h, sizeof *h);
    dsm_hmac_sha256(c->secret, c->secret_len, text, sizeof text, mac);
}
_Static_assert(sizeof(struct handshake) == 2 * NONCE + 2 * DSM_NODE_ID, "hashed as it lies in memory");

static bool say(struct conn *n, const void *bytes, size_t len)
{
    return send(n->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len;
}

static bool challenge(struct agent *a, struct conn *n, uint16_t status)
{
    uint8_t out[CHALLENGE_SIZE] = HELLO_MAGIC;
    put_u16(out + 4, PROTOCOL_VERSION);
    put_u16(out + 6, status);
    memcpy(out + 8, a->ctx->node, DSM_NODE_ID);
    if (!status) {
        memcpy(out + 24, n->shake.server_nonce, NONCE);
        handshake_mac(a->ctx, "dsmem-server", &n->shake, out + 56);
    }
    return say(n, out, sizeof out) && !status;
}

static bool on_hello(struct agent *a, struct conn *n)
{
    const uint8_t *in = n->in;
    if (memcmp(in, HELLO_MAGIC, 4))
        return false;
    memcpy(n->shake.client, in + 8, DSM_NODE_ID);
    memcpy(n->shake.client_nonce, in + 24, NONCE);
    memcpy(n->shake.server, a->ctx->node, DSM_NODE_ID);
    if (get_u16(in + 4) != PROTOCOL_VERSION)
        return challenge(a, n, DSM_EVERSION);
    if (agent_denies(a, n->shake.client))
        return challenge(a, n, DSM_EFENCED);
    if (getrandom(n->shake.server_nonce, NONCE, 0) != NONCE)
        return false;
    n->state = CONN_PROOF;
    return challenge(a, n, 0);
}

static bool on_proof(struct agent *a, struct conn *n)
{
    uint8_t want[MAC], verdict[VERDICT_SIZE];
    handshake_mac(a->ctx, "dsmem-client", &n->shake, want);
    int status = !same_bytes(want, n->in, MAC)      ? DSM_EAUTH
                 : agent_denies(a, n->shake.client) ? DSM_EFENCED /* since its hello */
                                                    : 0;
    put_u32(verdict, (uint32_t)status);
    if (!say(n, verdict, sizeof verdict) || status)
        return false;
    n->state = CONN_OPEN;
    a->strangers--;
    return true;
}

/* ---- messages ---- */

static bool reply(struct conn *n, int status, const void *payload, size_t len, int fd)
{
    uint8_t out[HEADER_SIZE + FABRIC_BLOB_MAX] = MESSAGE_MAGIC;
    put_u16(out + 4, (uint16_t)(get_u16(n->in + 4) | REPLY));
    put_u16(out + 6, (uint16_t)len);
    memcpy(out + 8, n->in + 8, 4);
    put_u32(out + 12, (uint32_t)status);
    if (len)
        memcpy(out + HEADER_SIZE, payload, len);
    if (fd < 0)
        return say(n, out, HEADER_SIZE + len);

    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {out, HEADER_SIZE + len};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(h), &fd, sizeof fd);
    return sendmsg(n->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)iov.iov_len;
}

static bool on_attach(dsm_ctx *c, struct conn *n, const uint8_t *name)
{
    uint8_t grant[GRANT_SIZE] = {0};
    int fd = -1, rc = -DSM_ESTALE;
    pthread_mutex_lock(&c->lock); /* while it is held, the region can't be closed */
    dsm_region *r = region_find(c, get_u64(name), get_u64(name + 8));
    if (r) {
        put_u64(grant, r->mem->nbytes);
        put_u64(grant + 8, r->mem->base);
        put_u32(grant + 16, r->mem->key);
        put_u32(grant + 20, r->mem->access);
        put_u32(grant + 24, r->mem->kind);
        rc = c->dev->fabric->mem_export(r->mem, &fd);
    }
    pthread_mutex_unlock(&c->lock);
    bool sent = reply(n, -rc, grant, rc ? 0 : sizeof grant, fd);
    if (fd >= 0)
        close(fd);
    return sent;
}

static bool on_status(dsm_ctx *c, struct conn *n, const uint8_t *name)
{
    pthread_mutex_lock(&c->lock);
    bool live = region_find(c, get_u64(name), get_u64(name + 8));
    pthread_mutex_unlock(&c->lock);
    return reply(n, live ? 0 : DSM_ESTALE, NULL, 0, -1);
}

/* The endpoint that the node connected before, if any, is replaced. */
static bool on_endpoint(dsm_ctx *c, struct conn *n, const uint8_t *blob, size_t len)
{
    const struct fabric *f = c->dev->fabric;
    uint8_t mine[FABRIC_BLOB_MAX];
    conn_close_endpoint(n);
    int rc = f->ep_open(c->dev, true, &n->ep);
    if (rc) {
        n->ep = NULL;
        return reply(n, -rc, NULL, 0, -1);
    }
    int size = f->ep_address(n->ep, mine);
    rc = size < 0 ? size : f->ep_connect(n->ep, blob, len);
    if (rc)
        conn_close_endpoint(n);
    return reply(n, -rc, mine, rc ? 0 : (size_t)size, -1);
}

static bool on_message(struct agent *a, struct conn *n, const uint8_t *payload, size_t len)
{
    switch (get_u16(n->in + 4)) {
    case MSG_ATTACH:
        return len == NAME_SIZE && on_attach(a->ctx, n, payload);
    case MSG_ENDPOINT:
        return len <= FABRIC_BLOB_MAX && on_endpoint(a->ctx, n, payload, len);
    case MSG_STATUS:
        return len == NAME_SIZE && on_status(a->ctx, n, payload);
    case MSG_BYE:
        conn_close_endpoint(n);
        return len == 0;
    default:
        return false;
    }
}

/* How many bytes the first message in n->in takes, 0: not known yet, -1: garbage. */
static int message_size(const struct conn *n)
{
    if (n->state == CONN_HELLO)
        return HELLO_SIZE;
    if (n->state == CONN_PROOF)
        return PROOF_SIZE;
    if (n->have < HEADER_SIZE)
        return 0;
    if (memcmp(n->in, MESSAGE_MAGIC, 4) || get_u16(n->in + 6) > PAYLOAD_MAX)
        return -1;
    return HEADER_SIZE + get_u16(n->in + 6);
}

bool conn_input(struct agent *a, struct conn *n)
{
    for (;;) {
        int size = message_size(n);
        if (size < 0)
            return false;
        if (!size || n->have < (size_t)size)
            return n->state == CONN_OPEN || !n->have || !memcmp(n->in, HELLO_MAGIC, n->have < 4 ? n->have : 4) ||
                   n->state == CONN_PROOF;
        bool good = n->state == CONN_HELLO   ? on_hello(a, n)
                    : n->state == CONN_PROOF ? on_proof(a, n)
                                             : on_message(a, n, n->in + HEADER_SIZE, (size_t)size - HEADER_SIZE);
        if (!good)
            return false;
        n->have -= (size_t)size;
        memmove(n->in, n->in + size, n->have);
    }
}
