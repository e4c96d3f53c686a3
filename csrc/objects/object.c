#include "object.h"

#include "../base/random.h"
#include "sure.h"

static const char *const names[] = {DSM_TYPE_NAMES};

const char *dsm_type_name(int type)
{
    return type > 0 && (size_t)type < sizeof names / sizeof *names ? names[type] : "unknown";
}

int object_format(void *memory, enum dsm_type type, uint64_t nbytes)
{
    struct object_header h = {.magic = OBJECT_MAGIC, .version = OBJECT_VERSION, .type = type, .nbytes = nbytes};
    const struct object_header *given = memory;
    h.made = given->made;
    h.creator = given->creator;
    while (!h.id)
        if (random_bytes(&h.id, sizeof h.id))
            return -DSM_ESYS;
    *(struct object_header *)memory = h;
    return 0;
}

static int object_header(dsm_remote *r, struct object_header *h)
{
    if (dsm_remote_nbytes(r) < sizeof *h)
        return err_set(DSM_ECORRUPT, 0, "%llu bytes are too few for an object",
                       (unsigned long long)dsm_remote_nbytes(r));
    int rc = sure_read(r, 0, h, sizeof *h);
    if (rc)
        return rc;
    if (h->magic != OBJECT_MAGIC)
        return err_set(DSM_ECORRUPT, 0, "no object begins here");
    if (h->version != OBJECT_VERSION)
        return err_set(DSM_EVERSION, 0, "the object has layout %u, this release makes and reads %d", h->version,
                       OBJECT_VERSION);
    if (!h->type || h->type >= sizeof names / sizeof *names)
        return err_set(DSM_EVERSION, 0, "the object is of type %u, which this release does not know", h->type);
    if (h->nbytes > dsm_remote_nbytes(r) || h->nbytes < sizeof *h || !h->id)
        return err_set(DSM_ECORRUPT, 0, "the header says %llu bytes, there are %llu", (unsigned long long)h->nbytes,
                       (unsigned long long)dsm_remote_nbytes(r));
    return 0;
}

int object_check(dsm_remote *r, enum dsm_type type, struct object_header *out)
{
    int rc = object_header(r, out);
    if (!rc && out->type != type)
        return err_set(DSM_EMISMATCH, 0, "a %s is wanted, this is a %s", dsm_type_name((int)type),
                       dsm_type_name((int)out->type));
    return rc;
}

int dsm_object_type(dsm_remote *r)
{
    struct object_header h;
    int rc = object_header(r, &h);
    return rc ? rc : (int)h.type;
}
