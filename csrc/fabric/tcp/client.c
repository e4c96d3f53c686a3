/*
 * The peer's side: requests are written, and replies read, by the thread that posts, polls or waits; each call on the
 * socket returns at once.
 *
 * Ops are in one list, in the order in which they were posted, which is that of their replies. They are numbered from 0
 * on the connection: those below 'done' have ended, the requests of those below 'whole' have left, of those below
 * 'sent' at least one byte has, and those below 'framed' are in the requests that 'iov' holds. An op is framed only
 * when there is room, so post never fails.
 */
#include "../../base/wire.h"
#include "tcp.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IN = 16384, HEADS = 16384, PIECES = 256, FRAMES = 128, DIRECT = 1024 };
_Static_assert(HEADS >= TCP_REQUEST + 8 * TCP_PIECES, "a request fits");

/* The name of a connection, by which its owner can be asked about ops that got no answer: these refer to it, also after
 * its end. */
struct name {
    uint32_t refs;
    uint8_t token[TCP_TOKEN];
};

struct client {
    struct tcp_ep ep;
    struct name *name;
    struct tcp_file socket, epoll;
    uint32_t events; /* that epoll waits for */

    struct fabric_op *head, **tail; /* ops that have not ended */
    struct fabric_op *unframed;     /* the first that is not framed; NULL: there is none */
    uint64_t done, whole, sent, framed;
    uint32_t atomics; /* framed, and not ended */

    /* what is to be sent: pieces of heads and of the ops' buffers */
    struct iovec iov[PIECES];
    size_t iov_at, iov_end;
    struct {
        size_t iov;   /* its first piece */
        uint64_t end; /* the number behind its last op */
    } frames[FRAMES];
    size_t frame_at, frame_end; /* frame_at: the first of which no byte has left */
    size_t heads_end;

    /* the reply that is being received */
    struct tcp_reply reply;
    bool replied;           /* its head has been received, and its payload not completely */
    uint32_t promised;      /* not 0: the payload of so many ops has come, and their status has not */
    uint64_t left;          /* bytes of the payload that have not arrived */
    struct fabric_op *into; /* the op that they are for */
    uint64_t filled;        /* bytes of it that have arrived */
    size_t in_at, in_end;
    uint8_t in[IN], heads[HEADS];
};

static struct client *client(struct fabric_ep *e) { return (struct client *)e; }
static struct tcp_dev *device(const struct client *c) { return (struct tcp_dev *)c->ep.base.dev; }
static bool is_atomic(const dsm_op *op) { return op->code >= DSM_OP_FETCH_ADD; }

/* ---- the end of ops ---- */

static void pop(struct client *c, int status)
{
    struct fabric_op *w = c->head;
    c->atomics -= is_atomic(w->op) && c->done < c->framed;
    if (!(c->head = w->next))
        c->tail = &c->head;
    if (c->unframed == w)
        c->unframed = c->head;
    c->done++;
    c->ep.base.inflight--;
    c->ep.base.bytes -= w->op->nbytes;
    fabric_op_done(w, status);
}

/* The end of an op whose answer will not come: says what the owner is asked about. A READ may be repeated whatever
 * became of it, so one that ends because of another is as good as not executed. */
static int lose(struct client *c, int cause)
{
    struct fabric_op *w = c->head;
    if (w->op->code == DSM_OP_READ && cause == -DSM_ECANCELED)
        return cause;
    if (w->op->code != DSM_OP_READ) {
        assert(!w->prepared[0]);
        fetch_add_u32(&c->name->refs, 1);
        w->prepared[0] = c->name;
        w->number = c->done;
    }
    return fabric_op_lost(w->op, cause);
}

static void drop_name(struct name *n)
{
    if (fetch_sub_u32(&n->refs, 1) == 1)
        free(n);
}

size_t tcp_doubt(struct fabric_dev *d, const struct fabric_op *w, uint8_t address[FABRIC_ADDRESS_MAX], uint64_t *number)
{
    (void)d;
    if (!w->prepared[0])
        return 0;
    memcpy(address, ((const struct name *)w->prepared[0])->token, TCP_TOKEN);
    *number = w->number;
    return TCP_TOKEN;
}

void tcp_op_release(struct fabric_dev *d, struct fabric_op *w)
{
    (void)d;
    drop_name(w->prepared[0]);
    w->prepared[0] = NULL;
}

/* The connection is of no use any more. cause: of the first op; the others ended because of it. */
static void break_off(struct client *c, int cause)
{
    if (c->ep.base.broken)
        return;
    c->ep.base.broken = true;
    if (c->socket.fd >= 0)
        shutdown(c->socket.fd, SHUT_RDWR);
    for (; c->head; cause = -DSM_ECANCELED)
        pop(c, c->done < c->sent ? lose(c, cause) : cause);
}

/* ---- requests ---- */

/* Appends bytes to what is to be sent; those that follow the last piece in memory lengthen it, unless it begins a
 * frame. */
static void append(struct client *c, const void *p, size_t n, bool begins)
{
    struct iovec *last = c->iov_end > c->iov_at ? &c->iov[c->iov_end - 1] : NULL;
    if (last && !begins && (const uint8_t *)last->iov_base + last->iov_len == p) {
        last->iov_len += n;
        return;
    }
    c->iov[c->iov_end++] = (struct iovec){(void *)(uintptr_t)p, n};
}

static bool gathers(const dsm_op *op) { return op->code == DSM_OP_WRITE && op->second_nbytes; }

/* How many of the ops from 'op' on go into one request: short ones of the same kind and size on the same memory.
 * A WRITE from two pieces has one of its own. */
static uint32_t alike(const struct client *c, const struct fabric_op *w)
{
    enum { TOGETHER = 1 << 22 }; /* bytes: READs that share a request end together */
    const dsm_op *first = w->op;
    size_t most = (HEADS - c->heads_end - TCP_REQUEST) / 8, pieces = PIECES - c->iov_end - 1;
    uint32_t n = 1;
    if (is_atomic(first) || first->nbytes > tcp_piece_most(first->code) || gathers(first))
        return 1;
    if (most > TCP_PIECES)
        most = TCP_PIECES;
    if (most > TOGETHER / first->nbytes)
        most = TOGETHER / first->nbytes;
    for (const dsm_op *last = first; (w = w->next) && n < most; last = w->op, n++) {
        const dsm_op *op = w->op;
        if (gathers(op) || op->code != first->code || fabric_remote_of(op) != fabric_remote_of(first) ||
            op->nbytes != first->nbytes)
            break;
        bool follows = op->code == DSM_OP_READ || op->local == (const uint8_t *)last->local + last->nbytes;
        if (!follows && !--pieces)
            break;
    }
    return n;
}

/* Makes a request of the first ops that are in none. */
static void frame(struct client *c)
{
    struct fabric_op *w = c->unframed;
    const dsm_op *op = w->op;
    const struct tcp_remote *r = (const struct tcp_remote *)fabric_remote_of(op);
    uint32_t n = alike(c, w);
    uint8_t *head = c->heads + c->heads_end, *at = head + TCP_REQUEST;
    struct tcp_request q = {.code = op->code,
                            .pieces = (uint16_t)n,
                            .slot = r->slot,
                            .nbytes = op->nbytes,
                            .offset = n == 1 ? fabric_offset_of(op) : 0,
                            .number = c->framed};
    memcpy(q.key, r->key, TCP_KEY);
    tcp_put_request(head, &q);
    if (is_atomic(op)) {
        put_u64(at, op->operand);
        put_u64(at + 8, op->desired);
        at += TCP_OPERANDS;
    }
    const struct fabric_op *o = w;
    for (uint32_t i = 0; n > 1 && i < n; i++, o = o->next, at += 8)
        put_u64(at, fabric_offset_of(o->op));
    c->atomics += is_atomic(op);
    c->heads_end = (size_t)(at - c->heads);
    c->framed += n;
    c->frames[c->frame_end].iov = c->iov_end;
    c->frames[c->frame_end++].end = c->framed;
    append(c, head, (size_t)(at - head), true);
    for (; n; n--, w = w->next)
        for (uint64_t i = 0, run; w->op->code == DSM_OP_WRITE && i < w->op->nbytes; i += run) {
            const uint8_t *p = fabric_op_local(w->op, i, &run);
            append(c, p, run, false);
        }
    c->unframed = w;
}

/* Whether another request of one op certainly fits: its head, and three pieces. */
static bool has_room(const struct client *c)
{
    return c->frame_end < FRAMES && c->iov_end + 3 <= PIECES && HEADS - c->heads_end >= TCP_REQUEST + TCP_OPERANDS + 8;
}

/* Whether the next op may be sent: the owner remembers the results of so many. */
static bool may_frame(const struct client *c)
{
    return c->unframed && (c->atomics < TCP_WINDOW || !is_atomic(c->unframed->op));
}

static void refill(struct client *c)
{
    if (c->iov_at == c->iov_end) {
        c->iov_at = c->iov_end = c->heads_end = 0;
        c->frame_at = c->frame_end = 0;
    }
    while (may_frame(c) && has_room(c))
        frame(c);
}

static void advance(struct client *c, size_t n)
{
    while (n) {
        struct iovec *v = &c->iov[c->iov_at];
        for (; c->frame_at < c->frame_end && c->frames[c->frame_at].iov <= c->iov_at; c->frame_at++)
            c->sent = c->frames[c->frame_at].end;
        size_t part = n < v->iov_len ? n : v->iov_len;
        v->iov_base = (uint8_t *)v->iov_base + part;
        v->iov_len -= part;
        c->iov_at += !v->iov_len;
        n -= part;
    }
    size_t k = c->frame_at, next = k < c->frame_end ? c->frames[k].iov : c->iov_end;
    if (k && c->iov_at >= next)
        c->whole = c->frames[k - 1].end;
    else if (k > 1)
        c->whole = c->frames[k - 2].end;
}

/* ---- replies ---- */

static bool has_payload(const dsm_op *op) { return op->code != DSM_OP_WRITE; }

/* Where the payload of an op goes to from byte 'from' on. *run: bytes that go there in a row. */
static uint8_t *place_of(struct fabric_op *w, uint64_t from, uint64_t *run)
{
    *run = 8 - from;
    return is_atomic(w->op) ? (uint8_t *)&w->op->result + from : fabric_op_local(w->op, from, run);
}

static uint64_t payload_of(const struct client *c, uint32_t ops)
{
    uint64_t n = 0;
    for (const struct fabric_op *w = c->head; ops; ops--, w = w->next)
        n += has_payload(w->op) ? w->op->nbytes : 0;
    return n;
}

/* Whether the reply is one that an owner may send now. Of a request that has not left completely, the buffers are still
 * in use. */
static bool is_sound(const struct client *c, const struct tcp_reply *r)
{
    if (r->number != c->done || !r->ops || r->ops > c->whole - c->done || r->flags > TCP_MORE)
        return false;
    if (r->status && (r->flags || r->nbytes || (r->status != DSM_EACCESS && r->status != DSM_ESTALE)))
        return false;
    if (c->promised)
        return !r->flags && !r->nbytes && r->ops == c->promised;
    return r->status || (payload_of(c, r->ops) == r->nbytes && (!r->flags || r->nbytes));
}

static struct fabric_op *next_with_payload(struct fabric_op *w)
{
    while (!has_payload(w->op))
        w = w->next;
    return w;
}

/* Goes on to an op, or to the next that has a payload. */
static void go_to(struct client *c, struct fabric_op *w)
{
    c->into = next_with_payload(w);
    c->filled = 0;
}

/* Takes the head of the next reply from 'in'. */
static void begin(struct client *c)
{
    tcp_get_reply(c->in + c->in_at, &c->reply);
    c->in_at += TCP_REPLY;
    if (!is_sound(c, &c->reply)) {
        break_off(c, -DSM_EIO);
        return;
    }
    c->replied = true;
    c->left = c->reply.nbytes;
    if (c->left)
        go_to(c, c->head);
}

/* The payload of the reply has arrived completely. */
static void end(struct client *c)
{
    c->replied = false;
    if (c->reply.flags & TCP_MORE) {
        c->promised = c->reply.ops;
        return;
    }
    c->promised = 0;
    for (uint32_t n = c->reply.ops; n; n--)
        pop(c, -(int)c->reply.status);
}

/* So many bytes of the payload have been placed. */
static void filled(struct client *c, size_t n)
{
    c->left -= n;
    while (n) {
        uint64_t rest = c->into->op->nbytes - c->filled, part = n < rest ? n : rest;
        n -= (size_t)part;
        c->filled += part;
        if (part == rest && (n || c->left))
            go_to(c, c->into->next);
    }
}

/* Uses what is in 'in'. */
static void consume(struct client *c)
{
    while (!c->ep.base.broken) {
        size_t have = c->in_end - c->in_at;
        if (c->replied && !c->left) {
            end(c);
        } else if (c->replied && have) {
            uint64_t most;
            uint8_t *to = place_of(c->into, c->filled, &most);
            size_t n = have < most ? have : (size_t)most;
            memcpy(to, c->in + c->in_at, n);
            c->in_at += n;
            filled(c, n);
        } else if (!c->replied && have >= TCP_REPLY) {
            begin(c);
        } else {
            return;
        }
    }
}

/* The places of what follows of the payload, up to that of a short op, which is not worth a piece of its own. Returns
 * how many pieces these are; *total: their bytes. */
static size_t places(const struct client *c, struct iovec *iov, size_t most, size_t *total)
{
    struct fabric_op *w = c->into;
    uint64_t from = c->filled, left = c->replied ? c->left : 0;
    size_t n = 0;
    *total = 0;
    while (left) {
        uint64_t run;
        uint8_t *to = place_of(w, from, &run);
        bool follows = n && (uint8_t *)iov[n - 1].iov_base + iov[n - 1].iov_len == to;
        if (!follows && (w->op->nbytes < DIRECT || n == most))
            break;
        if (follows)
            iov[n - 1].iov_len += run;
        else
            iov[n++] = (struct iovec){to, run};
        *total += run;
        left -= run;
        from += run;
        if (left && from == w->op->nbytes) {
            w = next_with_payload(w->next);
            from = 0;
        }
    }
    return n;
}

/* One call. Long pieces of a payload go straight to their places, and what follows to 'in'. Returns whether there may
 * be more to receive. */
static bool receive(struct client *c)
{
    enum { MOST = 64 };
    struct iovec iov[MOST + 1];
    size_t direct = 0, n = c->in_at == c->in_end ? places(c, iov, MOST, &direct) : 0;
    memmove(c->in, c->in + c->in_at, c->in_end - c->in_at);
    c->in_end -= c->in_at;
    c->in_at = 0;
    iov[n] = (struct iovec){c->in + c->in_end, IN - c->in_end};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = n + 1};
    size_t most = direct + iov[n].iov_len;
    ssize_t got =
        n ? recvmsg(c->socket.fd, &m, MSG_DONTWAIT) : recv(c->socket.fd, iov[0].iov_base, iov[0].iov_len, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (got <= 0) {
        break_off(c, -DSM_EPEER);
        return false;
    }
    c->ep.base.moved += (uint64_t)got;
    size_t placed = (size_t)got < direct ? (size_t)got : direct;
    filled(c, placed);
    c->in_end += (size_t)got - placed;
    return (size_t)got == most;
}

/* Takes the replies that have arrived. Once nothing can be sent any more they are all that will come. */
static void take_rest(struct client *c)
{
    enum { MOST = 1024 }; /* calls: an owner that goes on sending is not waited for */
    for (int i = 0; i < MOST && !c->ep.base.broken && c->ep.base.inflight && receive(c); i++)
        consume(c);
    consume(c);
}

/* ---- sending, sleeping ---- */

/* What the socket is to be watched for. */
static int watch(struct client *c)
{
    bool blocked = may_frame(c) || c->iov_at < c->iov_end;
    struct epoll_event ev = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0u)};
    if (ev.events == c->events || c->ep.base.broken)
        return 0;
    if (epoll_ctl(c->epoll.fd, EPOLL_CTL_MOD, c->socket.fd, &ev))
        return err_set_errno(errno, "epoll_ctl");
    c->events = ev.events;
    return 0;
}

/* At most so many bytes at a time, as the caller may be an event loop, and holds the peer's lock. */
static void send_some(struct client *c)
{
    enum { MOST = 1 << 20 };
    for (size_t sent = 0; sent < MOST && !c->ep.base.broken;) {
        refill(c);
        if (c->iov_at == c->iov_end)
            return;
        struct msghdr m = {.msg_iov = c->iov + c->iov_at, .msg_iovlen = c->iov_end - c->iov_at};
        ssize_t n = sendmsg(c->socket.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0) {
            advance(c, (size_t)n);
            sent += (size_t)n;
            c->ep.base.moved += (uint64_t)n;
        } else if (errno == EAGAIN || errno == EINTR) {
            break;
        } else {
            take_rest(c);
            break_off(c, -DSM_EPEER);
        }
    }
    watch(c); /* also for a thread that sleeps already */
}

void tcp_post(struct fabric_ep *e, struct fabric_op *list)
{
    struct client *c = client(e);
    fetch_add_u64(&e->dev->stats->doorbells, 1);
    for (struct fabric_op *w = list, *next; w; w = next) {
        next = w->next;
        assert(fabric_op_checked(w->op));
        if (e->broken) {
            fabric_op_done(w, -DSM_ECANCELED);
            continue;
        }
        w->next = NULL;
        *c->tail = w;
        c->tail = &w->next;
        if (!c->unframed)
            c->unframed = w;
        e->inflight++;
        e->bytes += w->op->nbytes;
    }
    send_some(c);
}

/* Without an op outstanding only the end of the connection can come. */
int tcp_poll(struct fabric_ep *e)
{
    enum { ROUNDS = 64 };
    struct client *c = client(e);
    uint64_t before = c->done;
    if (may_frame(c) || c->iov_at < c->iov_end)
        send_some(c);
    bool more = !e->broken;
    for (int i = 0; i < ROUNDS && more && !e->broken; i++) {
        more = receive(c);
        consume(c);
        if (may_frame(c) || c->iov_at < c->iov_end)
            send_some(c); /* the owner may wait for us to go on, as we do for it */
    }
    return (int)(c->done - before);
}

int tcp_arm(struct fabric_ep *e) { return watch(client(e)); }

int tcp_fd(struct fabric_ep *e) { return client(e)->epoll.fd; }

/* ---- endpoints ---- */

int tcp_client_open(struct tcp_dev *d, struct fabric_ep **out)
{
    struct client *c = calloc(1, sizeof *c);
    struct name *name = calloc(1, sizeof *name);
    if (!c || !name) {
        free(c);
        free(name);
        return err_set(DSM_ENOMEM, 0, "tcp endpoint");
    }
    name->refs = 1;
    c->name = name;
    c->ep.base.dev = &d->base;
    c->socket.fd = c->epoll.fd = -1;
    c->tail = &c->head;
    tcp_lock(d);
    int fd = epoll_create1(EPOLL_CLOEXEC), sys = errno;
    if (fd >= 0)
        tcp_file_add(d, &c->epoll, fd);
    tcp_unlock(d);
    if (fd < 0) {
        free(name);
        free(c);
        return err_set_errno(sys, "epoll");
    }
    *out = &c->ep.base;
    return 0;
}

void tcp_client_name(struct fabric_ep *e, const uint8_t token[TCP_TOKEN])
{
    memcpy(client(e)->name->token, token, TCP_TOKEN);
}

int tcp_client_stream(struct fabric_ep *e, int fd)
{
    struct client *c = client(e);
    struct epoll_event ev = {.events = EPOLLIN};
    tcp_settle(fd);
    tcp_lock(device(c));
    int rc = epoll_ctl(c->epoll.fd, EPOLL_CTL_ADD, fd, &ev) ? err_set_errno(errno, "epoll_ctl") : 0;
    if (!rc) {
        tcp_file_add(device(c), &c->socket, fd);
        c->events = ev.events;
    }
    tcp_unlock(device(c));
    return rc;
}

/* What has been answered ends with its answer. */
void tcp_client_abort(struct fabric_ep *e)
{
    take_rest(client(e));
    break_off(client(e), -DSM_ECANCELED);
}

void tcp_client_close(struct fabric_ep *e)
{
    struct client *c = client(e);
    break_off(c, -DSM_ECANCELED);
    tcp_lock(device(c));
    tcp_file_close(device(c), &c->socket);
    tcp_file_close(device(c), &c->epoll);
    tcp_unlock(device(c));
    drop_name(c->name);
    free(c);
}
