/* The fabrics by name, and opening those that a context names. */
#include "fabric.h"

#include <stdio.h>
#include <string.h>

#define FABRIC(NAME, table, number) &(table),
static const struct fabric *const fabrics[] = {
#include "fabrics.def"
};
#undef FABRIC
enum { FABRICS = sizeof fabrics / sizeof *fabrics };

static const struct fabric *find(const char *name, size_t len)
{
    char known[80] = "";
    for (size_t i = 0, used = 0; i < FABRICS; i++) {
        if (strlen(fabrics[i]->name) == len && !memcmp(fabrics[i]->name, name, len))
            return fabrics[i];
        if (used < sizeof known)
            used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", fabrics[i]->name);
    }
    err_set(DSM_EINVAL, 0, "there is no fabric '%.*s'; there are %s", (int)(len < 40 ? len : 40), name, known);
    return NULL;
}

const struct fabric *fabric_find(const char *name) { return find(name ? name : "", name ? strlen(name) : 0); }

static const struct fabric *numbered(uint32_t number)
{
    for (size_t i = 0; i < FABRICS; i++)
        if (fabrics[i]->wire_id == number)
            return fabrics[i];
    return NULL;
}

const char *dsm_fabric_name(uint32_t number)
{
    const struct fabric *f = numbered(number);
    return f ? f->name : NULL;
}

const char *dsm_fabric_option(uint32_t number, size_t i)
{
    const struct fabric *f = numbered(number);
    for (const struct fabric_key *key = f ? f->keys : nosys_keys; key->name; key++)
        if (!i--)
            return key->name;
    return NULL;
}

/* Splits NAME or NAME?OPTIONS, and checks both. */
static int parse(const char *spec, const struct fabric **out, const char **options)
{
    const char *text = strchr(spec, '?');
    *out = find(spec, strcspn(spec, "?"));
    *options = text ? text + 1 : "";
    return *out ? options_check(*options, (*out)->name, (*out)->keys) : -DSM_EINVAL;
}

int dsm_fabric_check(const char *spec)
{
    const struct fabric *f;
    const char *options;
    return parse(spec, &f, &options);
}

/* How often the list names the fabric. */
static int times_named(const char *list, const struct fabric *f)
{
    size_t len = strlen(f->name);
    int n = 0;
    for (const char *at = list; *at; at += strcspn(at, ","), at += *at == ',')
        n += strcspn(at, "?,") == len && !strncmp(at, f->name, len);
    return n;
}

/* Opens the fabric that 'spec' describes: NAME or NAME?OPTIONS. With several paths one is given up after half the peer
 * timeout, so that ops can go on by another before they are late. */
static int open_one(const char *spec, const dsm_options *o, dsm_stats *stats, struct fabric_dev **out)
{
    const struct fabric *f;
    struct fabric_options options = {.peer_timeout_ns = o->peer_timeout_ns};
    struct fabric_dev *d;
    int rc = parse(spec, &f, &options.text);
    if (!rc && times_named(o->fabric, f) > 1)
        options.peer_timeout_ns = (o->peer_timeout_ns + 1) / 2;
    if (!rc)
        rc = f->open(&options, stats, &d);
    if (!rc && o->fault)
        rc = fault_wrap(o->fault, d, &d);
    *out = rc ? NULL : d;
    return rc;
}

/* Whether a context may have several devices of the fabric. */
static bool has_paths(const struct fabric *f) { return f->import_by != nosys_import_by; }

/* Numbers the last of n devices among those of its fabric. They have one domain of atomicity, or each its own: then the
 * first executes all atomics (core/region.c). */
static int number_last(struct fabric_dev *const *devs, size_t n)
{
    struct fabric_dev *last = devs[n - 1];
    for (size_t i = 0; i < n - 1; i++) {
        const struct fabric_dev *d = devs[i];
        if (d->wire_id != last->wire_id)
            continue;
        last->number++;
        if (!has_paths(numbered(d->wire_id)))
            return err_set(DSM_EINVAL, 0, "the fabric '%s' is named twice", d->caps.fabric);
        if (!strcmp(d->caps.device, last->caps.device) && d->caps.port == last->caps.port)
            return err_set(DSM_EINVAL, 0, "port %u of %s is named twice; a second path needs another port or device",
                           d->caps.port, d->caps.device);
        if (d->caps.atomic_domain != last->caps.atomic_domain)
            return err_set(DSM_EINVAL, 0, "atomics of %s and %s do not have the same domain", d->caps.device,
                           last->caps.device);
    }
    return 0;
}

int fabric_open(const dsm_options *o, dsm_stats *stats, struct fabric_dev *out[FABRIC_DEVICES_MAX])
{
    char spec[256];
    int n = 0, rc = 0;
    const char *at = o->fabric ? o->fabric : "";
    do {
        size_t len = strcspn(at, ",");
        if (n == FABRIC_DEVICES_MAX || len >= sizeof spec) {
            rc = err_set(DSM_EINVAL, 0, "too many fabrics, or too long a description of one: '%.80s'", o->fabric);
            break;
        }
        memcpy(spec, at, len);
        spec[len] = 0;
        rc = open_one(spec, o, stats, &out[n]);
        if (out[n])
            n++;
        if (!rc)
            rc = number_last(out, (size_t)n);
        at += len;
    } while (!rc && *at++);
    for (; rc && n; n--)
        out[n - 1]->fabric->close(out[n - 1]);
    return rc ? rc : n;
}
