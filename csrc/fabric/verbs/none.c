/* Replaces all other files of this folder in a build without the headers of libibverbs. */
#ifndef DSM_HAVE_VERBS
#include "../nosys.h"
#include "keys.h"

static int probe(void)
{
    return err_set(DSM_ENOFABRIC, 0, "built without verbs headers: apt install libibverbs-dev and reinstall");
}

static int inventory(char *buf, size_t len)
{
    (void)buf, (void)len;
    return probe();
}

static int open_device(const struct fabric_options *o, dsm_stats *stats, struct fabric_dev **out)
{
    (void)o, (void)stats, (void)out;
    return probe();
}

const struct fabric verbs_fabric = {
    FABRIC_NOSYS,   .name = "verbs",        .wire_id = FABRIC_VERBS, .keys = verbs_keys,
    .probe = probe, .inventory = inventory, .open = open_device,
};
#endif
