/* The device: registrations, memory of other processes, and what a fork does. */
#include "../../base/random.h"
#include "../../base/wire.h"
#include "tcp.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct tcp_dev *dev(struct fabric_dev *d) { return (struct tcp_dev *)d; }

static void tcp_fork(struct fabric_dev *base, enum fabric_fork phase)
{
    struct tcp_dev *d = dev(base);
    if (phase == FABRIC_FORK_BEFORE) {
        tcp_lock(d);
        return;
    }
    for (struct tcp_file *f = d->files; phase == FABRIC_FORK_CHILD && f; f = f->next)
        close(f->fd);
    tcp_unlock(d);
}

/* ---- open and close ---- */

static int tcp_probe(void) { return 0; }

static int tcp_inventory(char *buf, size_t len)
{
    int n = snprintf(buf, len, "[]");
    return n < 0 || (size_t)n >= len ? err_set(DSM_EINVAL, 0, "the buffer is too small") : n;
}

static const struct fabric_dev defaults = {
    .fabric = &tcp_fabric,
    .wire_id = FABRIC_TCP,
    .connected = true,
    .streams = true,
    .ends = true,
    .remembers = true,
    .whole = true, /* TCP_WHOLE */
    .prepare = UINT64_MAX,
    .fd = -1,
    .caps = {.register_private = 1, .max_region = INT64_MAX, .gid_index = -1, .fabric = "tcp"},
};

/* Whether the progress thread, which inherits the affinity of this one, may poll beside another thread. Where a CPU set
 * does not hold all processors, there are many. */
static bool has_processors(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) || CPU_COUNT(&set) > 1;
}

static int tcp_open(const struct fabric_options *o, dsm_stats *stats, struct fabric_dev **out)
{
    (void)o;
    struct tcp_dev *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(DSM_ENOMEM, 0, "tcp device");
    d->base = defaults;
    d->base.stats = stats;
    d->epoll.fd = d->wake.fd = -1;
    d->ready_last = &d->ready;
    d->past_last = &d->past;
    d->spin_ns = has_processors() ? 50000 : 0;
    pthread_mutex_init(&d->waiting, NULL);
    pthread_mutex_init(&d->lock, NULL);
    *out = &d->base;
    return 0;
}

static void tcp_close(struct fabric_dev *base)
{
    struct tcp_dev *d = dev(base);
    tcp_thread_stop(d);
    tcp_records_free(d);
    assert(!d->files && !d->ready);
    pthread_mutex_destroy(&d->lock);
    pthread_mutex_destroy(&d->waiting);
    free(d->slots);
    free(d);
}

/* ---- memory of this process ---- */

static int reg_one(struct fabric_dev *d, struct memory *memory, uint32_t access, struct fabric_mem **out)
{
    struct tcp_mem *m = calloc(1, sizeof *m);
    if (!m)
        return err_set(DSM_ENOMEM, 0, "region");
    m->base = (struct fabric_mem){.dev = d, .memory = memory, .access = access};
    int rc = random_bytes(m->key, TCP_KEY);
    if (!rc) {
        tcp_lock(dev(d));
        rc = tcp_slot_take(dev(d), m);
        tcp_unlock(dev(d));
    }
    if (rc) {
        free(m);
        return rc;
    }
    memory_hold(memory);
    *out = &m->base;
    return 0;
}

/* Once the lock has been taken, the progress thread is between two pieces, and looks the slot up before the next. */
static void tcp_unreg(struct fabric_mem *base)
{
    struct tcp_dev *d = dev(base->dev);
    struct tcp_mem *m = (struct tcp_mem *)base;
    tcp_lock(d);
    tcp_slot_free(d, m);
    tcp_unlock(d);
    memory_drop(base->memory);
    free(m);
}

static int tcp_reg(struct fabric_dev *d, size_t n, struct memory *const *m, uint32_t access, struct fabric_mem **out)
{
    int rc = tcp_thread_start(dev(d));
    size_t made = 0;
    for (; made < n && !rc; made += !rc)
        rc = reg_one(d, m[made], access, &out[made]);
    while (rc && made)
        tcp_unreg(out[--made]);
    return rc;
}

static int tcp_export(struct fabric_mem *base, struct fabric_blob *out)
{
    const struct tcp_mem *m = (const struct tcp_mem *)base;
    put_u32(out->bytes, m->slot);
    memcpy(out->bytes + 4, m->key, TCP_KEY);
    out->nbytes = TCP_BLOB;
    return 0;
}

/* ---- memory of other processes ---- */

static int tcp_import(struct fabric_dev *d, const struct fabric_grant *grant, struct fabric_remote **out)
{
    if (grant->blob.nbytes != TCP_BLOB || grant->blob.nfds || !grant->nbytes || grant->nbytes > INT64_MAX)
        return err_set(DSM_EPROTO, 0, "the owner handed over no key of a region");
    struct tcp_remote *r = calloc(1, sizeof *r);
    if (!r)
        return err_set(DSM_ENOMEM, 0, "remote");
    r->base = (struct fabric_remote){.dev = d, .nbytes = grant->nbytes, .access = grant->access};
    r->slot = get_u32(grant->blob.bytes);
    memcpy(r->key, grant->blob.bytes + 4, TCP_KEY);
    *out = &r->base;
    return 0;
}

static void tcp_forget(struct fabric_remote *r) { free(r); }

/* The agent has closed the node's endpoints, and no frame of a closed endpoint is executed. */
static int tcp_evict(struct fabric_dev *d, const uint8_t node[DSM_NODE_ID])
{
    (void)d;
    (void)node;
    return 0;
}

/* ---- endpoints ---- */

static bool is_passive(const struct fabric_ep *e) { return ((const struct tcp_ep *)e)->passive; }

static int tcp_ep_open(struct fabric_dev *d, bool passive, struct fabric_ep **out)
{
    int rc = passive ? tcp_server_open(dev(d), out) : tcp_client_open(dev(d), out);
    if (!rc)
        ((struct tcp_ep *)*out)->passive = passive;
    return rc;
}

static int tcp_ep_address(struct fabric_ep *e, uint8_t address[FABRIC_ADDRESS_MAX])
{
    return is_passive(e) ? tcp_server_address(e, address) : 0;
}

/* The streams make the connection. */
static int tcp_ep_connect(struct fabric_ep *e, const uint8_t *address, size_t len)
{
    if (len != (is_passive(e) ? 0 : TCP_TOKEN))
        return err_set(DSM_EPROTO, 0, "an endpoint's address of %zu bytes", len);
    if (!is_passive(e))
        tcp_client_name(e, address);
    return 0;
}

static int tcp_ep_stream(struct fabric_ep *e, int fd)
{
    return is_passive(e) ? tcp_server_stream(e, fd) : tcp_client_stream(e, fd);
}

static void tcp_ep_abort(struct fabric_ep *e)
{
    if (is_passive(e))
        tcp_server_abort(e);
    else
        tcp_client_abort(e);
}

static void tcp_ep_close(struct fabric_ep *e)
{
    if (is_passive(e))
        tcp_server_close(e);
    else
        tcp_client_close(e);
}

const struct fabric tcp_fabric = {
    FABRIC_NOSYS,
    .name = "tcp",
    .wire_id = FABRIC_TCP,
    .probe = tcp_probe,
    .inventory = tcp_inventory,
    .open = tcp_open,
    .close = tcp_close,
    .fork = tcp_fork,
    .reg = tcp_reg,
    .unreg = tcp_unreg,
    .export = tcp_export,
    .import = tcp_import,
    .forget = tcp_forget,
    .evict = tcp_evict,
    .op_release = tcp_op_release,
    .doubt = tcp_doubt,
    .outcomes = tcp_outcomes,
    .ep_open = tcp_ep_open,
    .ep_address = tcp_ep_address,
    .ep_connect = tcp_ep_connect,
    .ep_stream = tcp_ep_stream,
    .ep_abort = tcp_ep_abort,
    .ep_close = tcp_ep_close,
    .post = tcp_post,
    .poll = tcp_poll,
    .arm = tcp_arm,
    .ep_fd = tcp_fd,
};
