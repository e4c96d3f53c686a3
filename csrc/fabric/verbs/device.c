/* Devices: choosing device, port and GID, and querying capabilities. */
#ifdef DSM_HAVE_VERBS
#include "../nosys.h"
#include "keys.h"
#include "verbs.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- properties of devices and ports ---- */

static bool kernel_has_devices(void)
{
    DIR *dir = opendir("/sys/class/infiniband");
    bool found = false;
    for (struct dirent *e; dir && !found && (e = readdir(dir));)
        found = e->d_name[0] != '.';
    if (dir)
        closedir(dir);
    return found;
}

static int list_devices(struct ibv_device ***out, int *n)
{
    int rc = verbs_load();
    if (rc)
        return rc;
    *out = ibv.get_device_list(n);
    if (!*out && errno != ENOSYS)
        return err_set(DSM_ENODEV, errno, "listing RDMA devices");
    if (*out && *n)
        return 0;
    if (*out)
        ibv.free_device_list(*out);
    *out = NULL;
    return kernel_has_devices() ? err_set(DSM_ENOPROVIDER, 0, "/sys/class/infiniband is not empty")
                                : err_set(DSM_ENODEV, 0, "this host has no RDMA device");
}

static bool gid_is_v2(const struct ibv_context *ctx, int port, int index)
{
    char path[IBV_SYSFS_PATH_MAX + 64], type[32] = "";
    snprintf(path, sizeof path, "%.*s/ports/%d/gid_attrs/types/%d", IBV_SYSFS_PATH_MAX, ctx->device->ibdev_path, port,
             index);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool v2 = fgets(type, sizeof type, f) && !strncmp(type, "RoCE v2", 7);
    fclose(f);
    return v2;
}

static bool gid_read(struct ibv_context *ctx, int port, int index, union ibv_gid *out)
{
    static const union ibv_gid none;
    return !ibv.query_gid(ctx, (uint8_t)port, index, out) && memcmp(out, &none, sizeof none);
}

/* RoCE v2 ranks above v1, since only v2 is routable. Then IPv4, global IPv6, loopback, link-local IPv6. */
static int gid_rank(const union ibv_gid *gid, bool v2)
{
    const struct in6_addr *a = (const struct in6_addr *)(const void *)gid->raw;
    bool mapped = IN6_IS_ADDR_V4MAPPED(a);
    bool loopback = mapped ? gid->raw[12] == 127 : IN6_IS_ADDR_LOOPBACK(a);
    return (v2 ? 4 : 0) + (loopback ? 1 : IN6_IS_ADDR_LINKLOCAL(a) ? 0 : mapped ? 3 : 2);
}

static int gids(const struct verbs_dev *d)
{
    return d->port_attr.gid_tbl_len < VERBS_GIDS ? d->port_attr.gid_tbl_len : VERBS_GIDS;
}

static int best_gid(struct verbs_dev *d)
{
    int best = -1;
    for (int i = 0; i < gids(d); i++) {
        union ibv_gid gid;
        if (!gid_read(d->ctx, d->port, i, &gid))
            continue;
        int rank = d->roce ? gid_rank(&gid, gid_is_v2(d->ctx, d->port, i)) : 0;
        if (rank > best) {
            best = rank;
            d->gid = gid;
            d->gid_index = i;
        }
    }
    return best < 0 && verbs_global(d)
               ? err_set(DSM_ENODEV, 0, "%s port %d has no GID; give its network interface an address", d->name,
                         d->port)
               : 0;
}

static int choose_gid(struct verbs_dev *d, int wanted)
{
    int rc = 0;
    if (wanted < 0)
        rc = best_gid(d);
    else if (wanted < gids(d) && gid_read(d->ctx, d->port, wanted, &d->gid))
        d->gid_index = wanted;
    else
        rc = err_set(DSM_EINVAL, 0, "%s port %d has no GID %d, or not below %d", d->name, d->port, wanted, VERBS_GIDS);
    d->link = !d->roce ? VERBS_IB : gid_is_v2(d->ctx, d->port, d->gid_index) ? VERBS_ROCE_V2 : VERBS_ROCE_V1;
    return rc;
}

static int read_pkey(struct verbs_dev *d)
{
    uint16_t big_endian;
    if (ibv.query_pkey(d->ctx, d->port, 0, &big_endian))
        return err_set(DSM_ENODEV, errno, "%s port %d has no partition key", d->name, d->port);
    d->pkey = ntohs(big_endian);
    return 0;
}

static int mtu_bytes(enum ibv_mtu mtu) { return 128 << mtu; }

static int choose_mtu(struct verbs_dev *d, int wanted)
{
    d->mtu = d->port_attr.active_mtu;
    if (!wanted)
        return 0;
    for (int m = IBV_MTU_256; m <= (int)d->port_attr.active_mtu; m++)
        if (mtu_bytes((enum ibv_mtu)m) == wanted) {
            d->mtu = (enum ibv_mtu)m;
            return 0;
        }
    return err_set(DSM_EINVAL, 0, "mtu %d; it is a power of 2 from 256 to %d on %s", wanted,
                   mtu_bytes(d->port_attr.active_mtu), d->name);
}

/* ---- choosing ---- */

static bool port_active(struct verbs_dev *d, int wanted)
{
    int first = wanted ? wanted : 1, last = wanted ? wanted : d->attr.phys_port_cnt;
    for (int p = first; p <= last && p <= d->attr.phys_port_cnt; p++)
        if (!verbs_query_port(d->ctx, (uint8_t)p, &d->port_attr) && d->port_attr.state == IBV_PORT_ACTIVE) {
            d->port = (uint8_t)p;
            d->roce = d->port_attr.link_layer == IBV_LINK_LAYER_ETHERNET;
            d->grh = d->port_attr.flags & IBV_QPF_GRH_REQUIRED;
            return true;
        }
    return false;
}

/* ---- inventory ---- */

struct text {
    char *buf;
    size_t len, used; /* used exceeds len if the text did not fit */
};

static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    size_t room = t->used < t->len ? t->len - t->used : 0;
    int n = vsnprintf(room ? t->buf + t->used : NULL, room, fmt, ap);
    va_end(ap);
    t->used += n > 0 ? (size_t)n : 0;
}

static void add_gids(struct text *t, struct ibv_context *ctx, int port, const struct ibv_port_attr *attr)
{
    const char *comma = "";
    char text[INET6_ADDRSTRLEN];
    union ibv_gid gid;
    for (int i = 0; i < attr->gid_tbl_len; i++) {
        if (!gid_read(ctx, port, i, &gid) || !inet_ntop(AF_INET6, gid.raw, text, sizeof text))
            continue;
        const char *type = attr->link_layer != IBV_LINK_LAYER_ETHERNET ? "IB"
                           : gid_is_v2(ctx, port, i)                   ? "RoCE v2"
                                                                       : "RoCE v1";
        add(t, "%s{\"index\": %d, \"gid\": \"%s\", \"type\": \"%s\"}", comma, i, text, type);
        comma = ", ";
    }
}

static const char *state_name(enum ibv_port_state s)
{
    static const char *const names[] = {"nop", "down", "init", "armed", "active", "active-defer"};
    return (unsigned)s < sizeof names / sizeof *names ? names[s] : "unknown";
}

static void add_device(struct text *t, struct ibv_device *dev)
{
    static const char *const atomics[] = {"none", "nic", "global"};
    const char *name = ibv.get_device_name(dev), *comma = "";
    struct ibv_device_attr attr;
    struct ibv_port_attr port;
    struct ibv_context *ctx = ibv.open_device(dev);
    add(t, "{\"device\": \"%s\", \"ports\": [", name);
    bool good = ctx && !ibv.query_device(ctx, &attr);
    for (int p = 1; good && p <= attr.phys_port_cnt; p++) {
        if (verbs_query_port(ctx, (uint8_t)p, &port))
            continue;
        add(t, "%s{\"port\": %d, \"state\": \"%s\", \"link\": \"%s\", \"mtu\": %d, \"lid\": %u, \"gids\": [", comma, p,
            state_name(port.state), port.link_layer == IBV_LINK_LAYER_ETHERNET ? "Ethernet" : "InfiniBand",
            mtu_bytes(port.active_mtu), port.lid);
        add_gids(t, ctx, p, &port);
        add(t, "]}");
        comma = ", ";
    }
    add(t, "]");
    if (good)
        add(t,
            ", \"atomics\": \"%s\", \"max_reads\": %d, \"max_depth\": %d, \"max_region\": %llu, "
            "\"firmware\": \"%.40s\"",
            (unsigned)attr.atomic_cap < 3 ? atomics[attr.atomic_cap] : "unknown", attr.max_qp_init_rd_atom,
            attr.max_qp_wr, (unsigned long long)attr.max_mr_size, attr.fw_ver);
    add(t, "}");
    if (ctx)
        ibv.close_device(ctx);
}

static int inventory(char *buf, size_t len)
{
    struct text t = {buf, len, 0};
    struct ibv_device **list;
    int n, rc = list_devices(&list, &n);
    if (rc)
        return rc;
    add(&t, "[");
    for (int i = 0; i < n; i++) {
        add(&t, "%s", i ? ", " : "");
        add_device(&t, list[i]);
    }
    add(&t, "]");
    ibv.free_device_list(list);
    return t.used < len ? (int)t.used : err_set(DSM_EINVAL, 0, "the buffer is too small");
}

/* ---- opening ---- */

/* The device sends a packet 1 + retries times and waits 4.096 us * 2^timeout each time. Chooses the longest total that
 * does not exceed the wanted one. 7 retries are not used as some devices take them for 'forever', and all take timeout
 * 0 for it; timeouts below 8 are not used as the timers are too coarse for them. */
static void choose_timeout(struct verbs_dev *d, int64_t wanted_ns)
{
    int64_t best = 0;
    d->timeout = 8;
    d->retries = 6;
    for (uint8_t t = 8; t < 32; t++)
        for (uint8_t r = 4; r <= 6; r++) {
            int64_t total = (r + 1) * (INT64_C(4096) << t);
            if (total <= wanted_ns && total > best) {
                best = total;
                d->timeout = t;
                d->retries = r;
            }
        }
}

/* What the options ask for; 0 and gid -1: the device's own choice. */
struct wishes {
    char device[64];
    int port, gid, mtu, depth, sl, traffic_class;
    int64_t peer_timeout_ns;
};

static uint8_t at_most(int have, int limit) { return (uint8_t)(have < 1 ? 1 : have > limit ? limit : have); }

static int set_up(struct verbs_dev *d, const struct wishes *w)
{
    struct ibv_qp *qp;
    uint32_t wanted = w->depth > 0 ? (uint32_t)w->depth : VERBS_DEPTH;
    uint32_t most = d->attr.max_qp_wr < VERBS_DEPTH_MAX ? (uint32_t)d->attr.max_qp_wr : VERBS_DEPTH_MAX;
    d->depth = wanted < most ? wanted : most;
    d->max_reads = at_most(d->attr.max_qp_init_rd_atom, 128);
    d->pieces = at_most(d->attr.max_sge, VERBS_PIECES); /* 1 at least */
    d->read_pieces = at_most(d->attr.max_sge_rd, VERBS_PIECES);
    d->max_served = at_most(d->attr.max_qp_rd_atom, 128);
    choose_timeout(d, w->peer_timeout_ns);
    d->base.prepare = VERBS_BOUNCE_MAX;
    d->base.caches = verbs_fork_copies();
    d->base.fd = d->ctx->async_fd;
    int flags = fcntl(d->base.fd, F_GETFL);
    if (flags < 0 || fcntl(d->base.fd, F_SETFL, flags | O_NONBLOCK))
        return err_set_errno(errno, "the events of %s", d->name);
    if (!(d->pd = ibv.alloc_pd(d->ctx)))
        return err_set_errno(errno, "ibv_alloc_pd on %s", d->name);
    if (!(d->passive_cq = ibv.create_cq(d->ctx, 1, NULL, NULL, 0)))
        return err_set_errno(errno, "ibv_create_cq on %s", d->name);
    d->max_inline = VERBS_INLINE; /* the size that is granted is known only once a queue pair is created */
    int rc = verbs_create_qp(d, NULL, d->passive_cq, d->depth, &d->max_inline, &qp);
    if (!rc)
        ibv.destroy_qp(qp);
    return rc;
}

/* Releases what try_device() has opened. */
static void let_go(struct verbs_dev *d)
{
    if (d->passive_cq)
        ibv.destroy_cq(d->passive_cq);
    if (d->pd)
        ibv.dealloc_pd(d->pd);
    if (d->ctx)
        ibv.close_device(d->ctx);
    d->passive_cq = NULL;
    d->pd = NULL;
    d->ctx = NULL;
}

static int try_device(struct verbs_dev *d, struct ibv_device *dev, const struct wishes *w)
{
    snprintf(d->name, sizeof d->name, "%s", ibv.get_device_name(dev));
    if (dev->transport_type == IBV_TRANSPORT_IWARP)
        return err_set(DSM_ENODEV, 0, "%s is an iWARP adapter: it has no atomics and is connected in another way",
                       d->name);
    if (!(d->ctx = ibv.open_device(dev)))
        return err_set(DSM_ENODEV, errno, "opening %s", d->name);
    int rc = ibv.query_device(d->ctx, &d->attr) ? err_set(DSM_ENODEV, errno, "asking %s what it can do", d->name) : 0;
    if (!rc && !port_active(d, w->port))
        rc = err_set(DSM_ENODEV, 0, "no active port on %s", d->name);
    if (rc || (rc = choose_gid(d, w->gid)) || (rc = choose_mtu(d, w->mtu)) || (rc = read_pkey(d)) ||
        (rc = set_up(d, w)))
        let_go(d);
    return rc;
}

static void read_options(const struct fabric_options *o, struct wishes *w)
{
    *w = (struct wishes){.gid = -1, .peer_timeout_ns = o->peer_timeout_ns};
    option_text(o, "device", w->device, sizeof w->device);
    option_number(o, "port", &w->port);
    option_number(o, "gid", &w->gid);
    option_number(o, "mtu", &w->mtu);
    option_number(o, "depth", &w->depth);
    option_number(o, "sl", &w->sl);
    option_number(o, "traffic_class", &w->traffic_class);
}

/* Opens the first device that can be set up. If none can, the error is that of the first one. */
static int choose(struct verbs_dev *d, const struct wishes *w)
{
    struct ibv_device **list;
    dsm_failure first = {0};
    int n, rc = list_devices(&list, &n);
    if (rc)
        return rc;
    d->sl = (uint8_t)w->sl;
    d->tclass = (uint8_t)w->traffic_class;
    for (int i = 0; i < n && !d->ctx; i++) {
        if (*w->device && strcmp(ibv.get_device_name(list[i]), w->device))
            continue;
        if (try_device(d, list[i], w) && !first.code)
            first = *dsm_last_error();
    }
    ibv.free_device_list(list);
    if (d->ctx)
        return 0;
    return first.code ? err_set(first.code, 0, "%s", first.detail)
                      : err_set(DSM_ENODEV, 0, "there is no device '%.40s'", w->device);
}

static void close_device(struct fabric_dev *base)
{
    struct verbs_dev *d = (struct verbs_dev *)base;
    let_go(d);
    pthread_rwlock_destroy(&d->lock);
    free(d->mrs);
    free(d);
}

static void describe(const struct verbs_dev *d, dsm_caps *out)
{
    *out = (dsm_caps){
        .register_private = 1,
        .atomic_domain = d->attr.atomic_cap == IBV_ATOMIC_HCA    ? 1
                         : d->attr.atomic_cap == IBV_ATOMIC_GLOB ? 2
                                                                 : 3,
        .max_inline = d->max_inline,
        .max_reads = d->max_reads,
        .depth = d->depth,
        .mtu = (uint32_t)mtu_bytes(d->mtu),
        .port = d->port,
        .gid_index = d->gid_index,
        .is_roce = d->roce,
        .max_region = d->attr.max_mr_size,
        .fabric = "verbs",
    };
    snprintf(out->device, sizeof out->device, "%s", d->name);
    inet_ntop(AF_INET6, d->gid.raw, out->gid, sizeof out->gid);
}

static int open_device(const struct fabric_options *o, dsm_stats *stats, struct fabric_dev **out)
{
    struct wishes w;
    read_options(o, &w);
    struct verbs_dev *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(DSM_ENOMEM, 0, "verbs device");
    d->base = (struct fabric_dev){.fabric = &verbs_fabric, .wire_id = FABRIC_VERBS, .connected = true, .stats = stats};
    pthread_rwlock_init(&d->lock, NULL);
    int rc = choose(d, &w);
    if (rc) {
        close_device(&d->base);
        return rc;
    }
    describe(d, &d->base.caps);
    d->base.ends = d->attr.atomic_cap == IBV_ATOMIC_HCA;
    d->base.unclosed = &d->unclosed;
    *out = &d->base;
    return 0;
}

static int probe(void)
{
    const struct fabric_options o = {.text = "", .peer_timeout_ns = 2000000000};
    dsm_stats stats = {0};
    struct fabric_dev *d = NULL;
    int rc = open_device(&o, &stats, &d);
    if (!rc)
        close_device(d);
    return rc;
}

/* Destroying a queue pair or a completion queue blocks until its events are acknowledged, so the endpoint of an event
 * still exists here; a queue pair that could not be destroyed has none any more. */
void verbs_dev_event(struct fabric_dev *base)
{
    struct verbs_dev *d = (struct verbs_dev *)base;
    struct ibv_async_event event;
    while (!ibv.get_async_event(d->ctx, &event)) {
        struct verbs_ep *e;
        switch (event.event_type) {
        case IBV_EVENT_DEVICE_FATAL:
            store_relaxed_u32(&d->lost, 1);
            break;
        case IBV_EVENT_QP_FATAL:
        case IBV_EVENT_QP_REQ_ERR:
        case IBV_EVENT_QP_ACCESS_ERR:
            if ((e = event.element.qp->qp_context))
                store_relaxed_u32(&e->lost, 1);
            break;
        case IBV_EVENT_CQ_ERR: /* nothing comes out of it any more */
            e = event.element.cq->cq_context;
            store_relaxed_u32(e ? &e->lost : &d->lost, 1);
            break;
        default: /* a port that goes down may come back: ops continue until their retries are exhausted */
            break;
        }
        ibv.ack_async_event(&event);
    }
}

/* Everything goes through queue pairs, and the agent has destroyed those of the node. */
static int evict(struct fabric_dev *base, const uint8_t node[DSM_NODE_ID])
{
    struct verbs_dev *d = (struct verbs_dev *)base;
    (void)node;
    return load_relaxed_u32(&d->unclosed) ? err_set(DSM_EIO, 0, "%s did not close a queue pair", d->name) : 0;
}

const struct fabric verbs_fabric = {
    FABRIC_NOSYS,
    .name = "verbs",
    .wire_id = FABRIC_VERBS,
    .keys = verbs_keys,
    .probe = probe,
    .inventory = inventory,
    .open = open_device,
    .close = close_device,
    .reg = verbs_reg,
    .unreg = verbs_unreg,
    .export = verbs_export,
    .import = verbs_import,
    .import_by = verbs_import_by,
    .forget = verbs_forget,
    .evict = evict,
    .op_prepare = verbs_op_prepare,
    .op_release = verbs_op_release,
    .dev_event = verbs_dev_event,
    .ep_open = verbs_ep_open,
    .ep_address = verbs_ep_address,
    .ep_connect = verbs_ep_connect,
    .ep_abort = verbs_ep_abort,
    .ep_close = verbs_ep_close,
    .post = verbs_post,
    .poll = verbs_poll,
    .arm = verbs_arm,
    .ep_fd = verbs_ep_fd,
};
#endif
