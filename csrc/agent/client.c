/*
 * Talking to an owner's agent: connect, prove, ask. Under peer->talk; every wait ends at the deadline.
 * After a failure in the middle of a conversation the connection is given up: nobody could tell whose reply comes next.
 */
#include "../base/clock.h"
#include "../base/sha256.h"
#include "../base/wire.h"
#include "agent.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

static int await(const struct peer *p, short events, int64_t deadline)
{
    for (;;) {
        struct pollfd on = {.fd = p->fd, .events = events};
        int n = poll(&on, 1, deadline_poll_ms(deadline, WAIT_SLICE_NS / 1000000));
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return err_set_errno(errno, "poll");
        if (clock_ns() >= deadline || wait_interrupted())
            return err_set(DSM_ETIME, 0, "the agent at %s does not answer", p->address);
    }
}

static int gone(const struct peer *p, int sys) { return err_set(DSM_EPEER, sys, "the agent at %s", p->address); }

static int send_all(const struct peer *p, const uint8_t *bytes, size_t len, int64_t deadline)
{
    while (len) {
        ssize_t n = send(p->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0) {
            bytes += n;
            len -= (size_t)n;
        } else if (errno == EAGAIN || errno == EINTR) {
            int rc = await(p, POLLOUT, deadline);
            if (rc)
                return rc;
        } else {
            return gone(p, errno);
        }
    }
    return 0;
}

/* The first of the file descriptors in a message goes to *fd if that is free; all others are closed. */
static void take_descriptors(struct msghdr *m, int *fd)
{
    for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = CMSG_LEN(0); at + sizeof(int) <= h->cmsg_len; at += sizeof(int)) {
            int got;
            memcpy(&got, (const uint8_t *)h + at, sizeof got);
            if (fd && *fd < 0)
                *fd = got;
            else
                close(got);
        }
    }
}

/* One recvmsg. The kernel's alignment leaves room for more descriptors than one. */
static ssize_t receive(const struct peer *p, uint8_t *bytes, size_t len, int *fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {bytes, len};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(p->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n <= 0)
        return n;
    take_descriptors(&m, fd);
    return n;
}

static int receive_all(const struct peer *p, uint8_t *bytes, size_t len, int *fd, int64_t deadline)
{
    while (len) {
        ssize_t n = receive(p, bytes, len, fd);
        if (n > 0) {
            bytes += n;
            len -= (size_t)n;
        } else if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            int rc = await(p, POLLIN, deadline);
            if (rc)
                return rc;
        } else {
            return gone(p, n < 0 ? errno : ECONNRESET);
        }
    }
    return 0;
}

static void disconnect(struct peer *p)
{
    note_u32(&p->dead, 1);
    if (p->fd < 0)
        return;
    agent_unwatch(p->ctx->agent, p);
    close(p->fd);
    p->fd = -1;
}

/* ---- handshake ---- */

static int read_challenge(const struct peer *p, const uint8_t *in, struct handshake *h)
{
    uint8_t want[MAC];
    if (memcmp(in, HELLO_MAGIC, 4))
        return err_set(DSM_EPROTO, 0, "%s", p->address);
    if (get_u16(in + 4) != PROTOCOL_VERSION)
        return err_set(DSM_EVERSION, 0, "%s speaks version %u of the control protocol, this release %d", p->address,
                       get_u16(in + 4), PROTOCOL_VERSION);
    if (get_u16(in + 6))
        return err_set(get_u16(in + 6) <= DSM_ERROR_LAST ? get_u16(in + 6) : DSM_EPROTO, 0, "refused by %s",
                       p->address);
    if (memcmp(in + 8, p->node, DSM_NODE_ID))
        return err_set(DSM_ESTALE, 0, "another node has taken the address %s", p->address);
    memcpy(h->server, in + 8, DSM_NODE_ID);
    memcpy(h->server_nonce, in + 24, NONCE);
    handshake_mac(p->ctx, "dsmem-server", h, want);
    return same_bytes(want, in + 56, MAC) ? 0 : err_set(DSM_EAUTH, 0, "%s", p->address);
}

static int shake_hands(struct peer *p, int64_t deadline)
{
    struct handshake h;
    uint8_t hello[HELLO_SIZE] = HELLO_MAGIC, in[CHALLENGE_SIZE], proof[PROOF_SIZE];
    if (getrandom(h.client_nonce, NONCE, 0) != NONCE)
        return err_set_errno(errno, "getrandom");
    memcpy(h.client, p->ctx->node, DSM_NODE_ID);
    put_u16(hello + 4, PROTOCOL_VERSION);
    memcpy(hello + 8, h.client, DSM_NODE_ID);
    memcpy(hello + 24, h.client_nonce, NONCE);
    int rc = send_all(p, hello, sizeof hello, deadline);
    if (!rc)
        rc = receive_all(p, in, CHALLENGE_SIZE, NULL, deadline);
    if (!rc)
        rc = read_challenge(p, in, &h);
    if (rc)
        return rc;
    handshake_mac(p->ctx, "dsmem-client", &h, proof);
    rc = send_all(p, proof, sizeof proof, deadline);
    if (!rc)
        rc = receive_all(p, in, VERDICT_SIZE, NULL, deadline);
    if (!rc && get_u32(in))
        rc = err_set(get_u32(in) <= DSM_ERROR_LAST ? (int)get_u32(in) : DSM_EPROTO, 0, "refused by %s", p->address);
    return rc;
}

static int connect_peer(struct peer *p, int64_t deadline)
{
    disconnect(p);
    int rc = socket_connect(p->address, deadline, &p->fd);
    if (rc)
        return rc;
    rc = shake_hands(p, deadline);
    if (!rc) { /* before the agent watches: from then on it may say dead again at any moment */
        note_u32(&p->dead, 0);
        rc = agent_watch(p->ctx->agent, p);
    }
    if (rc)
        disconnect(p);
    return rc;
}

/* ---- requests ---- */

struct request {
    uint16_t type;
    const void *payload;
    size_t len;
    void *reply;      /* where its payload goes */
    size_t reply_max; /* in: room, out: length */
    int *fd;          /* where a file descriptor that comes with it goes, or NULL */
};

static int read_reply(struct peer *p, struct request *q, int64_t deadline)
{
    uint8_t h[HEADER_SIZE];
    int rc = receive_all(p, h, sizeof h, q->fd, deadline);
    if (rc)
        return rc;
    size_t len = get_u16(h + 6);
    uint32_t status = get_u32(h + 12);
    if (memcmp(h, MESSAGE_MAGIC, 4) || get_u16(h + 4) != (q->type | REPLY) || get_u32(h + 8) != p->seq ||
        len > q->reply_max || status > DSM_ERROR_LAST)
        return err_set(DSM_EPROTO, 0, "%s sent a reply that fits no question", p->address);
    rc = len ? receive_all(p, q->reply, len, q->fd, deadline) : 0;
    q->reply_max = len;
    return rc ? rc : (int)status;
}

/* 0; a positive DSM_E… that the owner answered; or a negative one, then the connection is gone. */
static int ask(struct peer *p, struct request *q, int64_t deadline)
{
    uint8_t out[HEADER_SIZE + FABRIC_BLOB_MAX] = MESSAGE_MAGIC;
    if (p->fd < 0 || peek_u32(&p->dead))
        return gone(p, 0);
    put_u16(out + 4, q->type);
    put_u16(out + 6, (uint16_t)q->len);
    put_u32(out + 8, ++p->seq);
    memcpy(out + HEADER_SIZE, q->payload, q->len);
    int rc = send_all(p, out, HEADER_SIZE + q->len, deadline);
    if (!rc)
        rc = read_reply(p, q, deadline);
    if (rc < 0)
        disconnect(p);
    return rc;
}

static int answered(const struct peer *p, int rc)
{
    return rc > 0 ? err_set(rc, 0, "said by the owner's agent at %s", p->address) : rc;
}

static int ask_endpoint(struct peer *p, const uint8_t *blob, size_t len, uint8_t *out, size_t *out_len,
                        int64_t deadline)
{
    struct request q = {.type = MSG_ENDPOINT, .payload = blob, .len = len, .reply = out, .reply_max = *out_len};
    int rc = ask(p, &q, deadline);
    *out_len = q.reply_max;
    return answered(p, rc);
}

static void put_name(uint8_t name[NAME_SIZE], uint64_t region, uint64_t generation)
{
    put_u64(name, region);
    put_u64(name + 8, generation);
}

static int ask_status(struct peer *p, uint64_t region, uint64_t generation, int64_t deadline)
{
    uint8_t name[NAME_SIZE];
    put_name(name, region, generation);
    struct request q = {.type = MSG_STATUS, .payload = name, .len = sizeof name};
    return answered(p, ask(p, &q, deadline));
}

const struct control agent_control = {connect_peer, ask_endpoint, ask_status, disconnect};

/* ---- attach ---- */

static int ask_attach(struct peer *p, dsm_descriptor *d, int *fd, int64_t deadline)
{
    uint8_t name[NAME_SIZE], grant[GRANT_SIZE];
    put_name(name, d->region, d->generation);
    struct request q = {
        .type = MSG_ATTACH, .payload = name, .len = sizeof name, .reply = grant, .reply_max = sizeof grant, .fd = fd};
    int rc = ask(p, &q, deadline);
    if (rc)
        return answered(p, rc);
    if (q.reply_max != GRANT_SIZE)
        return err_set(DSM_EPROTO, 0, "%s granted %zu bytes of nothing", p->address, q.reply_max);
    d->nbytes = get_u64(grant);
    d->base = get_u64(grant + 8);
    d->key = get_u32(grant + 16);
    d->access = get_u32(grant + 20);
    d->kind = get_u32(grant + 24);
    if (!d->nbytes || !d->access || d->access > 7 || d->kind != FABRIC_KIND_HOST)
        return err_set(DSM_EPROTO, 0, "%s granted a region that makes no sense", p->address);
    return 0;
}

/* A peer that lives, with one reference more; those that are dead and forgotten go. */
static int find_peer(dsm_ctx *c, const dsm_descriptor *d, struct peer **out)
{
    struct peer *found = NULL;
    int rc = 0;
    peers_bury(c);
    pthread_mutex_lock(&c->lock);
    for (struct peer *p = c->peers; p; p = p->next) {
        bool dead = peek_u32(&p->dead) && !c->dev->connected;
        if (!dead && !memcmp(p->node, d->node, DSM_NODE_ID) && !strcmp(p->address, d->address))
            found = p;
    }
    if (!found && !(rc = peer_new(c, d->node, d->address, &found))) {
        found->next = c->peers;
        c->peers = found;
    }
    if (!rc)
        found->refs++;
    pthread_mutex_unlock(&c->lock);
    *out = found;
    return rc;
}

/* Asks the owner, and maps or records what it grants. */
static int import(dsm_ctx *c, struct peer *p, dsm_descriptor *d, int64_t deadline, struct fabric_remote **out)
{
    int fd = -1, rc = peer_talk(p, deadline);
    if (rc)
        return rc;
    bool fresh = p->fd < 0 || peek_u32(&p->dead);
    rc = fresh ? connect_peer(p, deadline) : 0;
    if (!rc)
        rc = ask_attach(p, d, &fd, deadline);
    if (rc == -DSM_EPEER && !fresh) { /* the old connection had ended and nobody had noticed */
        if (fd >= 0)
            close(fd);
        fd = -1;
        rc = connect_peer(p, deadline);
        if (!rc)
            rc = ask_attach(p, d, &fd, deadline);
    }
    pthread_mutex_unlock(&p->talk);
    if (!rc && c->dev->connected)
        rc = peer_ready(p, deadline);
    if (!rc)
        rc = c->dev->fabric->mem_import(c->dev, d, fd, out);
    if (fd >= 0)
        close(fd);
    return rc;
}

int dsm_attach(dsm_ctx *c, const void *descriptor, size_t len, int64_t timeout_ns, dsm_remote **out)
{
    dsm_descriptor d;
    struct peer *p;
    if (ctx_forked(c))
        return refuse_forked();
    int rc = dsm_descriptor_parse(descriptor, len, &d);
    if (rc)
        return rc;
    if (d.fabric != c->dev->wire_id)
        return err_set(DSM_EINVAL, 0, "the descriptor belongs to %s, this context to %s",
                       d.fabric == FABRIC_SHM ? "shm" : "verbs", c->caps.fabric);
    dsm_remote *r = calloc(1, sizeof *r);
    if (!r)
        return err_set(DSM_ENOMEM, 0, "remote");
    if ((rc = find_peer(c, &d, &p))) {
        free(r);
        return rc;
    }
    rc = import(c, p, &d, deadline_after(timeout_ns < 0 ? c->peer_timeout_ns : timeout_ns), &r->far);
    pthread_mutex_lock(&c->lock);
    if (rc)
        p->refs--;
    else
        c->live_remotes++;
    pthread_mutex_unlock(&c->lock);
    if (rc) {
        free(r);
        peers_bury(c);
        return rc;
    }
    r->near = r->far->near;
    r->state = r->far->state;
    r->nbytes = r->far->nbytes;
    r->access = r->far->access;
    r->forks = c->forks;
    r->ctx = c;
    r->peer = p;
    r->region = d.region;
    r->generation = d.generation;
    *out = r;
    return 0;
}
