/*
 * The owner's side: one thread of the device executes the requests of all peers.
 *
 * It sleeps in epoll_wait(), and for spin_ns after its last work it polls: by epoll_wait(), and where one connection
 * alone has had work for a while, by reading from it, which leaves one recv() and one send() to an op; epoll is asked
 * whether others have work after each long turn, and after some short ones. Each turn serves
 * one connection, with dev->lock held, until it has no request or no room for a reply, or TURN bytes have been moved.
 * Every call on a socket returns at once. So unreg and close wait for one turn at most, and no peer can keep others
 * waiting: one that does not read its replies is not read from, either.
 */
#include "../../base/deadline.h"
#include "../../base/mapped_ops.h"
#include "../../base/thread.h"
#include "../../base/wire.h"
#include "tcp.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    IN = 16384, /* holds the longest head, with TCP_PIECES offsets, and a short piece */
    OUT = 16384,
    TURN = 1 << 18, /* bytes */
    EVENTS = 64,
    STREAK = 8, /* so often a connection is the only one that has work, before it is polled by itself */
};
_Static_assert(IN >= TCP_REQUEST + 8 * TCP_PIECES + TCP_SHORT, "a request fits");

/* A passive endpoint. The state of its request in progress is in 'q' and the fields behind it. */
struct tcp_server {
    struct tcp_ep ep;
    struct tcp_file file;
    struct tcp_record *record; /* NULL once it is closed */
    uint32_t events;           /* that epoll waits for */
    bool drained;              /* in this turn: the last call has received all that was there */
    bool ready;                /* on dev->ready */
    bool closed;               /* on dev->closed: the thread frees it */
    struct tcp_server *next;   /* on either list */

    struct tcp_request q;
    bool busy;       /* q is in progress */
    bool headed;     /* a reply that promises its payload has been put into 'out' */
    uint16_t status; /* 0 or DSM_E…, of q */
    uint32_t piece;  /* the first that is not complete */
    uint32_t stored; /* of a WRITE whose memory was closed meanwhile: pieces that were stored before */
    uint64_t moved;  /* bytes of it that are */
    bool dirty;      /* of a long WRITE: a part of its bytes is in the region */
    uint64_t number; /* of the first op that has not ended */
    uint64_t acks;   /* completed WRITEs that have no reply yet, the last of which is number-1 */
    uint64_t offsets[TCP_PIECES];

    size_t in_at, in_end, out_at, out_end;
    uint8_t in[IN], out[OUT];
};

static struct tcp_server *server(struct fabric_ep *e) { return (struct tcp_server *)e; }
static struct tcp_dev *device(const struct tcp_server *s) { return (struct tcp_dev *)s->ep.base.dev; }

/* What a step of the work has come to. */
enum step { DONE, NO_INPUT, NO_ROOM, ENDED, LOST };

static void spend(size_t *budget, uint64_t n) { *budget -= n < *budget ? (size_t)n : *budget; }

/* ---- replies ---- */

/* Sends what is in 'out', and behind it n pieces, which iov has from iov[1] on. *sent: how many bytes of these. */
static enum step send_with(struct tcp_server *s, struct iovec *iov, size_t n, size_t *sent)
{
    iov[0] = (struct iovec){s->out + s->out_at, s->out_end - s->out_at};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = n + 1};
    *sent = 0;
    ssize_t got = n ? sendmsg(s->file.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT)
                    : send(s->file.fd, iov[0].iov_base, iov[0].iov_len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? NO_ROOM : LOST;
    size_t mine = (size_t)got < iov[0].iov_len ? (size_t)got : iov[0].iov_len;
    s->out_at += mine;
    *sent = (size_t)got - mine;
    if (s->out_at < s->out_end)
        return NO_ROOM;
    s->out_at = s->out_end = 0;
    return DONE;
}

static enum step flush(struct tcp_server *s)
{
    struct iovec iov[1];
    size_t none;
    while (s->out_at < s->out_end) {
        enum step got = send_with(s, iov, 0, &none);
        if (got != DONE)
            return got;
    }
    return DONE;
}

/* Makes room for n bytes in 'out'. */
static enum step room(struct tcp_server *s, size_t n) { return OUT - s->out_end >= n ? DONE : flush(s); }

static void put_reply(struct tcp_server *s, struct tcp_reply r)
{
    assert(OUT - s->out_end >= TCP_REPLY);
    tcp_put_reply(s->out + s->out_end, &r);
    s->out_end += TCP_REPLY;
}

/* Completed WRITEs in a row have one reply. There is always room for it: all that is added to 'out' leaves it. */
static void put_acks(struct tcp_server *s)
{
    if (s->acks)
        put_reply(s, (struct tcp_reply){.number = s->number - s->acks, .ops = (uint32_t)s->acks});
    s->acks = 0;
}

static bool is_atomic(const struct tcp_request *q) { return q->code >= DSM_OP_FETCH_ADD; }

/* Ends the request in progress with a reply, which 'room' has been made for. result: of an atomic. */
static void finish(struct tcp_server *s, uint16_t status, uint64_t nbytes, uint64_t result)
{
    if (s->q.code != DSM_OP_READ && (status || is_atomic(&s->q)))
        tcp_remember(s->record, &(struct fabric_outcome){s->q.number, result, s->q.pieces, status});
    put_acks(s);
    put_reply(s, (struct tcp_reply){
                     .number = s->q.number, .ops = s->q.pieces, .status = status, .nbytes = status ? 0 : nbytes});
    s->number += s->q.pieces;
    s->busy = false;
}

/* ---- requests ---- */

static uint64_t offset_of(const struct tcp_server *s, uint32_t piece)
{
    return s->q.pieces > 1 ? s->offsets[piece] : s->q.offset;
}

static const uint32_t right_of[] = {
    [DSM_OP_READ] = DSM_READ,
    [DSM_OP_WRITE] = DSM_WRITE,
    [DSM_OP_FETCH_ADD] = DSM_ATOMIC,
    [DSM_OP_COMPARE_SWAP] = DSM_ATOMIC,
};

/* Whether the peer's core would have refused to post it. */
static uint16_t check(const struct tcp_server *s, const struct tcp_mem *m)
{
    const struct tcp_request *q = &s->q;
    uint64_t room = m->base.memory->nbytes;
    if (!(m->base.access & right_of[q->code]) || q->nbytes > room)
        return DSM_EACCESS;
    for (uint32_t i = 0; i < q->pieces; i++)
        if (offset_of(s, i) > room - q->nbytes || (is_atomic(q) && offset_of(s, i) & 7))
            return DSM_EACCESS;
    return 0;
}

/* The memory of the request in progress; NULL: it is closed, and so it was since the last piece. */
static uint8_t *memory_of(struct tcp_server *s)
{
    const struct tcp_mem *m = s->status ? NULL : tcp_find(device(s), s->q.slot, s->q.key);
    if (!m && !s->status) {
        s->status = DSM_ESTALE;
        s->stored = s->piece;
    }
    return m ? m->base.memory->data : NULL;
}

static bool is_sound(const struct tcp_server *s, const struct tcp_request *q)
{
    if (q->code < DSM_OP_READ || q->code > DSM_OP_COMPARE_SWAP || !q->pieces || q->pieces > TCP_PIECES || !q->nbytes)
        return false;
    if (is_atomic(q) && (q->pieces > 1 || q->nbytes != 8))
        return false;
    return (q->pieces == 1 || q->nbytes <= tcp_piece_most(q->code)) && q->nbytes <= INT64_MAX && q->number == s->number;
}

/* Takes the next request from 'in'. */
static enum step begin(struct tcp_server *s)
{
    size_t have = s->in_end - s->in_at, head = TCP_REQUEST;
    if (have < head)
        return NO_INPUT;
    tcp_get_request(s->in + s->in_at, &s->q);
    if (!is_sound(s, &s->q)) {
        fetch_add_u64(&s->ep.base.dev->stats->rejected, 1);
        return LOST;
    }
    if (s->q.pieces > 1)
        head += 8u * s->q.pieces;
    if (have < head + (is_atomic(&s->q) ? TCP_OPERANDS : 0))
        return NO_INPUT;
    for (uint32_t i = 0; s->q.pieces > 1 && i < s->q.pieces; i++)
        s->offsets[i] = get_u64(s->in + s->in_at + TCP_REQUEST + 8 * i);
    s->in_at += head;
    s->busy = true;
    s->headed = false;
    s->stored = 0;
    s->piece = 0;
    s->moved = 0;
    s->dirty = false;
    s->status = 0;
    const struct tcp_mem *m = tcp_find(device(s), s->q.slot, s->q.key);
    s->status = m ? check(s, m) : DSM_ESTALE;
    return DONE;
}

/* ---- the ops ---- */

static enum step atomic(struct tcp_server *s)
{
    enum step got = room(s, 2 * TCP_REPLY + 8);
    if (got != DONE)
        return got;
    uint8_t *base = memory_of(s), *in = s->in + s->in_at;
    dsm_op op = {
        .code = s->q.code, .offset = s->q.offset, .nbytes = 8, .operand = get_u64(in), .desired = get_u64(in + 8)};
    s->in_at += TCP_OPERANDS;
    if (base)
        mapped_execute(base, &op);
    finish(s, s->status, 8, base ? op.result : 0);
    if (base) {
        put_u64(s->out + s->out_end, op.result);
        s->out_end += 8;
    }
    return DONE;
}

/* Into the reply. Pieces of at most TCP_WHOLE bytes have whole words (fabric.h). */
static void read_piece(struct tcp_server *s, const uint8_t *from, size_t n)
{
    if (n <= TCP_WHOLE)
        mapped_read_words(from, s->out + s->out_end, n);
    else
        mapped_read(from, s->out + s->out_end, n);
}

/* Reads of a few bytes: the reply has the status before the payload. */
static void read_at_once(struct tcp_server *s, uint64_t total, size_t *budget)
{
    spend(budget, total);
    const uint8_t *base = memory_of(s);
    finish(s, s->status, total, 0);
    for (uint32_t i = 0; base && i < s->q.pieces; i++) {
        read_piece(s, base + offset_of(s, i), s->q.nbytes);
        s->out_end += s->q.nbytes;
    }
}

/* Sends what is left of pieces from their memory, as many as go into one call. */
static enum step send_pieces(struct tcp_server *s, const uint8_t *base, size_t *sent)
{
    enum { MOST = 64 };
    struct iovec iov[1 + MOST];
    size_t n = 0, total = 0;
    for (uint32_t i = s->piece; i < s->q.pieces && n < MOST && total < TURN; i++) {
        uint64_t from = i == s->piece ? s->moved : 0, left = s->q.nbytes - from;
        size_t part = left < TURN - total ? (size_t)left : TURN - total;
        iov[++n] = (struct iovec){(void *)(uintptr_t)(base + offset_of(s, i) + from), part};
        total += part;
    }
    enum step got = send_with(s, iov, n, sent);
    fence_acquire();
    return got;
}

/* Appends a part of the current piece to 'out', or zeros if its memory is closed. A piece of at most TCP_WHOLE bytes is
 * copied as a whole: the kernel may copy a word in two parts. */
static enum step copy_piece(struct tcp_server *s, const uint8_t *base, size_t *copied)
{
    uint64_t left = s->q.nbytes - s->moved;
    size_t n = left < TCP_SHORT ? (size_t)left : TCP_SHORT;
    enum step got = room(s, n);
    if (got != DONE)
        return got;
    if (base)
        read_piece(s, base + offset_of(s, s->piece) + s->moved, n);
    else
        memset(s->out + s->out_end, 0, n);
    s->out_end += n;
    *copied = n;
    return DONE;
}

/* Sends a part of the pieces. Once the memory is closed, zeros go in place of the rest, and the status that follows
 * says so. */
static enum step read_some(struct tcp_server *s, size_t *budget)
{
    const uint8_t *base = memory_of(s);
    size_t sent = 0;
    enum step got = base && s->q.nbytes > TCP_WHOLE ? send_pieces(s, base, &sent) : copy_piece(s, base, &sent);
    spend(budget, sent);
    for (s->moved += sent; s->piece < s->q.pieces && s->moved >= s->q.nbytes; s->piece++)
        s->moved -= s->q.nbytes;
    return got;
}

static enum step read_long(struct tcp_server *s, uint64_t total, size_t *budget)
{
    enum step got;
    if (!s->headed) {
        if ((got = room(s, 2 * TCP_REPLY)) != DONE)
            return got;
        s->headed = true;
        put_acks(s);
        put_reply(s, (struct tcp_reply){.number = s->q.number, .ops = s->q.pieces, .flags = TCP_MORE, .nbytes = total});
    }
    while (s->piece < s->q.pieces && *budget)
        if ((got = read_some(s, budget)) != DONE)
            return got;
    if (s->piece < s->q.pieces)
        return DONE; /* the turn is over */
    if ((got = room(s, 2 * TCP_REPLY)) != DONE)
        return got;
    finish(s, s->status, 0, 0);
    return DONE;
}

static enum step read_op(struct tcp_server *s, size_t *budget)
{
    uint64_t total = s->q.pieces * s->q.nbytes;
    enum { AT_ONCE = OUT - 2 * TCP_REPLY };
    if (!s->headed && (s->status || total <= AT_ONCE)) {
        size_t need = 2 * TCP_REPLY + (s->status ? 0 : (size_t)total);
        enum step got = room(s, need);
        if (got == DONE)
            read_at_once(s, total, budget);
        return got;
    }
    return read_long(s, total, budget);
}

static enum step end_write(struct tcp_server *s)
{
    enum { MOST = 1 << 20 };
    if (s->status || s->acks > MOST) {
        enum step got = room(s, 3 * TCP_REPLY);
        if (got != DONE)
            return got;
        put_acks(s);
    }
    uint32_t good = s->status ? s->stored : s->q.pieces;
    s->acks += good;
    s->number += good;
    s->q.number += good;
    s->q.pieces -= (uint16_t)good;
    s->busy = false;
    if (s->q.pieces)
        finish(s, s->status, 0, 0);
    return DONE;
}

/* Receives the rest of a long piece straight into its memory, and what follows it into 'in', which is empty. */
static enum step receive_into(struct tcp_server *s, uint8_t *to, uint64_t left, size_t *got)
{
    struct iovec iov[2] = {{to, left < TURN ? (size_t)left : TURN}, {s->in, IN}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = left <= TURN ? 2 : 1};
    s->in_at = s->in_end = 0;
    ssize_t n = recvmsg(s->file.fd, &m, MSG_DONTWAIT);
    s->drained = n < 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return NO_INPUT;
    if (n <= 0)
        return n ? LOST : ENDED;
    *got = (size_t)n < iov[0].iov_len ? (size_t)n : iov[0].iov_len;
    s->in_end = (size_t)n - *got;
    s->drained = m.msg_iovlen == 2 && s->in_end < IN;
    return DONE;
}

/* Moves a part of the current piece to its memory. What belongs to a refused request is dropped. */
static enum step write_some(struct tcp_server *s, size_t *budget)
{
    uint8_t *base = memory_of(s), *to = base ? base + offset_of(s, s->piece) + s->moved : NULL;
    uint64_t left = s->q.nbytes - s->moved;
    size_t have = s->in_end - s->in_at, n = have < left ? have : (size_t)left;
    if (s->q.nbytes <= TCP_SHORT && n < s->q.nbytes)
        return NO_INPUT;
    if (n) {
        if (to)
            mapped_write(to, s->in + s->in_at, n);
        s->in_at += n;
    } else if (to) {
        fence_release();
        enum step got = receive_into(s, to, left, &n);
        if (got != DONE)
            return got;
    } else {
        return NO_INPUT;
    }
    spend(budget, n);
    s->dirty = s->dirty || to;
    if ((s->moved += n) == s->q.nbytes) {
        s->moved = 0;
        s->piece++;
    }
    return DONE;
}

static enum step write_op(struct tcp_server *s, size_t *budget)
{
    while (s->piece < s->q.pieces && *budget) {
        enum step got = write_some(s, budget);
        if (got != DONE)
            return got;
    }
    return s->piece < s->q.pieces ? DONE : end_write(s);
}

/* ---- turns ---- */

static enum step receive(struct tcp_server *s)
{
    memmove(s->in, s->in + s->in_at, s->in_end - s->in_at);
    s->in_end -= s->in_at;
    s->in_at = 0;
    ssize_t n = recv(s->file.fd, s->in + s->in_end, IN - s->in_end, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return NO_INPUT;
    if (n <= 0)
        return n ? LOST : ENDED;
    s->in_end += (size_t)n;
    s->drained = s->in_end < IN;
    return DONE;
}

static enum step execute(struct tcp_server *s, size_t *budget)
{
    enum { PER_PIECE = 32 }; /* bytes that could be copied in the time that a piece takes */
    if (!s->busy) {
        enum step got = begin(s);
        if (got != DONE)
            return got;
        spend(budget, TCP_REQUEST + (uint64_t)PER_PIECE * s->q.pieces);
    }
    switch (s->q.code) {
    case DSM_OP_READ:
        return read_op(s, budget);
    case DSM_OP_WRITE:
        return write_op(s, budget);
    default:
        return atomic(s);
    }
}

/* What the socket is to be watched for after a turn that ended so. */
static void watch(struct tcp_server *s, enum step end)
{
    struct epoll_event ev = {.events = end == LOST ? 0 : end == NO_ROOM ? EPOLLOUT : EPOLLIN, .data.ptr = s};
    if (ev.events == s->events)
        return;
    epoll_ctl(device(s)->epoll.fd, end == LOST ? EPOLL_CTL_DEL : EPOLL_CTL_MOD, s->file.fd, &ev);
    s->events = ev.events;
    if (end == LOST)
        shutdown(s->file.fd, SHUT_RDWR);
}

/* Replies leave when there are no more requests, in as few calls as possible. Returns DONE if there is more to do. */
static enum step serve(struct tcp_server *s, bool *worked)
{
    size_t budget = TURN;
    enum step got = flush(s);
    s->drained = false;
    while (got == DONE && budget) {
        size_t before = budget;
        got = execute(s, &budget);
        if (got == NO_INPUT && !s->drained) /* what comes later is reported by epoll */
            got = receive(s);
        *worked = *worked || got == DONE || budget < before; /* a part of a long piece is work, too */
    }
    if (got != NO_ROOM && got != LOST) { /* after the peer's end, too: it may still hear what was executed */
        enum step sent = room(s, TCP_REPLY);
        if (sent == DONE) {
            put_acks(s);
            sent = flush(s);
        }
        got = sent != DONE ? sent : got == ENDED ? LOST : got;
    }
    watch(s, got);
    if (budget < TURN - TURN / 8)
        device(s)->unasked = STREAK; /* others have their turn first, if epoll knows of any */
    return got;
}

/* Under dev->lock, as the next two. */
static void make_ready(struct tcp_dev *d, struct tcp_server *s)
{
    if (s->ready || s->closed || !s->events)
        return;
    s->ready = true;
    s->next = NULL;
    *d->ready_last = s;
    d->ready_last = &s->next;
    d->nready++;
}

static void unready(struct tcp_dev *d, struct tcp_server *s)
{
    struct tcp_server **at = &d->ready;
    if (!s->ready)
        return;
    while (*at != s)
        at = &(*at)->next;
    if (!(*at = s->next))
        d->ready_last = at;
    d->nready--;
    s->ready = false;
}

static void note_events(struct tcp_dev *d, const struct epoll_event *ev, int n)
{
    for (int i = 0; i < n; i++) {
        uint64_t wakes;
        if (ev[i].data.ptr)
            make_ready(d, ev[i].data.ptr);
        else if (read(d->wake.fd, &wakes, sizeof wakes) < 0) {
            /* EAGAIN: it has been read */
        }
    }
}

/* Which connection has work again and again, while no other has. */
static void note_last(struct tcp_dev *d)
{
    if (d->nready == 1 && d->ready == d->last) {
        d->streak += d->streak < STREAK;
    } else if (d->nready) {
        d->last = d->nready == 1 ? d->ready : NULL;
        d->streak = 0;
    }
}

/* A turn of the connection that has had all the work, without asking epoll whether it has some. Returns whether it had.
 * Epoll is asked in between, so another one ends this. */
static bool serve_last(struct tcp_dev *d)
{
    bool worked = false;
    for (int i = 0; i < STREAK && !worked; i++) {
        tcp_lock(d);
        struct tcp_server *s = d->streak == STREAK && !d->nready ? d->last : NULL;
        if (s && s->events == EPOLLIN && serve(s, &worked) == DONE)
            make_ready(d, s);
        tcp_unlock(d);
        if (!s)
            break;
    }
    return worked;
}

/* One turn of each connection that is ready. Between two turns the lock is free for others. Returns whether anything
 * was done. */
static bool serve_all(struct tcp_dev *d, const struct epoll_event *ev, int n)
{
    bool worked = false;
    tcp_lock(d);
    note_events(d, ev, n);
    note_last(d);
    for (uint32_t turns = d->nready; turns && d->ready; turns--) {
        struct tcp_server *s = d->ready;
        unready(d, s);
        if (serve(s, &worked) == DONE)
            make_ready(d, s);
        tcp_unlock(d);
        tcp_lock(d);
    }
    tcp_unlock(d);
    return worked;
}

/* Frees the endpoints that were closed before: no event that is still to be handled names them. Returns false if the
 * thread is to end. */
static bool go_on(struct tcp_dev *d, bool *ready)
{
    tcp_lock(d);
    bool yes = !d->stopping;
    *ready = d->ready;
    for (struct tcp_server *s; (s = d->closed);) {
        d->closed = s->next;
        free(s);
    }
    tcp_unlock(d);
    return yes;
}

static void *run(void *arg)
{
    struct tcp_dev *d = arg;
    struct epoll_event ev[EVENTS];
    int64_t until = 0;
    for (bool ready; go_on(d, &ready);) {
        bool spins = clock_ns() < until, worked;
        if (spins && !ready && d->unasked < STREAK && serve_last(d)) {
            d->unasked++;
            worked = true;
        } else {
            d->unasked = 0;
            int n = epoll_wait(d->epoll.fd, ev, EVENTS, ready || spins ? 0 : -1);
            if (n < 0 && errno != EINTR)
                break;
            worked = serve_all(d, ev, n < 0 ? 0 : n);
        }
        if (worked)
            until = clock_ns() + d->spin_ns;
        else if (spins)
            sched_yield(); /* what it waits for may be to come from a process that waits for this processor */
    }
    return NULL;
}

/* ---- the thread ---- */

static int start_thread(struct tcp_dev *d)
{
    int sys = thread_start(&d->thread, run, d);
    return sys ? err_set_errno(sys, "the thread that serves tcp") : 0;
}

/* Under dev->lock. */
static int open_files(struct tcp_dev *d)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC), wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll < 0 || wake < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, wake, &ev)) {
        int rc = err_set_errno(errno, "epoll");
        if (epoll >= 0)
            close(epoll);
        if (wake >= 0)
            close(wake);
        return rc;
    }
    tcp_file_add(d, &d->epoll, epoll);
    tcp_file_add(d, &d->wake, wake);
    return 0;
}

/* Under dev->lock. */
static void wake(struct tcp_dev *d)
{
    uint64_t one = 1;
    if (write(d->wake.fd, &one, sizeof one) < 0) {
        /* EAGAIN: the counter is full, so the thread wakes anyway */
    }
}

int tcp_thread_start(struct tcp_dev *d)
{
    tcp_lock(d);
    int rc = d->epoll.fd < 0 ? open_files(d) : 0;
    if (!rc && !d->started)
        rc = start_thread(d);
    d->started = !rc;
    tcp_unlock(d);
    return rc;
}

void tcp_thread_stop(struct tcp_dev *d)
{
    bool ready;
    tcp_lock(d);
    bool started = d->started;
    d->stopping = true;
    if (started)
        wake(d);
    tcp_unlock(d);
    if (started)
        pthread_join(d->thread, NULL);
    go_on(d, &ready);
    tcp_lock(d);
    tcp_file_close(d, &d->epoll);
    tcp_file_close(d, &d->wake);
    tcp_unlock(d);
}

/* ---- endpoints ---- */

int tcp_server_open(struct tcp_dev *d, struct fabric_ep **out)
{
    int rc = tcp_thread_start(d);
    struct tcp_server *s = rc ? NULL : calloc(1, sizeof *s);
    if (!s)
        return rc ? rc : err_set(DSM_ENOMEM, 0, "tcp endpoint");
    s->ep.base.dev = &d->base;
    s->file.fd = -1;
    tcp_lock(d);
    s->record = tcp_record_new(d, s);
    tcp_unlock(d);
    if (!s->record) {
        free(s);
        return err_set(DSM_ENOMEM, 0, "tcp endpoint");
    }
    *out = &s->ep.base;
    return 0;
}

int tcp_server_address(struct fabric_ep *e, uint8_t address[FABRIC_ADDRESS_MAX])
{
    memcpy(address, server(e)->record->token, TCP_TOKEN);
    return TCP_TOKEN;
}

int tcp_server_stream(struct fabric_ep *e, int fd)
{
    struct tcp_server *s = server(e);
    struct tcp_dev *d = device(s);
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = s};
    tcp_settle(fd);
    tcp_lock(d);
    bool used = s->file.fd >= 0 || !s->record;
    int rc = used ? err_set(DSM_EPEER, 0, "the endpoint has had its connection") : 0;
    if (!rc && epoll_ctl(d->epoll.fd, EPOLL_CTL_ADD, fd, &ev))
        rc = err_set_errno(errno, "epoll_ctl");
    if (!rc) {
        tcp_file_add(d, &s->file, fd);
        s->events = EPOLLIN;
    }
    tcp_unlock(d);
    return rc;
}

/* Number of the first op that was not executed. A WRITE of which a part is in the region is in doubt. */
static uint64_t count_executed(struct tcp_server *s)
{
    if (!s->busy || s->q.code != DSM_OP_WRITE)
        return s->number;
    uint64_t n = s->number + (s->status ? s->stored : s->piece);
    if (n > s->number || s->q.nbytes <= TCP_SHORT || !s->dirty)
        return n;
    tcp_remember(s->record, &(struct fabric_outcome){.number = n, .ops = 1, .status = DSM_EUNKNOWN});
    return n + 1;
}

/* Since the lock is held, no request of the connection is being executed, and none will be. A child that was forked
 * just now may still have the socket, so it is not enough for epoll that it is closed here. */
static void end(struct tcp_server *s)
{
    struct tcp_dev *d = device(s);
    if (s->record && s->file.fd >= 0)
        tcp_record_end(d, s->record, count_executed(s));
    else if (s->record)
        tcp_record_drop(d, s->record);
    s->record = NULL;
    if (d->last == s)
        d->last = NULL;
    if (s->file.fd >= 0) {
        unready(d, s);
        epoll_ctl(d->epoll.fd, EPOLL_CTL_DEL, s->file.fd, NULL);
        shutdown(s->file.fd, SHUT_RDWR);
        tcp_file_close(d, &s->file);
        s->events = 0;
    }
    s->ep.base.broken = true;
}

void tcp_server_abort(struct fabric_ep *e)
{
    struct tcp_dev *d = device(server(e));
    tcp_lock(d);
    end(server(e));
    tcp_unlock(d);
}

/* The thread may hold an event that names the endpoint, so the thread frees it. */
void tcp_server_close(struct fabric_ep *e)
{
    struct tcp_server *s = server(e);
    struct tcp_dev *d = device(s);
    tcp_server_abort(e);
    tcp_lock(d);
    s->closed = true;
    s->next = d->closed;
    d->closed = s;
    wake(d);
    tcp_unlock(d);
}

/* ---- what became of ops ---- */

int tcp_outcomes(struct fabric_dev *base, const uint8_t *address, size_t len, uint64_t from,
                 struct fabric_outcomes *out)
{
    struct tcp_dev *d = (struct tcp_dev *)base;
    if (len != TCP_TOKEN)
        return err_set(DSM_EPROTO, 0, "an endpoint's address of %zu bytes", len);
    tcp_lock(d);
    struct tcp_record *r = tcp_record_find(d->live, address);
    if (r)
        end(r->server);
    if ((r = tcp_record_find(d->past, address)))
        tcp_record_say(r, from, out);
    tcp_unlock(d);
    return r ? 0 : err_set(DSM_ESTALE, 0, "the endpoint is not remembered");
}
