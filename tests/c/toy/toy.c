/*
 * toy: a whole fabric whose target executes the ops, in one file, to see whether the interface has all that one needs.
 *
 * It is for contexts of one process. Ops go into one queue; one progress thread executes them on the memory of the
 * owner, whose Python never wakes. Users map nothing. A registration is named by a key that is looked up for each op.
 * An op that the owner refuses fails alone: the connection stays. unreg, ep_close and close wait until the thread has
 * put down what it executes.
 */
#define DSM_TEST_FABRICS FABRIC(TOY, toy_fabric, 100)
#include "base/mapped_ops.h"
#include "base/thread.h"
#include "base/wire.h"
#include "fabric/nosys.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct toy_mem {
    struct fabric_mem base;
    uint64_t key;
    struct toy_mem *next;
};

struct toy_remote {
    struct fabric_remote base;
    uint64_t key;
};

struct toy_ep {
    struct fabric_ep base;
    uint64_t id, to;  /* of the passive endpoint at the other end; 0: not connected */
    bool armed, lost; /* lost: it executes no more ops */
    int fd;
    struct fabric_op *done, **done_last; /* executed, and not told yet; status is set */
    struct toy_ep *next;
};

/* Everything here is under 'lock', which is held for moments only and never while memory is copied. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static struct toy_mem *mems;
static struct toy_ep *eps; /* open ones, of both kinds */
static struct work {
    struct fabric_op *op;
    struct toy_ep *ep;
    struct work *next;
} * queue, **queue_last = &queue, *spare;
static struct {
    struct toy_ep *ep;
    struct toy_mem *mem;
} now; /* what the thread executes */
static uint64_t next_id = 1;
static int devices;
static pthread_t thread;

/* ---- the progress thread ---- */

static void end_op(struct toy_ep *e, struct fabric_op *op, int status)
{
    uint64_t one = 1;
    op->op->status = status;
    op->next = NULL;
    *e->done_last = op;
    e->done_last = &op->next;
    if (e->armed && write(e->fd, &one, sizeof one) == sizeof one)
        e->armed = false;
}

static bool is_open(uint64_t id)
{
    struct toy_ep *e = eps;
    while (e && e->id != id)
        e = e->next;
    return e && !e->lost;
}

/* The status with which the op is refused, or 0. */
static int look_up(struct toy_ep *e, const dsm_op *op)
{
    static const uint32_t right[] = {0, DSM_READ, DSM_WRITE, DSM_ATOMIC, DSM_ATOMIC};
    const struct toy_remote *r = (const struct toy_remote *)fabric_remote_of(op);
    now.mem = mems;
    while (now.mem && now.mem->key != r->key)
        now.mem = now.mem->next;
    int rc = !is_open(e->to)                             ? -DSM_EIO
             : !now.mem                                  ? -DSM_ESTALE
             : !(now.mem->base.access & right[op->code]) ? -DSM_EACCESS
                                                         : 0;
    e->lost = e->lost || rc == -DSM_EIO;
    return rc;
}

static void *execute(void *arg)
{
    pthread_mutex_lock(&lock);
    while (devices) {
        struct work *w = queue;
        if (!w) {
            pthread_cond_wait(&changed, &lock);
            continue;
        }
        if (!(queue = w->next))
            queue_last = &queue;
        now.ep = w->ep;
        int status = w->ep->lost ? -DSM_ECANCELED : look_up(w->ep, w->op->op);
        if (!status) {
            pthread_mutex_unlock(&lock);
            mapped_execute(now.mem->base.memory->data + fabric_target_of(w->op->op)->base, w->op->op);
            pthread_mutex_lock(&lock);
        }
        end_op(w->ep, w->op, status);
        w->next = spare;
        spare = w;
        now.ep = NULL;
        now.mem = NULL;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return arg;
}

/* A child has no thread and no lock that is held by one; what is its parent's it leaves alone. */
static void in_child(void)
{
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&changed, NULL);
    mems = NULL;
    eps = NULL;
    queue = NULL;
    queue_last = &queue;
    now.ep = NULL;
    now.mem = NULL;
    devices = 0;
}

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }

/* ---- devices ---- */

static int toy_probe(void) { return 0; }

static int toy_inventory(char *buf, size_t len) { return snprintf(buf, len, "[]"); }

static int toy_open(const struct fabric_options *o, dsm_stats *stats, struct fabric_dev **out)
{
    struct fabric_dev *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(DSM_ENOMEM, 0, "toy device");
    *d =
        (struct fabric_dev){.fabric = &toy_fabric,
                            .wire_id = FABRIC_TOY,
                            .connected = true,
                            .stats = stats,
                            .prepare = UINT64_MAX,
                            .fd = -1,
                            .caps = {.register_private = 1, .max_region = INT64_MAX, .gid_index = -1, .fabric = "toy"}};
    option_text(o, "device", d->caps.device, sizeof d->caps.device);
    pthread_mutex_lock(&lock);
    int sys = devices++ ? 0 : thread_start(&thread, execute, NULL);
    devices -= sys != 0;
    pthread_mutex_unlock(&lock);
    *out = d;
    if (sys)
        free(d);
    return sys ? err_set_errno(sys, "the toy's thread") : 0;
}

static void toy_close(struct fabric_dev *d)
{
    pthread_mutex_lock(&lock);
    bool last = !--devices;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    if (last)
        pthread_join(thread, NULL);
    free(d);
}

/* ---- memory ---- */

static void toy_unreg(struct fabric_mem *base)
{
    struct toy_mem *m = (struct toy_mem *)base, **at = &mems;
    pthread_mutex_lock(&lock);
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    while (now.mem == m)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    memory_drop(base->memory);
    free(m);
}

static int toy_reg(struct fabric_dev *d, size_t n, struct memory *const *m, uint32_t access, struct fabric_mem **out)
{
    for (size_t i = 0; i < n; i++) {
        struct toy_mem *r = malloc(sizeof *r);
        if (!r) {
            while (i)
                toy_unreg(out[--i]);
            return err_set(DSM_ENOMEM, 0, "region");
        }
        memory_hold(m[i]);
        r->base = (struct fabric_mem){.dev = d, .memory = m[i], .access = access};
        pthread_mutex_lock(&lock);
        r->key = next_id++;
        r->next = mems;
        mems = r;
        pthread_mutex_unlock(&lock);
        out[i] = &r->base;
    }
    return 0;
}

static int toy_export(struct fabric_mem *m, struct fabric_blob *out)
{
    put_u64(out->bytes, ((struct toy_mem *)m)->key);
    out->nbytes = 8;
    return 0;
}

static int toy_import(struct fabric_dev *d, const struct fabric_grant *grant, struct fabric_remote **out)
{
    if (grant->blob.nbytes != 8 || grant->blob.nfds)
        return err_set(DSM_EPROTO, 0, "the owner handed over no key");
    struct toy_remote *r = malloc(sizeof *r);
    if (!r)
        return err_set(DSM_ENOMEM, 0, "remote");
    r->base = (struct fabric_remote){.dev = d, .nbytes = grant->nbytes, .access = grant->access};
    r->key = get_u64(grant->blob.bytes);
    *out = &r->base;
    return 0;
}

static void toy_forget(struct fabric_remote *r) { free(r); }

/* ---- endpoints ---- */

static int toy_ep_open(struct fabric_dev *d, bool passive, struct fabric_ep **out)
{
    struct toy_ep *e = calloc(1, sizeof *e);
    if (!e || (e->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) < 0) {
        free(e);
        return err_set_errno(errno, "endpoint");
    }
    e->base.dev = d;
    (void)passive;
    e->done_last = &e->done;
    pthread_mutex_lock(&lock);
    e->id = next_id++;
    e->next = eps;
    eps = e;
    pthread_mutex_unlock(&lock);
    *out = &e->base;
    return 0;
}

static int toy_ep_address(struct fabric_ep *e, uint8_t address[FABRIC_ADDRESS_MAX])
{
    put_u64(address, ((struct toy_ep *)e)->id);
    return 8;
}

static int toy_ep_connect(struct fabric_ep *e, const uint8_t *address, size_t len)
{
    if (len != 8)
        return err_set(DSM_EPROTO, 0, "not the address of a toy endpoint");
    ((struct toy_ep *)e)->to = get_u64(address);
    return 0;
}

/* What waits is not executed any more, and ends in a poll, as does what is being executed. */
static void toy_ep_abort(struct fabric_ep *e)
{
    pthread_mutex_lock(&lock);
    ((struct toy_ep *)e)->lost = e->broken = true;
    pthread_mutex_unlock(&lock);
}

static void toy_post(struct fabric_ep *base, struct fabric_op *list)
{
    struct toy_ep *e = (struct toy_ep *)base;
    fetch_add_u64(&base->dev->stats->doorbells, 1);
    pthread_mutex_lock(&lock);
    while (list) {
        struct fabric_op *op = list;
        struct work *w = spare ? spare : malloc(sizeof *w);
        list = op->next;
        base->inflight++;
        base->bytes += op->op->nbytes;
        if (!w) {
            end_op(e, op, -DSM_ENOMEM);
            continue;
        }
        spare = w == spare ? w->next : spare;
        *w = (struct work){.op = op, .ep = e};
        *queue_last = w;
        queue_last = &w->next;
    }
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static int toy_poll(struct fabric_ep *base)
{
    struct toy_ep *e = (struct toy_ep *)base;
    int n = 0;
    pthread_mutex_lock(&lock);
    struct fabric_op *op = e->done, *next;
    e->done = NULL;
    e->done_last = &e->done;
    base->broken = e->lost;
    pthread_mutex_unlock(&lock);
    for (; op; op = next, n++) {
        next = op->next;
        base->inflight--;
        base->bytes -= op->op->nbytes;
        fabric_op_done(op, op->op->status);
    }
    return n;
}

static int toy_arm(struct fabric_ep *base)
{
    struct toy_ep *e = (struct toy_ep *)base;
    uint64_t count;
    pthread_mutex_lock(&lock);
    if (read(e->fd, &count, sizeof count) < 0) {
        /* EAGAIN: it was not readable */
    }
    e->armed = true;
    pthread_mutex_unlock(&lock);
    return 0;
}

static int toy_ep_fd(struct fabric_ep *e) { return ((struct toy_ep *)e)->fd; }

static void toy_ep_close(struct fabric_ep *base)
{
    struct toy_ep *e = (struct toy_ep *)base, **at = &eps;
    toy_ep_abort(base);
    while (base->inflight) {
        toy_poll(base);
        pthread_mutex_lock(&lock);
        while (base->inflight && !e->done)
            pthread_cond_wait(&changed, &lock);
        pthread_mutex_unlock(&lock);
    }
    pthread_mutex_lock(&lock);
    while (*at != e)
        at = &(*at)->next;
    *at = e->next;
    while (now.ep && (now.ep == e || now.ep->to == e->id)) /* ops through a passive endpoint */
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    close(e->fd);
    free(e);
}

static const struct fabric_key toy_keys[] = {{"device", TEXT_OPTION}, {0}};

/* Everything goes through endpoints, and the agent has closed those of the node. */
static int toy_evict(struct fabric_dev *d, const uint8_t node[DSM_NODE_ID])
{
    (void)d;
    (void)node;
    return 0;
}

const struct fabric toy_fabric = {
    FABRIC_NOSYS,
    .name = "toy",
    .wire_id = FABRIC_TOY,
    .keys = toy_keys,
    .probe = toy_probe,
    .inventory = toy_inventory,
    .open = toy_open,
    .close = toy_close,
    .reg = toy_reg,
    .unreg = toy_unreg,
    .export = toy_export,
    .import = toy_import,
    .forget = toy_forget,
    .evict = toy_evict,
    .ep_open = toy_ep_open,
    .ep_address = toy_ep_address,
    .ep_connect = toy_ep_connect,
    .ep_abort = toy_ep_abort,
    .ep_close = toy_ep_close,
    .post = toy_post,
    .poll = toy_poll,
    .arm = toy_arm,
    .ep_fd = toy_ep_fd,
};
