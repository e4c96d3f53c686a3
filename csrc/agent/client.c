/*
 * The client side of a control connection: connect, handshake, requests. Under peer->control_lock; every wait ends at
 * the deadline.
 *
 * A deadline that passes ends the wait, not the connection: the part of a reply that has arrived stays in the stream,
 * and the next request skips the replies to requests that have timed out. The connection is closed if the other side
 * closes it or sends a message that is not authentic.
 */
#include "../base/deadline.h"
#include "../base/random.h"
#include "../base/wire.h"
#include "agent.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    QUESTION_MAX = MESSAGE_MAX,
    REPLY_MAX = HEADER_SIZE + ANSWER_MAX + MAC,
};
_Static_assert((int)ANSWER_MAX >= (int)GRANT_SIZE + (int)FABRIC_BLOB_MAX, "a grant");
_Static_assert((int)ANSWER_MAX == DSM_CALL_MAX && (int)PAYLOAD_MAX == DSM_CALL_MAX, "a call");

struct stream {
    struct session session;
    uint64_t answered; /* number of the last reply */
    uint32_t nfds;     /* file descriptors that came with the reply that is being received */
    int fds[FABRIC_FDS_MAX];
    size_t have; /* bytes of that reply that have arrived */
    uint8_t in[REPLY_MAX];
    size_t sent, len; /* of the last request: bytes sent, and its length; equal once it is sent completely */
    uint8_t out[QUESTION_MAX];
};

const struct session *client_session(const struct peer *p) { return &p->stream->session; }

int client_await(const struct peer *p, int fd, short events, int64_t deadline)
{
    for (;;) {
        struct pollfd on = {.fd = fd, .events = events};
        int n = poll(&on, 1, deadline_poll_ms(deadline, WAIT_SLICE_NS / 1000000));
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return err_set_errno(errno, "poll");
        if (clock_ns() >= deadline || wait_interrupted())
            return err_set(DSM_ETIME, 0, "the agent at %s does not answer", p->address);
    }
}

int client_gone(const struct peer *p, int sys) { return err_set(DSM_EPEER, sys, "the agent at %s", p->address); }

/* Sends bytes[*done … len-1]. *done is advanced also on failure. */
static int send_rest(const struct peer *p, const uint8_t *bytes, size_t *done, size_t len, int64_t deadline)
{
    while (*done < len) {
        ssize_t n = send(p->fd, bytes + *done, len - *done, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0) {
            *done += (size_t)n;
        } else if (errno == EAGAIN || errno == EINTR) {
            int rc = client_await(p, p->fd, POLLOUT, deadline);
            if (rc)
                return rc;
        } else {
            return client_gone(p, errno);
        }
    }
    return 0;
}

static int send_all(const struct peer *p, const uint8_t *bytes, size_t len, int64_t deadline)
{
    size_t done = 0;
    return send_rest(p, bytes, &done, len, deadline);
}

/* Appends the file descriptors of a message to those of the stream, as many as fit; closes the others. */
static void take_descriptors(struct msghdr *m, struct stream *s)
{
    for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = CMSG_LEN(0); at + sizeof(int) <= h->cmsg_len; at += sizeof(int)) {
            int got;
            memcpy(&got, (const uint8_t *)h + at, sizeof got);
            if (s && s->nfds < FABRIC_FDS_MAX)
                s->fds[s->nfds++] = got;
            else
                close(got);
        }
    }
}

/* One recvmsg. Without a stream, during the handshake, file descriptors that arrive are closed. */
static ssize_t receive(const struct peer *p, uint8_t *bytes, size_t len, struct stream *s)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(FABRIC_FDS_MAX * sizeof(int))];
    } control;
    struct iovec iov = {bytes, len};
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(p->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n <= 0)
        return n;
    take_descriptors(&m, s);
    return n;
}

/* Receives bytes[*done … len-1], like send_rest. */
static int receive_rest(const struct peer *p, uint8_t *bytes, size_t *done, size_t len, struct stream *s,
                        int64_t deadline)
{
    while (*done < len) {
        ssize_t n = receive(p, bytes + *done, len - *done, s);
        if (n > 0) {
            *done += (size_t)n;
        } else if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
            int rc = client_await(p, p->fd, POLLIN, deadline);
            if (rc)
                return rc;
        } else {
            return client_gone(p, n < 0 ? errno : ECONNRESET);
        }
    }
    return 0;
}

static int receive_all(const struct peer *p, uint8_t *bytes, size_t len, int64_t deadline)
{
    size_t done = 0;
    return receive_rest(p, bytes, &done, len, NULL, deadline);
}

static void drop_descriptors(struct stream *s)
{
    while (s->nfds)
        close(s->fds[--s->nfds]);
}

void client_disconnect(struct peer *p)
{
    store_relaxed_u32(&p->dead, 1);
    if (p->fd >= 0) {
        agent_unwatch(p->ctx->agent, p);
        socket_close(p->ctx, &p->fd);
        peer_break(p); /* with the connection the owner has closed its end of the endpoint */
        peer_lost(p);
    }
    if (p->stream) {
        drop_descriptors(p->stream);
        explicit_bzero(p->stream, sizeof *p->stream);
        free(p->stream);
    }
    p->stream = NULL;
}

/* ---- handshake ---- */

static int refused(const struct peer *p, uint32_t status)
{
    return err_set(status <= DSM_ERROR_LAST ? (int)status : DSM_EPROTO, 0, "refused by the agent at %s", p->address);
}

static int read_challenge(const struct peer *p, const uint8_t *in, struct handshake *h)
{
    if (memcmp(in, HELLO_MAGIC, 4))
        return err_set(DSM_EPROTO, 0, "%s", p->address);
    if (get_u16(in + 4) != PROTOCOL_VERSION)
        return err_set(DSM_EVERSION, 0, "%s speaks version %u of the control protocol, this release %d", p->address,
                       get_u16(in + 4), PROTOCOL_VERSION);
    if (get_u16(in + 6))
        return refused(p, get_u16(in + 6));
    if (!p->service && memcmp(in + 8, p->node, DSM_NODE_ID))
        return err_set(DSM_ESTALE, 0, "another node has taken the address %s", p->address);
    memcpy(h->server, in + 8, DSM_NODE_ID);
    memcpy(h->server_nonce, in + 24, NONCE);
    return 0;
}

static int hello(struct peer *p, struct handshake *h, int64_t deadline)
{
    uint8_t out[HELLO_SIZE] = HELLO_MAGIC, in[CHALLENGE_SIZE];
    int rc = random_bytes(h->client_nonce, NONCE);
    if (rc)
        return rc;
    memcpy(h->client, p->ctx->node, DSM_NODE_ID);
    memcpy(h->address, p->address, ADDRESS_MAX);
    put_u16(out + 4, PROTOCOL_VERSION);
    memcpy(out + 8, h->client, DSM_NODE_ID);
    memcpy(out + 24, h->client_nonce, NONCE);
    rc = send_all(p, out, sizeof out, deadline);
    if (!rc)
        rc = receive_all(p, in, sizeof in, deadline);
    return rc ? rc : read_challenge(p, in, h);
}

/* Both sides prove that they know the secret, the client first. So a process that only connects gets no byte that
 * depends on the secret. */
static int prove(struct peer *p, const struct handshake *h, int64_t deadline)
{
    uint8_t proof[PROOF_SIZE], verdict[VERDICT_SIZE], want[MAC];
    handshake_mac(p->ctx, LABEL_CLIENT, h, proof);
    int rc = send_all(p, proof, sizeof proof, deadline);
    if (!rc)
        rc = receive_all(p, verdict, sizeof verdict, deadline);
    if (rc)
        return rc;
    if (get_u32(verdict))
        return refused(p, get_u32(verdict));
    handshake_mac(p->ctx, LABEL_SERVER, h, want);
    return same_bytes(want, verdict + 4, MAC) ? 0 : err_set(DSM_EAUTH, 0, "the agent at %s", p->address);
}

static int do_handshake(struct peer *p, int64_t deadline)
{
    struct handshake h = {.address = ""};
    if (!socket_serves_us(p->fd, p->address))
        return err_set(DSM_EAUTH, 0, "the process at %s is another user's", p->address);
    int rc = hello(p, &h, deadline);
    if (!rc)
        rc = prove(p, &h, deadline);
    if (rc)
        return rc;
    if (!(p->stream = calloc(1, sizeof *p->stream)))
        return err_set(DSM_ENOMEM, 0, "connection");
    session_begin(p->ctx, &h, &p->stream->session);
    return 0;
}

int client_connect(struct peer *p, int64_t deadline)
{
    if (ctx_forked(p->ctx)) /* a signal handler has forked during a wait: what follows would speak as the parent */
        return refuse_forked();
    if (!p->ctx->agent)
        return err_set(DSM_ECLOSED, 0, "the context");
    client_disconnect(p);
    int rc = socket_connect(p->ctx, p->address, deadline, &p->fd);
    if (rc)
        return rc;
    rc = do_handshake(p, deadline);
    if (!rc) { /* before agent_watch(): from then on the agent may set it again at any time */
        store_relaxed_u32(&p->dead, 0);
        rc = agent_watch(p->ctx->agent, p);
    }
    if (rc)
        client_disconnect(p);
    return rc;
}

/* ---- requests ---- */

struct request {
    uint16_t type;
    const void *payload;
    size_t len;
    void *reply;              /* receives the payload of the reply */
    size_t reply_max;         /* in: size of reply; out: length of the payload */
    struct fabric_blob *blob; /* receives the file descriptors that come with the reply; or NULL */
};

/* Sends the rest of the last request. If not even its first byte could be sent, the request is withdrawn. */
static int send_question(struct peer *p, int64_t deadline)
{
    struct stream *s = p->stream;
    int rc = send_rest(p, s->out, &s->sent, s->len, deadline);
    if (rc && !s->sent && s->len) {
        s->len = 0;
        s->session.number--;
    }
    return rc;
}

/* Receives the next reply completely, and checks its MAC and its number. */
static int receive_reply(struct peer *p, int64_t deadline)
{
    struct stream *s = p->stream;
    int rc = receive_rest(p, s->in, &s->have, HEADER_SIZE, s, deadline);
    if (rc)
        return rc;
    if (memcmp(s->in, MESSAGE_MAGIC, 4) || get_u16(s->in + 6) > ANSWER_MAX)
        return err_set(DSM_EPROTO, 0, "%s sent bytes that are not a reply of an agent", p->address);
    if ((rc = receive_rest(p, s->in, &s->have, message_length(s->in), s, deadline)))
        return rc;
    if (!message_genuine(&s->session.answer, s->in))
        return err_set(DSM_EPROTO, 0, "a message from %s has a wrong MAC: it was changed on its way", p->address);
    if (get_u64(s->in + 8) != ++s->answered)
        return err_set(DSM_EPROTO, 0, "%s sent a reply out of order", p->address);
    s->have = 0;
    return 0;
}

static int read_reply(struct peer *p, struct request *q)
{
    struct stream *s = p->stream;
    size_t len = get_u16(s->in + 6);
    uint32_t status = get_u32(s->in + 16);
    if (get_u16(s->in + 4) != (q->type | REPLY) || len > q->reply_max || status > DSM_ERROR_LAST || (status && len))
        return err_set(DSM_EPROTO, 0, "%s sent a reply that does not match the request", p->address);
    if (len)
        memcpy(q->reply, s->in + HEADER_SIZE, len);
    q->reply_max = len;
    if (q->blob && !status) {
        q->blob->nfds = s->nfds;
        memcpy(q->blob->fds, s->fds, sizeof s->fds);
        s->nfds = 0;
    }
    return (int)status;
}

/* Sends a question. */
static int begin(struct peer *p, const struct request *q, int64_t deadline)
{
    struct stream *s = p->stream;
    int rc = send_question(p, deadline); /* the rest of the previous request */
    if (rc)
        return rc;
    memcpy(s->out, MESSAGE_MAGIC, 4);
    put_u16(s->out + 4, q->type);
    put_u16(s->out + 6, (uint16_t)q->len);
    put_u64(s->out + 8, ++s->session.number);
    put_u32(s->out + 16, 0);
    memcpy(s->out + HEADER_SIZE, q->payload, q->len);
    message_seal(&s->session.asking, s->out);
    s->sent = 0;
    s->len = message_length(s->out);
    return send_question(p, deadline);
}

/* Receives the answer to the question with this number. Earlier ones belong to requests that have timed out. Returns 0,
 * a positive DSM_E… if that is the status in the owner's reply, or -DSM_E… on failure. */
static int end(struct peer *p, struct request *q, uint64_t number, int64_t deadline)
{
    struct stream *s = p->stream;
    int rc;
    do {
        drop_descriptors(s);
        rc = receive_reply(p, deadline);
    } while (!rc && s->answered < number);
    if (!rc)
        rc = read_reply(p, q);
    if (rc != -DSM_ETIME)
        drop_descriptors(s);
    return rc;
}

static int usable(const struct peer *p) { return p->fd < 0 || load_relaxed_u32(&p->dead) ? client_gone(p, 0) : 0; }

/* After ETIME the connection remains usable. */
static int ended(struct peer *p, int rc)
{
    if (rc == -DSM_EPEER || rc == -DSM_EPROTO)
        client_disconnect(p);
    return rc;
}

/* Returns what end() returns. */
static int ask(struct peer *p, struct request *q, int64_t deadline)
{
    int rc = usable(p);
    if (rc)
        return rc;
    if (!(rc = begin(p, q, deadline)))
        rc = end(p, q, p->stream->session.number, deadline);
    return ended(p, rc);
}

int client_ask(struct peer *p, uint16_t type, const void *question, size_t len, void *answer, size_t *got,
               int64_t deadline)
{
    struct request q = {.type = type, .payload = question, .len = len, .reply = answer, .reply_max = *got};
    int rc = ask(p, &q, deadline);
    *got = q.reply_max;
    return rc;
}

void client_tell(struct peer *p, uint16_t type, const void *payload, size_t len)
{
    struct request q = {.type = type, .payload = payload, .len = len};
    begin(p, &q, clock_ns());
}

static int answered(const struct peer *p, int rc)
{
    return rc > 0 ? err_set(rc, 0, "the owner's agent at %s rejected the request", p->address) : rc;
}

int client_endpoint(struct peer *p, uint32_t device, const uint8_t *address, size_t len, uint8_t *out, size_t *out_len,
                    int64_t deadline)
{
    uint8_t question[FABRIC_SIZE + FABRIC_ADDRESS_MAX];
    put_u32(question, device_named(p->dev->wire_id, device));
    memcpy(question + FABRIC_SIZE, address, len);
    struct request q = {
        .type = MSG_ENDPOINT, .payload = question, .len = FABRIC_SIZE + len, .reply = out, .reply_max = *out_len};
    int rc = ask(p, &q, deadline);
    if (rc == -DSM_EPEER && !(rc = client_connect(p, deadline))) { /* the agent had not noticed the end yet */
        q.reply_max = *out_len;
        rc = ask(p, &q, deadline);
    }
    *out_len = q.reply_max;
    return answered(p, rc);
}

static void put_name(uint8_t name[NAME_SIZE], uint64_t region, uint64_t generation)
{
    put_u64(name, region);
    put_u64(name + 8, generation);
}

int client_status(struct peer *p, uint64_t region, uint64_t generation, int64_t deadline)
{
    uint8_t name[NAME_SIZE];
    put_name(name, region, generation);
    struct request q = {.type = MSG_STATUS, .payload = name, .len = sizeof name};
    return answered(p, ask(p, &q, deadline));
}

int client_call(struct peer *p, const void *bytes, size_t len, void *reply, size_t *reply_len, int64_t deadline)
{
    struct request q = {.type = MSG_CALL, .payload = bytes, .len = len, .reply = reply, .reply_max = *reply_len};
    int rc = p->fd < 0 || load_relaxed_u32(&p->dead) ? client_connect(p, deadline) : 0;
    if (!rc)
        rc = ask(p, &q, deadline);
    *reply_len = q.reply_max;
    if (rc == DSM_EUNSUPPORTED)
        return err_set(rc, 0, "the process at %s serves no names; run 'dsmem serve' there", p->address);
    return answered(p, rc);
}

/* ---- attach ---- */

static int read_grant(const struct peer *p, const uint8_t *answer, size_t len, struct fabric_grant *out)
{
    if (len < GRANT_SIZE)
        return err_set(DSM_EPROTO, 0, "%s granted a region in a reply of %zu bytes", p->address, len);
    out->nbytes = get_u64(answer);
    out->access = get_u32(answer + 8);
    out->kind = get_u16(answer + 12);
    out->devices = 1u + answer[14];
    out->atomics = answer[15];
    out->blob.nbytes = (uint32_t)(len - GRANT_SIZE);
    memcpy(out->blob.bytes, answer + GRANT_SIZE, out->blob.nbytes);
    if (!out->nbytes || !out->access || out->access > 7 || out->kind != MEMORY_HOST ||
        out->devices > FABRIC_DEVICES_MAX || out->atomics > out->devices)
        return err_set(DSM_EPROTO, 0, "%s granted a region with invalid length, rights, kind or devices", p->address);
    return 0;
}

/* Question 0 is ATTACH; the others are PARTS. */
static int send_attach(struct peer *p, const struct wanted *w, size_t number, int64_t deadline)
{
    uint8_t question[PAYLOAD_MAX];
    put_name(question, w->d->region, w->d->generation);
    struct request q = {.type = MSG_ATTACH, .payload = question, .len = NAME_SIZE + FABRIC_SIZE};
    if (!number) {
        put_u32(question + NAME_SIZE, device_named(p->dev->wire_id, w->device));
        return begin(p, &q, deadline);
    }
    q.type = MSG_PARTS;
    q.len = NAME_SIZE;
    for (size_t i = (number - 1) * PARTS_MAX; i < w->n && i < number * PARTS_MAX; i++, q.len += PART_SIZE) {
        const struct dsm_part *part = &w->asked[i].part;
        put_u64(question + q.len, part->number);
        put_u64(question + q.len + 8, part->generation);
        put_u64(question + q.len + 16, part->offset);
        put_u64(question + q.len + 24, part->nbytes);
    }
    return begin(p, &q, deadline);
}

static int receive_attach(struct peer *p, struct wanted *w, size_t number, uint64_t first, struct fabric_grant *out,
                          int64_t deadline)
{
    uint8_t answer[ANSWER_MAX];
    struct request q = {.type = MSG_ATTACH, .reply = answer, .reply_max = sizeof answer, .blob = &out->blob};
    if (number) {
        q.type = MSG_PARTS;
        q.blob = NULL;
    }
    int rc = answered(p, end(p, &q, first + number, deadline));
    if (rc || !number)
        return rc ? rc : read_grant(p, answer, q.reply_max, out);
    size_t from = (number - 1) * PARTS_MAX, asked = w->n - from < PARTS_MAX ? w->n - from : PARTS_MAX;
    if (q.reply_max != 4 || get_u32(answer) > asked)
        return err_set(DSM_EPROTO, 0, "%s sent a reply that does not match the request", p->address);
    if (get_u32(answer) == asked)
        return 0;
    w->stale = from + get_u32(answer);
    return err_set(DSM_ESTALE, 0, "the region of the pool at offset %llu has been freed",
                   (unsigned long long)w->asked[w->stale].part.offset);
}

/* An owner never waits for a client, so its answers must fit into the socket's buffer: that bounds the questions on
 * their way. They are sent, and answered, many at a time, so that the two sides wake each other seldom. */
int client_attach(struct peer *p, struct wanted *w, struct fabric_grant *out, int64_t deadline)
{
    enum { ON_THEIR_WAY = 32 };
    size_t questions = 1 + (w->n + PARTS_MAX - 1) / PARTS_MAX, sent = 0, got = 0, until = ON_THEIR_WAY;
    int rc = usable(p);
    if (rc)
        return rc;
    uint64_t first = p->stream->session.number + 1;
    w->stale = SIZE_MAX;
    while (!rc && got < questions) {
        if (sent < questions && sent < until) {
            rc = send_attach(p, w, sent++, deadline);
            continue;
        }
        rc = receive_attach(p, w, got++, first, out, deadline);
        if (sent - got == ON_THEIR_WAY / 2)
            until = got + ON_THEIR_WAY;
    }
    return ended(p, rc);
}
