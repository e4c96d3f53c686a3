/* The device. All functions but those of endpoints delegate to the inner fabric. Memory of this process is an object of
 * the inner fabric. */
#include "../nosys.h"
#include "fault.h"

#include <stdio.h>
#include <stdlib.h>

static struct fabric_dev *inner(struct fabric_dev *d) { return ((struct fault_dev *)d)->inner; }

static void fault_close(struct fabric_dev *base)
{
    struct fault_dev *d = (struct fault_dev *)base;
    d->inner->fabric->close(d->inner);
    fault_plan_free(&d->plan);
    free(d);
}

static void fault_fork(struct fabric_dev *d, enum fabric_fork phase) { inner(d)->fabric->fork(inner(d), phase); }

static int fault_reg(struct fabric_dev *d, size_t n, struct memory *const *m, uint32_t access, struct fabric_mem **out)
{
    return inner(d)->fabric->reg(inner(d), n, m, access, out);
}

static void fault_unreg(struct fabric_mem *m) { m->dev->fabric->unreg(m); }

static int fault_export(struct fabric_mem *m, struct fabric_blob *out) { return m->dev->fabric->export(m, out); }

static int fault_import(struct fabric_dev *d, const struct fabric_grant *grant, struct fabric_remote **out)
{
    struct fault_remote *r = calloc(1, sizeof *r);
    if (!r)
        return err_set(DSM_ENOMEM, 0, "remote");
    int rc = inner(d)->fabric->import(inner(d), grant, &r->inner);
    if (rc) {
        free(r);
        return rc;
    }
    r->base = *r->inner;
    r->base.dev = d;
    r->base.mapped = NULL;
    r->base.state = NULL;
    *out = &r->base;
    return 0;
}

static int fault_import_by(struct fabric_remote *base, uint32_t theirs, const struct fabric_grant *grant)
{
    struct fabric_remote *r = ((struct fault_remote *)base)->inner;
    return r->dev->fabric->import_by(r, theirs, grant);
}

static void fault_forget(struct fabric_remote *base)
{
    struct fault_remote *r = (struct fault_remote *)base;
    r->inner->dev->fabric->forget(r->inner);
    free(r);
}

static int fault_evict(struct fabric_dev *d, const uint8_t node[DSM_NODE_ID])
{
    return inner(d)->fabric->evict(inner(d), node);
}

/* Of this process as an owner. Of ops of its own that it loses, fault lets the user know nothing. */
static int fault_outcomes(struct fabric_dev *d, const uint8_t *address, size_t len, uint64_t from,
                          struct fabric_outcomes *out)
{
    return inner(d)->fabric->outcomes(inner(d), address, len, from, out);
}

static void fault_dev_event(struct fabric_dev *d) { inner(d)->fabric->dev_event(inner(d)); }

static const struct fabric fault_fabric = {
    FABRIC_NOSYS,
    .name = "fault",
    .close = fault_close,
    .fork = fault_fork,
    .reg = fault_reg,
    .unreg = fault_unreg,
    .export = fault_export,
    .import = fault_import,
    .import_by = fault_import_by,
    .forget = fault_forget,
    .evict = fault_evict,
    .outcomes = fault_outcomes,
    .dev_event = fault_dev_event,
    .ep_open = fault_ep_open,
    .ep_address = fault_ep_address,
    .ep_connect = fault_ep_connect,
    .ep_stream = fault_ep_stream,
    .ep_abort = fault_ep_abort,
    .ep_close = fault_ep_close,
    .post = fault_post,
    .poll = fault_poll,
    .arm = fault_arm,
    .ep_fd = fault_ep_fd,
};

int fault_wrap(const char *plan, struct fabric_dev *wrapped, struct fabric_dev **out)
{
    struct fault_dev *d = calloc(1, sizeof *d);
    int rc = d ? fault_plan_parse(plan, &d->plan) : err_set(DSM_ENOMEM, 0, "fault device");
    if (rc) {
        wrapped->fabric->close(wrapped);
        free(d);
        return rc;
    }
    d->inner = wrapped;
    d->base = *wrapped;
    d->base.fabric = &fault_fabric;
    d->base.caps.local_memory = 0;
    snprintf(d->base.caps.fabric, sizeof d->base.caps.fabric, "fault+%s", wrapped->fabric->name);
    d->base.caches = false;
    d->base.remembers = false;
    d->base.prepare = UINT64_MAX; /* never: an op may be executed in parts, or twice */
    *out = &d->base;
    return 0;
}
