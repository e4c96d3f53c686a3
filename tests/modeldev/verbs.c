/* Devices, memory and completion queues, as libibverbs has them. A call that hardware would refuse, and whose refusal
 * no caller looks at, ends the process. */
#include "verbs.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER; /* no engine starts while another one stops */

/* ---- a process that forks: the child has no engine, and nothing of what its parent has opened ---- */

/* Fork waits for no lock of the device, as with libibverbs: a thread may hold one while it waits for a lock of the
 * program that is taken for the fork. So the child finds the state of any moment, and keeps the plan alone. */
static void in_child(void)
{
    struct plan plan = nic.plan;
    uint64_t random = nic.random;
    int fds[] = {nic.sock, nic.wake};
    for (int i = 0; i < 2; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    memset(&nic, 0, sizeof nic);
    nic.plan = plan;
    nic.random = random + 2 * (uint64_t)getpid();
    nic.sock = nic.wake = -1;
    pthread_mutex_init(&nic.lock, NULL);
    pthread_cond_init(&nic.acked, NULL);
    pthread_mutex_init(&opening, NULL);
    make_devices();
}

/* ---- devices ---- */

/* GID types are read from files. */
static void write_type(const struct device *d, int port, int index)
{
    char path[IBV_SYSFS_PATH_MAX + 64];
    const char *parts[] = {"", "/ports", "/N", "/gid_attrs", "/types"};
    int n = snprintf(path, sizeof path, "%s", d->v.ibdev_path);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        n += i == 2 ? snprintf(path + n, sizeof path - (size_t)n, "/%d", port)
                    : snprintf(path + n, sizeof path - (size_t)n, "%s", parts[i]);
        mkdir(path, 0700);
    }
    snprintf(path + n, sizeof path - (size_t)n, "/%d", index);
    FILE *f = fopen(path, "we");
    if (!f || fprintf(f, "%s\n", index % 2 ? "RoCE v2" : "IB/RoCE v1") < 0 || fclose(f))
        MODEL_FAIL("%s cannot be written", path);
}

void make_devices(void)
{
    char dir[sizeof nic.plan.dir];
    strcpy(dir, nic.plan.dir);
    for (int i = 0; i <= MAX_DEVICES; i++) {
        struct device *d = &nic.devices[i];
        bool iwarp = i == MAX_DEVICES;
        d->index = iwarp ? -1 : i;
        d->v.node_type = iwarp ? IBV_NODE_RNIC : IBV_NODE_CA;
        d->v.transport_type = iwarp ? IBV_TRANSPORT_IWARP : IBV_TRANSPORT_IB;
        char name[16];
        snprintf(name, sizeof name, iwarp ? "iwarp0" : "model%d", i);
        snprintf(d->v.name, sizeof d->v.name, "%s", name);
        snprintf(d->v.ibdev_path, sizeof d->v.ibdev_path, "%s/%s", dir, name);
        for (int p = 1; nic.plan.link == LINK_ROCE && i < nic.plan.devices && p <= nic.plan.ports; p++)
            for (int g = 0; g < nic.plan.gids; g++)
                write_type(d, p, g);
    }
}

static void load(void)
{
    plan_load();
    make_devices();
    pthread_atfork(NULL, NULL, in_child);
}

int ibv_fork_init(void) { return 0; }

enum ibv_fork_status ibv_is_fork_initialized(void) { return IBV_FORK_UNNEEDED; }

struct ibv_device **ibv_get_device_list(int *n)
{
    pthread_once(&once, load);
    struct ibv_device **list = calloc(MAX_DEVICES + 2, sizeof *list);
    int found = 0;
    if (list && nic.plan.iwarp)
        list[found++] = &nic.devices[MAX_DEVICES].v;
    for (int i = 0; list && i < nic.plan.devices; i++)
        if (!nic.devices[i].gone)
            list[found++] = &nic.devices[i].v;
    if (n)
        *n = found;
    return list;
}

void ibv_free_device_list(struct ibv_device **list) { free(list); }

const char *ibv_get_device_name(struct ibv_device *d) { return d->name; }

struct ibv_context *ibv_open_device(struct ibv_device *v)
{
    struct device *d = (struct device *)v;
    struct context *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->dev = d;
    c->v.sz = sizeof c->v;
    c->v.query_port = query_port;
    c->v.context.device = v;
    c->v.context.cmd_fd = -1;
    c->v.context.num_comp_vectors = 1;
    c->v.context.abi_compat = __VERBS_ABI_IS_EXTENDED;
    c->v.context.ops.poll_cq = poll_cq;
    c->v.context.ops.req_notify_cq = req_notify_cq;
    c->v.context.ops.post_send = post_send;
    c->v.context.ops.post_recv = post_recv;
    c->v.context.async_fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    pthread_mutex_lock(&opening);
    pthread_mutex_lock(&nic.lock);
    int rc = d->gone ? ENODEV : engine_start();
    if (!rc) {
        c->next = nic.contexts;
        nic.contexts = c;
    }
    pthread_mutex_unlock(&nic.lock);
    pthread_mutex_unlock(&opening);
    if (!rc)
        return &c->v.context;
    close(c->v.context.async_fd);
    free(c);
    errno = rc;
    return NULL;
}

int ibv_close_device(struct ibv_context *v)
{
    struct context *c = context_of(v), **at = &nic.contexts;
    pthread_mutex_lock(&opening);
    pthread_mutex_lock(&nic.lock);
    if (c->pds || c->cqs || c->channels)
        MODEL_FAIL("%s is closed with %d domains, %d queues and %d channels", v->device->name, c->pds, c->cqs,
                   c->channels);
    while (*at && *at != c)
        at = &(*at)->next;
    if (!*at)
        MODEL_FAIL("a device is closed that is not open");
    *at = c->next;
    for (struct event *e; (e = c->events);) {
        c->events = e->next;
        free(e);
    }
    pthread_mutex_unlock(&nic.lock);
    close(v->async_fd);
    free(c);
    engine_stop();
    pthread_mutex_unlock(&opening);
    return 0;
}

int ibv_query_device(struct ibv_context *v, struct ibv_device_attr *a)
{
    bool none = nic.plan.atomics == ATOMICS_NONE;
    *a = (struct ibv_device_attr){.max_mr_size = UINT64_MAX,
                                  .max_qp = 1 << QP_BITS,
                                  .max_qp_wr = (int)nic.plan.depth,
                                  .max_sge = (int)nic.plan.sges,
                                  .max_sge_rd = (int)nic.plan.sges,
                                  .max_cq = 1 << QP_BITS,
                                  .max_cqe = 1 << 20,
                                  .max_mr = (int)nic.plan.regs,
                                  .max_qp_rd_atom = (int)nic.plan.serves,
                                  .max_qp_init_rd_atom = (int)nic.plan.reads,
                                  .atomic_cap = none                                 ? IBV_ATOMIC_NONE
                                                : nic.plan.atomics == ATOMICS_GLOBAL ? IBV_ATOMIC_GLOB
                                                                                     : IBV_ATOMIC_HCA,
                                  .phys_port_cnt = (uint8_t)nic.plan.ports};
    strcpy(a->fw_ver, "model");
    return context_of(v)->dev->gone ? EIO : 0;
}

int query_port(struct ibv_context *v, uint8_t port, struct ibv_port_attr *a, size_t size)
{
    struct ibv_port_attr all = {.state = IBV_PORT_ACTIVE, .max_mtu = IBV_MTU_4096, .active_mtu = IBV_MTU_256};
    const struct device *d = context_of(v)->dev;
    bool roce = nic.plan.link == LINK_ROCE || d->index < 0;
    if (d->gone || !port || port > nic.plan.ports)
        return d->gone ? EIO : EINVAL;
    while (128 << all.active_mtu < nic.plan.mtu)
        all.active_mtu++;
    all.gid_tbl_len = (int)nic.plan.gids;
    all.max_msg_sz = (uint32_t)nic.plan.message;
    all.pkey_tbl_len = 1;
    all.lid = roce ? 0 : port_lid(nic.plan.host, d->index, port);
    all.link_layer = roce ? IBV_LINK_LAYER_ETHERNET : IBV_LINK_LAYER_INFINIBAND;
    all.flags = nic.plan.grh && !roce ? IBV_QPF_GRH_REQUIRED : 0;
    memcpy(a, &all, size < sizeof all ? size : sizeof all);
    return 0;
}

int ibv_query_port(struct ibv_context *v, uint8_t port, struct _compat_ibv_port_attr *a)
{
    return query_port(v, port, (struct ibv_port_attr *)(void *)a, offsetof(struct ibv_port_attr, port_cap_flags2));
}

int ibv_query_gid(struct ibv_context *v, uint8_t port, int index, union ibv_gid *out)
{
    const struct device *d = context_of(v)->dev;
    if (d->gone || index < 0 || index >= nic.plan.gids)
        return -1;
    port_gid(nic.plan.host, d->index, port, index, out);
    return 0;
}

int ibv_query_pkey(struct ibv_context *v, uint8_t port, int index, uint16_t *out)
{
    uint16_t pkey = (uint16_t)nic.plan.pkey;
    *out = (uint16_t)(pkey >> 8 | pkey << 8); /* big-endian */
    return context_of(v)->dev->gone || index || !port ? -1 : 0;
}

/* ---- asynchronous events ---- */

int ibv_get_async_event(struct ibv_context *v, struct ibv_async_event *out)
{
    struct context *c = context_of(v);
    uint64_t one;
    if (read(v->async_fd, &one, sizeof one) != sizeof one)
        return -1;
    pthread_mutex_lock(&nic.lock);
    struct event *e = c->events;
    if (e) {
        c->events = e->next;
        *out = e->v;
    }
    pthread_mutex_unlock(&nic.lock);
    free(e);
    return e ? 0 : -1;
}

void ibv_ack_async_event(struct ibv_async_event *e)
{
    pthread_mutex_lock(&nic.lock);
    if (e->event_type == IBV_EVENT_CQ_ERR)
        ((struct cq *)e->element.cq)->events--;
    else if (e->event_type != IBV_EVENT_DEVICE_FATAL)
        ((struct qp *)e->element.qp)->events--;
    pthread_cond_broadcast(&nic.acked);
    pthread_mutex_unlock(&nic.lock);
}

/* Destroying what has events waits until they are acknowledged; those that have not been read go with it. */
void forget_events(struct context *c, void *element, unsigned *events)
{
    uint64_t one;
    struct timespec until;
    for (struct event *e, **at = &c->events; (e = *at);) {
        bool mine = e->v.event_type == IBV_EVENT_CQ_ERR         ? (void *)e->v.element.cq == element
                    : e->v.event_type != IBV_EVENT_DEVICE_FATAL ? (void *)e->v.element.qp == element
                                                                : false;
        if (!mine || read(c->v.context.async_fd, &one, sizeof one) != sizeof one) {
            at = &e->next;
            continue;
        }
        *at = e->next;
        free(e);
        --*events;
    }
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 5;
    while (*events)
        if (pthread_cond_timedwait(&nic.acked, &nic.lock, &until))
            MODEL_FAIL("destroyed with %u events that are not acknowledged", *events);
}

/* ---- memory ---- */

struct ibv_pd *ibv_alloc_pd(struct ibv_context *v)
{
    struct pd *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->v.context = v;
    pthread_mutex_lock(&nic.lock);
    context_of(v)->pds++;
    pthread_mutex_unlock(&nic.lock);
    return &p->v;
}

int ibv_dealloc_pd(struct ibv_pd *v)
{
    struct pd *p = (struct pd *)v;
    pthread_mutex_lock(&nic.lock);
    if (p->users)
        MODEL_FAIL("a protection domain is destroyed with %d users", p->users);
    context_of(v->context)->pds--;
    pthread_mutex_unlock(&nic.lock);
    free(p);
    return 0;
}

/* Pages are pinned when they are registered: that fails where they are not mapped, or not with that right. */
static int pin(void *at, size_t n, int access)
{
    enum { POPULATE_READ = 22, POPULATE_WRITE = 23 }; /* MADV_…, since Linux 5.14 */
    uintptr_t start = (uintptr_t)at & ~(uintptr_t)4095, end = ((uintptr_t)at + n + 4095) & ~(uintptr_t)4095;
    int how = access & IBV_ACCESS_LOCAL_WRITE ? POPULATE_WRITE : POPULATE_READ;
    return madvise((void *)start, end - start, how) && errno != EINVAL ? errno : 0;
}

static struct ended {
    uint32_t key;
    uint64_t nbytes;
} ended[256]; /* registrations; the last ones */
static unsigned endings;

/* The key of one that had this length. 0: there is none. */
static uint32_t key_again(uint64_t nbytes)
{
    for (unsigned i = 0; nic.plan.keys && i < sizeof ended / sizeof *ended; i++)
        if (ended[i].key && ended[i].nbytes == nbytes) {
            uint32_t key = ended[i].key;
            ended[i].key = 0;
            return nic.mrs[key >> 8] ? key_again(nbytes) : key;
        }
    return 0;
}

/* Keys are not used again soon, unless that is the plan: the index moves on, and the low byte counts. */
static int enter(struct mr *m)
{
    static uint32_t count;
    if (nic.plan.full || nic.mrs_count == (uint32_t)nic.plan.regs)
        return ENOMEM;
    if (nic.mrs_count * 2 + 64 > nic.mrs_room) {
        uint32_t room = nic.mrs_room * 2 + 256;
        struct mr **more = realloc(nic.mrs, room * sizeof *more);
        if (!more)
            return ENOMEM;
        memset(more + nic.mrs_room, 0, (room - nic.mrs_room) * sizeof *more);
        nic.mrs = more;
        nic.mrs_room = room;
    }
    while (nic.mrs[nic.next_mr %= nic.mrs_room])
        nic.next_mr++;
    uint32_t again = key_again(m->v.length);
    m->v.lkey = m->v.rkey = again ? again : nic.next_mr++ << 8 | (++count & 255);
    nic.mrs[m->v.lkey >> 8] = m;
    nic.mrs_count++;
    ((struct pd *)m->v.pd)->users++;
    return 0;
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *at, size_t n, int access)
{
    return ibv_reg_mr_iova(pd, at, n, (uint64_t)(uintptr_t)at, access);
}

struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *pd, void *at, size_t n, uint64_t wire, int access)
{
    bool remote = access & (IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC);
    struct device *d = context_of(pd->context)->dev;
    struct mr *m = calloc(1, sizeof *m);
    usleep((useconds_t)nic.plan.pin * 1000);
    int rc = !m ? ENOMEM : d->gone ? EIO : remote && !(access & IBV_ACCESS_LOCAL_WRITE) ? EINVAL : pin(at, n, access);
    if (!rc) {
        m->v = (struct ibv_mr){.context = pd->context, .pd = pd, .addr = at, .length = n};
        m->access = access;
        m->wire = wire;
        m->dev = d;
        pthread_mutex_lock(&nic.lock);
        rc = enter(m);
        pthread_mutex_unlock(&nic.lock);
    }
    if (!rc)
        return &m->v;
    free(m);
    errno = rc;
    return NULL;
}

int ibv_dereg_mr(struct ibv_mr *v)
{
    struct mr *m = (struct mr *)v;
    pthread_mutex_lock(&nic.lock);
    for (struct qp *q = nic.qps; q; q = q->next)
        for (uint32_t i = q->tail; i != q->head; i++) {
            const struct wqe *w = &q->sq[i % q->cap.max_send_wr];
            for (int k = 0; k < w->w.num_sge && !(w->w.send_flags & IBV_SEND_INLINE); k++)
                nic.torn += w->sge[k].lkey == v->lkey;
        }
    responder_settle(m);
    nic.mrs[v->lkey >> 8] = NULL;
    ended[endings++ % (sizeof ended / sizeof *ended)] = (struct ended){v->lkey, v->length};
    nic.mrs_count--;
    ((struct pd *)v->pd)->users--;
    pthread_mutex_unlock(&nic.lock);
    free(m);
    return 0;
}
