#include "shm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

static int shm_open_device(const dsm_options *o, dsm_stats *stats, struct fabric_dev **out)
{
    if (o->device && *o->device)
        return err_set(DSM_EINVAL, 0, "shm has no devices, '%.40s' was asked for", o->device);
    struct fabric_dev *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(DSM_ENOMEM, 0, "shm device");
    *d = (struct fabric_dev){.fabric = &shm_fabric,
                             .wire_id = FABRIC_SHM,
                             .connected = false,
                             .local_agent = true,
                             .stats = stats,
                             .prepare = UINT64_MAX,
                             .fd = -1};
    *out = d;
    return 0;
}

static void shm_close_device(struct fabric_dev *d) { free(d); }

static void shm_caps(struct fabric_dev *d, dsm_caps *out)
{
    (void)d;
    *out = (dsm_caps){
        .local_memory = 1, .max_region = (uint64_t)INT64_MAX - SHM_STATUS_PAGE, .gid_index = -1, .max_inline = 8};
    strcpy(out->fabric, "shm");
}

const struct fabric shm_fabric = {
    FABRIC_NOSYS,
    .name = "shm",
    .probe = shm_probe,
    .inventory = shm_inventory,
    .open = shm_open_device,
    .close = shm_close_device,
    .caps = shm_caps,
    .mem_alloc = shm_mem_alloc,
    .mem_register = shm_mem_register,
    .mem_free = shm_mem_free,
    .mem_export = shm_mem_export,
    .mem_import = shm_mem_import,
    .mem_forget = shm_mem_forget,
    .ep_open = shm_ep_open,
    .ep_abort = shm_ep_abort,
    .ep_close = shm_ep_close,
    .post = shm_post,
    .poll = shm_poll,
    .arm = shm_arm,
};
