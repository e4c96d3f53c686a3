/*
 * The engine: one thread of each process that has opened a device, the network between them, and events.
 *
 * It looks at what has arrived, lets each queue pair do a small step as requester and as responder, and sends. The
 * steps are small, so what different queue pairs do to one piece of memory mixes. nic.lock protects everything.
 *
 * An engine is bound to the datagram socket DIR/e<id>; the queue pair numbers of a process hold its id. What is sent to
 * one engine in one round travels in one datagram. A datagram to an engine that has ended is lost like any packet.
 */
#include "model.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

struct nic nic = {.lock = PTHREAD_MUTEX_INITIALIZER, .acked = PTHREAD_COND_INITIALIZER, .sock = -1, .wake = -1};

enum { MAGIC = 0x4d4f444c, DATAGRAM = 60 * 1024, AT_ONCE = 16, ID_MASK = (1 << (24 - QP_BITS)) - 1 };

/* ---- addresses ---- */

struct device *device_of(const struct qp *q) { return q->ctx->dev; }

uint16_t port_lid(int64_t host, int device, int port) { return (uint16_t)(host * 32 + device * 8 + port); }

int port_gid(int64_t host, int device, int port, int index, union ibv_gid *out)
{
    bool roce = nic.plan.link == LINK_ROCE, v4 = roce && index / 2 % 2;
    *out = (union ibv_gid){.raw = {0}};
    if (v4)
        out->raw[10] = out->raw[11] = 0xff;
    else
        out->raw[0] = 0xfe, out->raw[1] = 0x80;
    out->raw[12] = v4 ? 127 : 2; /* an address on which a process of this host may listen */
    out->raw[13] = (uint8_t)host;
    out->raw[14] = (uint8_t)(device * 8 + port);
    out->raw[15] = (uint8_t)(index / 4 * 4 + 1);
    return roce ? 1 + index % 2 : 0;
}

static int link_of(const struct qp *q)
{
    union ibv_gid gid;
    return port_gid(nic.plan.host, device_of(q)->index, q->port, q->gid_index, &gid);
}

static bool is_for(const struct qp *q, const struct packet *p)
{
    union ibv_gid gid;
    int device = device_of(q)->index;
    bool found = !(p->flags & F_GLOBAL);
    if (q->dest != p->source || p->link != link_of(q) || ((p->pkey ^ q->pkey) & 0x7fff))
        return false;
    for (int i = 0; i < nic.plan.gids && !found; i++) {
        port_gid(nic.plan.host, device, q->port, i, &gid);
        found = !memcmp(gid.raw, p->dgid, 16);
    }
    return found && (p->link || p->dlid == port_lid(nic.plan.host, device, q->port));
}

/* ---- sending ---- */

static struct route *route_to(uint32_t id)
{
    struct route *r = nic.routes;
    while (r && r->id != id)
        r = r->next;
    if (!r && (r = calloc(1, sizeof *r))) {
        r->id = id;
        r->next = nic.routes;
        nic.routes = r;
    }
    if (!r)
        MODEL_FAIL("no memory");
    return r;
}

static void *grow(struct route *r, uint32_t size)
{
    if (r->n + size > r->room) {
        r->room = (r->n + size) * 2;
        r->bytes = realloc(r->bytes, r->room);
        if (!r->bytes)
            MODEL_FAIL("no memory");
    }
    r->n += size;
    return r->bytes + r->n - size;
}

struct packet *engine_packet(struct qp *q, uint32_t op, uint32_t psn, uint32_t payload)
{
    static _Alignas(8) uint8_t lost[sizeof(struct packet) + MTU_MAX];
    uint32_t size = ((uint32_t)sizeof(struct packet) + payload + 7) & ~7u;
    bool loses = nic.plan.cut || (device_of(q)->index >= 0 && nic.plan.down >> device_of(q)->index & 1) ||
                 (nic.plan.lose && !random_below((uint64_t)nic.plan.lose));
    struct packet *p = loses ? (void *)lost : grow(route_to(q->dest >> QP_BITS & ID_MASK), size);
    *p = (struct packet){.magic = MAGIC,
                         .bytes = size,
                         .op = (uint8_t)op,
                         .flags = q->ah.is_global ? F_GLOBAL : 0,
                         .link = (uint8_t)link_of(q),
                         .dlid = q->ah.dlid,
                         .pkey = q->pkey,
                         .dest = q->dest,
                         .source = q->v.qp_num,
                         .psn = psn};
    memcpy(p->dgid, q->ah.grh.dgid.raw, 16);
    return p;
}

static void address_of(uint32_t id, struct sockaddr_un *out)
{
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(out->sun_path, sizeof out->sun_path, "%s/e%u", nic.plan.dir, id);
}

/* Sends whole packets, as many as a datagram holds. Returns false if the receiver's queue is full. */
static bool flush_route(struct route *r)
{
    struct sockaddr_un to;
    address_of(r->id, &to);
    for (size_t at = 0, n; at < r->n; at += n) {
        for (n = 0; at + n < r->n;) {
            uint32_t bytes = ((struct packet *)(void *)(r->bytes + at + n))->bytes;
            if (n && n + bytes > DATAGRAM)
                break;
            n += bytes;
        }
        if (sendto(nic.sock, r->bytes + at, n, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof to) < 0 &&
            (errno == EAGAIN || errno == ENOBUFS)) {
            memmove(r->bytes, r->bytes + at, r->n - at);
            r->n -= at;
            return false;
        }
    }
    r->n = 0;
    return true;
}

/* ---- receiving ---- */

static void take(const struct packet *p)
{
    struct qp *q = nic.table[p->dest & ((1 << QP_BITS) - 1)];
    bool request = p->op <= P_ATOMIC_SWAP;
    bool ready = q && q->v.qp_num == p->dest && !device_of(q)->dead &&
                 (q->state == IBV_QPS_RTS || (request && q->state == IBV_QPS_RTR));
    const uint8_t *payload = (const uint8_t *)(p + 1);
    if (!ready || !is_for(q, p))
        nic.dropped++;
    else if (request)
        responder_request(q, p, payload);
    else
        requester_answer(q, p, payload);
}

static bool receive(void)
{
    static _Alignas(8) uint8_t bytes[DATAGRAM + sizeof(struct packet) + MTU_MAX];
    bool some = false;
    for (int i = 0; i < AT_ONCE; i++) {
        ssize_t n = recv(nic.sock, bytes, sizeof bytes, MSG_DONTWAIT);
        if (n <= 0)
            break;
        some = true;
        for (size_t at = 0; at < (size_t)n;) {
            const struct packet *p = (const void *)(bytes + at);
            if (p->magic != MAGIC)
                MODEL_FAIL("not a packet");
            take(p);
            at += p->bytes;
        }
    }
    return some;
}

/* ---- the loop ---- */

static int64_t earlier(int64_t a, int64_t b) { return !b || (a && a < b) ? a : b; }

/* One round. Returns when the next is due: 0 at once, otherwise a time. */
static int64_t round_of_all(void)
{
    int64_t now = now_ns(), due = now + INT64_C(1000000000);
    bool busy = receive();
    for (struct qp *q = nic.qps; q; q = q->next) {
        bool flushes = q->state == IBV_QPS_ERR && !nic.plan.hang;
        if (device_of(q)->dead || (nic.plan.stall && !flushes))
            continue;
        busy |= requester_step(q, now);
        busy |= responder_step(q, now);
        due = earlier(due, q->timer);
        due = earlier(due, responder_due(q));
    }
    for (struct route *r = nic.routes; r; r = r->next)
        if (r->n && !flush_route(r))
            due = earlier(due, now + 50000);
    return busy ? 0 : due;
}

static void sleep_until(int64_t due)
{
    struct pollfd fds[] = {{.fd = nic.sock, .events = POLLIN}, {.fd = nic.wake, .events = POLLIN}};
    int64_t left = due - now_ns();
    struct timespec t = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
    uint64_t n;
    if (left > 0 && ppoll(fds, 2, &t, NULL) > 0 && fds[1].revents && read(nic.wake, &n, sizeof n) < 0)
        MODEL_FAIL("eventfd");
}

static void *run(void *arg)
{
    (void)arg;
    prctl(PR_SET_NAME, "modeldev");
    prctl(PR_SET_TIMERSLACK, 1000ul);
    pthread_mutex_lock(&nic.lock);
    while (!nic.stop) {
        int64_t due = round_of_all();
        nic.sleeping = due;
        pthread_mutex_unlock(&nic.lock);
        sleep_until(due);
        pthread_mutex_lock(&nic.lock);
        nic.sleeping = false;
    }
    pthread_mutex_unlock(&nic.lock);
    return NULL;
}

void engine_wake(void)
{
    uint64_t one = 1;
    if (nic.sleeping && write(nic.wake, &one, sizeof one) != sizeof one)
        MODEL_FAIL("eventfd");
    nic.sleeping = false;
}

/* Each byte of the file "next" was written by one engine, whose id is the place behind its own. */
static uint32_t new_id(void)
{
    char path[120];
    snprintf(path, sizeof path, "%s/next", nic.plan.dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    bool good = fd >= 0 && write(fd, "", 1) == 1;
    off_t end = good ? lseek(fd, 0, SEEK_CUR) : 0;
    if (fd >= 0)
        close(fd);
    return (uint32_t)end;
}

int engine_start(void)
{
    struct sockaddr_un me;
    sigset_t all, before;
    int size = 1 << 20;
    if (nic.running)
        return 0;
    nic.id = new_id() & ID_MASK;
    nic.sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    nic.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    address_of(nic.id, &me);
    unlink(me.sun_path);
    if (!nic.id || nic.sock < 0 || nic.wake < 0 || bind(nic.sock, (struct sockaddr *)&me, sizeof me))
        return errno;
    setsockopt(nic.sock, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    nic.stop = false;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int rc = pthread_create(&nic.thread, NULL, run, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    nic.running = !rc;
    return rc;
}

void engine_stop(void)
{
    struct sockaddr_un me;
    pthread_mutex_lock(&nic.lock);
    bool last = nic.running && !nic.contexts;
    nic.stop = last;
    engine_wake();
    pthread_mutex_unlock(&nic.lock);
    if (!last)
        return;
    pthread_join(nic.thread, NULL);
    int sock = nic.sock, wake = nic.wake;
    nic.sock = nic.wake = -1; /* first: a child closes what stands there */
    close(sock);
    close(wake);
    address_of(nic.id, &me);
    unlink(me.sun_path);
    for (struct route *r; (r = nic.routes);) {
        nic.routes = r->next;
        free(r->bytes);
        free(r);
    }
    free(nic.mrs);
    nic.mrs = NULL;
    nic.mrs_room = nic.next_mr = 0;
    nic.running = false;
}

/* ---- events and deaths ---- */

void post_event(struct context *c, enum ibv_event_type type, void *element)
{
    struct event *e = calloc(1, sizeof *e), **at = &c->events;
    uint64_t one = 1;
    if (!e)
        MODEL_FAIL("no memory");
    e->v.event_type = type;
    if (type == IBV_EVENT_CQ_ERR)
        e->v.element.cq = element;
    else if (type != IBV_EVENT_DEVICE_FATAL)
        e->v.element.qp = element;
    while (*at)
        at = &(*at)->next;
    *at = e;
    if (write(c->v.context.async_fd, &one, sizeof one) != sizeof one)
        MODEL_FAIL("eventfd");
}

/* From now on it executes nothing and says nothing; if it was pulled out, its verbs fail, too. */
void device_dies(struct device *d, bool gone)
{
    d->dead = true;
    d->gone = gone;
    for (struct context *c = nic.contexts; c; c = c->next)
        if (c->dev == d)
            post_event(c, IBV_EVENT_DEVICE_FATAL, NULL);
}
