/* Defaults for the functions that a fabric does not implement. */
#include "nosys.h"

static int nosys(void) { return err_set(DSM_EUNSUPPORTED, 0, "this fabric lacks the function"); }

const struct fabric_key nosys_keys[] = {{0}};

int nosys_probe(void) { return nosys(); }

int nosys_inventory(char *buf, size_t len)
{
    (void)buf;
    (void)len;
    return nosys();
}

int nosys_open(const struct fabric_options *o, dsm_stats *stats, struct fabric_dev **out)
{
    (void)o;
    (void)stats;
    (void)out;
    return nosys();
}

void nosys_close(struct fabric_dev *d) { (void)d; }

void nosys_fork(struct fabric_dev *d, enum fabric_fork phase)
{
    (void)d;
    (void)phase;
}

int nosys_reg(struct fabric_dev *d, size_t n, struct memory *const *m, uint32_t access, struct fabric_mem **out)
{
    (void)d;
    (void)n;
    (void)m;
    (void)access;
    (void)out;
    return nosys();
}

void nosys_unreg(struct fabric_mem *m) { (void)m; }

int nosys_export(struct fabric_mem *m, struct fabric_blob *out)
{
    (void)m;
    (void)out;
    return nosys();
}

int nosys_import_by(struct fabric_remote *r, uint32_t theirs, const struct fabric_grant *grant)
{
    (void)r;
    (void)theirs;
    (void)grant;
    return nosys();
}

int nosys_import(struct fabric_dev *d, const struct fabric_grant *grant, struct fabric_remote **out)
{
    (void)d;
    (void)grant;
    (void)out;
    return nosys();
}

void nosys_forget(struct fabric_remote *r) { (void)r; }

/* Nothing is known of what the node can still reach, so nothing is promised. */
int nosys_evict(struct fabric_dev *d, const uint8_t node[DSM_NODE_ID])
{
    (void)d;
    (void)node;
    return nosys();
}

void nosys_op_prepare(struct fabric_dev *d, struct fabric_op *w)
{
    (void)d;
    (void)w;
}

void nosys_op_release(struct fabric_dev *d, struct fabric_op *w)
{
    (void)d;
    (void)w;
}

size_t nosys_doubt(struct fabric_dev *d, const struct fabric_op *w, uint8_t address[FABRIC_ADDRESS_MAX],
                   uint64_t *number)
{
    (void)d;
    (void)w;
    (void)address;
    (void)number;
    return 0;
}

int nosys_outcomes(struct fabric_dev *d, const uint8_t *address, size_t len, uint64_t from, struct fabric_outcomes *out)
{
    (void)d;
    (void)address;
    (void)len;
    (void)from;
    (void)out;
    return nosys();
}

void nosys_dev_event(struct fabric_dev *d) { (void)d; }

int nosys_ep_open(struct fabric_dev *d, bool passive, struct fabric_ep **out)
{
    (void)d;
    (void)passive;
    (void)out;
    return nosys();
}

int nosys_ep_address(struct fabric_ep *e, uint8_t address[FABRIC_ADDRESS_MAX])
{
    (void)e;
    (void)address;
    return nosys();
}

int nosys_ep_connect(struct fabric_ep *e, const uint8_t *address, size_t len)
{
    (void)e;
    (void)address;
    (void)len;
    return nosys();
}

int nosys_ep_stream(struct fabric_ep *e, int fd)
{
    (void)e;
    (void)fd;
    return nosys();
}

void nosys_ep_abort(struct fabric_ep *e) { (void)e; }

void nosys_ep_close(struct fabric_ep *e) { (void)e; }

void nosys_post(struct fabric_ep *e, struct fabric_op *list)
{
    (void)e;
    while (list) {
        struct fabric_op *w = list;
        list = w->next;
        fabric_op_done(w, -DSM_EUNSUPPORTED);
    }
}

int nosys_poll(struct fabric_ep *e)
{
    (void)e;
    return nosys();
}

int nosys_arm(struct fabric_ep *e)
{
    (void)e;
    return nosys();
}

int nosys_ep_fd(struct fabric_ep *e)
{
    (void)e;
    return -1;
}
