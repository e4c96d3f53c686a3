/*
 * The plan: which devices there are, and how they behave.
 *
 *   dir=PATH      folder in which the processes of one network meet
 *   seed=N        of all that is random (1)           host=N      hosts differ in LIDs and GIDs (1)
 *   devices=N     model0 … (1)                        ports=N     of each (1)
 *   iwarp=1       a device "iwarp0" stands before them
 *   link=ib|roce  (ib). roce has GIDs of both types: even indices are RoCE v1, odd ones v2
 *   grh=1         an InfiniBand port demands global headers
 *   gids=N        entries of the GID table (4)        pkey=N      partition key (0xffff)
 *   mtu=N         bytes (4096)                        message=N   bytes of the longest message (1 GiB)
 *   reads=N       READs and ATOMICs outstanding as requester (16)    serves=N   as responder (16)
 *   depth=N       of a send queue (1024)              inline=N    bytes that a queue pair grants (256)
 *   sge=N         entries of a request (4)            regs=N      registrations of one process (65536)
 *   atomics=none|nic|global (nic)
 * Habits:
 *   scatter=N     the bytes of a message are placed, and read, in pieces of N bytes (a power of 2 of at least 8) in
 *                 random order
 *   tear=1        so are those of a READ of at most 256 bytes in pieces of one byte, as SoftRoCE may
 *   pause=US      between pieces the device does other things, up to so long
 *   late=US       an acknowledged WRITE becomes visible so much later, unless an op behind it needs it
 *   overtake=1    WRITEs and ATOMICs behind a READ are executed while it is read
 *   window=US     time between the load and the store of an ATOMIC; a CPU's store in between is lost
 *   lose=N        one packet of N is lost, at random
 *   restart=1     a READ that is sent again starts with its first byte
 *   keys=1        the key of a registration that has ended is given again to the next one of its length
 * Faults, which modeldev_plan() may switch while a device is used:
 *   stall=1       nothing is executed                 hang=1      nor flushed
 *   cut=1         no packet leaves                    full=1      registering fails with ENOMEM
 *   pin=MS        registering takes so long
 *   down=MASK     no packet leaves the devices whose bits are set (1: model0)
 *   noroute=MASK  those have no route, either: a request that is to be sent fails, as on SoftRoCE whose link is down
 *   stuck=1       queue pairs can be neither moved to the error state nor destroyed
 *   fatal=N, unplug=N   with the N-th request from now on the device of that request dies, or is pulled out
 */
#include "model.h"

#include <stddef.h>
#include <time.h>

struct item {
    const char *name;
    size_t offset;
    int64_t least, most, normal;
    const char *words[4];
};
#define ITEM(name, field, least, most, normal, ...) \
    { \
        name, offsetof(struct plan, field), least, most, normal, { __VA_ARGS__ } \
    }
static const struct item items[] = {
    ITEM("seed", seed, 0, INT64_MAX, 1, NULL),
    ITEM("host", host, 1, 200, 1, NULL),
    ITEM("devices", devices, 0, MAX_DEVICES, 1, NULL),
    ITEM("ports", ports, 1, MAX_PORTS, 1, NULL),
    ITEM("iwarp", iwarp, 0, 1, 0, NULL),
    ITEM("link", link, 0, 1, LINK_IB, "ib", "roce"),
    ITEM("grh", grh, 0, 1, 0, NULL),
    ITEM("gids", gids, 0, MAX_GIDS, 4, NULL),
    ITEM("pkey", pkey, 1, 0xffff, 0xffff, NULL),
    ITEM("mtu", mtu, 256, MTU_MAX, MTU_MAX, NULL),
    ITEM("message", message, 8, 1 << 30, 1 << 30, NULL),
    ITEM("reads", reads, 1, 255, 16, NULL),
    ITEM("serves", serves, 1, 255, 16, NULL),
    ITEM("depth", depth, 1, 32768, 1024, NULL),
    ITEM("inline", inlined, 0, MAX_INLINE, 256, NULL),
    ITEM("sge", sges, 1, MAX_SGE, MAX_SGE, NULL),
    ITEM("regs", regs, 1, 1 << 20, 65536, NULL),
    ITEM("atomics", atomics, 0, 2, ATOMICS_NIC, "none", "nic", "global"),
    ITEM("scatter", scatter, 0, MTU_MAX, 0, NULL),
    ITEM("tear", tear, 0, 1, 0, NULL),
    ITEM("pause", pause, 0, 1000000, 0, NULL),
    ITEM("late", late, 0, 1000000, 0, NULL),
    ITEM("overtake", overtake, 0, 1, 0, NULL),
    ITEM("window", window, 0, 1000000, 0, NULL),
    ITEM("lose", lose, 0, INT32_MAX, 0, NULL),
    ITEM("restart", restart, 0, 1, 0, NULL),
    ITEM("keys", keys, 0, 1, 0, NULL),
    ITEM("stall", stall, 0, 1, 0, NULL),
    ITEM("hang", hang, 0, 1, 0, NULL),
    ITEM("cut", cut, 0, 1, 0, NULL),
    ITEM("down", down, 0, (1 << MAX_DEVICES) - 1, 0, NULL),
    ITEM("noroute", noroute, 0, (1 << MAX_DEVICES) - 1, 0, NULL),
    ITEM("full", full, 0, 1, 0, NULL),
    ITEM("pin", pin, 0, 60000, 0, NULL),
    ITEM("stuck", stuck, 0, 1, 0, NULL),
    ITEM("fatal", fatal, 0, INT64_MAX, 0, NULL),
    ITEM("unplug", unplug, 0, INT64_MAX, 0, NULL),
};
enum { ITEMS = sizeof items / sizeof *items };

static int64_t *value_of(struct plan *p, const struct item *i) { return (int64_t *)(void *)((char *)p + i->offset); }

static bool read_value(const struct item *i, const char *text, int64_t *out)
{
    char *end;
    for (int k = 0; k < 4 && i->words[k]; k++)
        if (!strcmp(text, i->words[k])) {
            *out = k;
            return true;
        }
    errno = 0;
    *out = strtoll(text, &end, 0);
    return *text && !*end && !errno && !i->words[0] && *out >= i->least && *out <= i->most;
}

static bool read_item(struct plan *p, char *text)
{
    char *value = strchr(text, '=');
    if (!value)
        return false;
    *value++ = 0;
    if (!strcmp(text, "dir")) {
        bool fits = strlen(value) < sizeof p->dir;
        snprintf(p->dir, sizeof p->dir, "%s", value);
        return fits;
    }
    for (size_t i = 0; i < ITEMS; i++)
        if (!strcmp(text, items[i].name))
            return read_value(&items[i], value, value_of(p, &items[i]));
    return false;
}

static bool read_plan(struct plan *p, const char *text)
{
    char copy[1024], *rest = copy, *item;
    if (strlen(text) >= sizeof copy)
        return false;
    strcpy(copy, text);
    while ((item = strsep(&rest, "&")))
        if (*item && !read_item(p, item))
            return false;
    return !(p->mtu & (p->mtu - 1)) && !(p->scatter & (p->scatter - 1)) && (!p->scatter || p->scatter >= 8);
}

void plan_load(void)
{
    const char *text = getenv("MODELDEV");
    for (size_t i = 0; i < ITEMS; i++)
        *value_of(&nic.plan, &items[i]) = items[i].normal;
    if (!read_plan(&nic.plan, text ? text : "") || !*nic.plan.dir)
        MODEL_FAIL("MODELDEV is '%s'", text ? text : "");
    nic.random = (uint64_t)nic.plan.seed * 0x9e3779b97f4a7c15u + 1;
}

/* Changes items of the plan. Those that stay are not written: many are read without the lock. Returns 0 or EINVAL. */
int modeldev_plan(const char *text)
{
    pthread_mutex_lock(&nic.lock);
    struct plan p = nic.plan;
    bool good = read_plan(&p, text);
    for (size_t i = 0; good && i < ITEMS; i++)
        if (*value_of(&nic.plan, &items[i]) != *value_of(&p, &items[i]))
            *value_of(&nic.plan, &items[i]) = *value_of(&p, &items[i]);
    if (good)
        nic.executed = 0;
    engine_wake();
    pthread_mutex_unlock(&nic.lock);
    return good ? 0 : EINVAL;
}

/* What a test asks for: "qps", "regs", "torn", "dropped", "overruns", "answers". */
uint64_t modeldev_count(const char *what)
{
    uint64_t n = 0;
    pthread_mutex_lock(&nic.lock);
    for (struct qp *q = nic.qps; q && !strcmp(what, "qps"); q = q->next)
        n++;
    n += !strcmp(what, "regs") ? nic.mrs_count : !strcmp(what, "torn") ? nic.torn : 0;
    n += !strcmp(what, "dropped") ? nic.dropped : !strcmp(what, "overruns") ? nic.overruns : 0;
    n += !strcmp(what, "answers") ? nic.answers : 0;
    pthread_mutex_unlock(&nic.lock);
    return n;
}

uint64_t random_below(uint64_t n)
{
    nic.random ^= nic.random << 13;
    nic.random ^= nic.random >> 7;
    nic.random ^= nic.random << 17;
    return n ? nic.random % n : 0;
}

int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}
