#include "shm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static int shm_probe(void)
{
    int fd = memfd_create("dsmem-probe", MFD_CLOEXEC);
    if (fd < 0)
        return err_set_errno(errno, "memfd_create");
    close(fd);
    return 0;
}

static int shm_inventory(char *buf, size_t len)
{
    int n = snprintf(buf, len, "[]");
    return n < 0 || (size_t)n >= len ? err_set(DSM_EINVAL, 0, "the buffer is too small") : n;
}

static int shm_open_device(const struct fabric_options *o, dsm_stats *stats, struct fabric_dev **out)
{
    (void)o;
    struct fabric_dev *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(DSM_ENOMEM, 0, "shm device");
    *d = (struct fabric_dev){.fabric = &shm_fabric,
                             .wire_id = FABRIC_SHM,
                             .whole = true,
                             .maps = true,
                             .stats = stats,
                             .prepare = UINT64_MAX,
                             .fd = -1,
                             .caps = {.local_memory = 1,
                                      .max_region = (uint64_t)INT64_MAX - MEMORY_TRAILER,
                                      .gid_index = -1,
                                      .max_inline = 8,
                                      .fabric = "shm"}};
    *out = d;
    return 0;
}

static void shm_close_device(struct fabric_dev *d) { free(d); }

int shm_evict(struct fabric_dev *d, const uint8_t node[DSM_NODE_ID])
{
    (void)d;
    (void)node;
    return err_set(DSM_EUNSUPPORTED, 0, "the node's connection is cut, but what it has mapped stays mapped");
}

const struct fabric shm_fabric = {
    FABRIC_NOSYS,
    .name = "shm",
    .wire_id = FABRIC_SHM,
    .probe = shm_probe,
    .inventory = shm_inventory,
    .open = shm_open_device,
    .close = shm_close_device,
    .reg = shm_reg,
    .unreg = shm_unreg,
    .export = shm_export,
    .import = shm_import,
    .forget = shm_forget,
    .evict = shm_evict,
    .ep_open = shm_ep_open,
    .ep_abort = shm_ep_abort,
    .ep_close = shm_ep_close,
    .post = shm_post,
    .poll = shm_poll,
    .arm = shm_arm,
};
