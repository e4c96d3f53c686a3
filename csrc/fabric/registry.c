/* Looking up a fabric by its name. */
#include "fabric.h"

#include <string.h>

static const struct fabric *const fabrics[] = {&shm_fabric, &verbs_fabric};

const struct fabric *fabric_find(const char *name)
{
    for (size_t i = 0; i < sizeof fabrics / sizeof *fabrics; i++)
        if (name && !strcmp(fabrics[i]->name, name))
            return fabrics[i];
    err_set(DSM_EINVAL, 0, "no fabric is called '%.40s'; there are shm and verbs", name ? name : "");
    return NULL;
}

int fabric_open(const dsm_options *o, dsm_stats *stats, struct fabric_dev **out)
{
    const struct fabric *f = fabric_find(o->fabric);
    if (!f)
        return -DSM_EINVAL;
    int rc = f->open(o, stats, out);
    if (rc || !o->fault)
        return rc;
    return fault_wrap(o->fault, *out, out);
}
