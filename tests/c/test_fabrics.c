/* Contexts with two fabrics, shm and verbs on a device within this process: which regions each serves, by which way a
 * remote is reached, and what the options of a fabric may be. */
/* wraps: realloc */
#ifdef DSM_HAVE_VERBS
#include "base/crc32.h"
#include "base/wire.h"
#include "check.h"
#include "context.h"
#include "core/core.h"
#include "fabric/fabric.h"
#include "fabric/nosys.h"
#include "fake_device.h"
#include "files.h"

#include <stdio.h>

static dsm_ctx *open_fabrics(const char *fabrics) { return open_with(options_of(fabrics)); }

static int refuses(const char *fabrics)
{
    dsm_ctx *c;
    dsm_options o = options_of(fabrics);
    return dsm_open(&o, &c);
}

static size_t describe(dsm_region *r, uint8_t raw[DSM_DESC_MAX], dsm_descriptor *d)
{
    size_t n = (size_t)dsm_region_descriptor(r, raw);
    CHECK(!dsm_descriptor_parse(raw, n, d));
    return n;
}

/* The way by which a context with these fabrics reaches the region, and that it works. */
static void reaches(const char *fabrics, dsm_region *r, const char *way)
{
    uint8_t raw[DSM_DESC_MAX];
    dsm_descriptor d;
    dsm_ctx *user = open_fabrics(fabrics);
    dsm_remote *remote;
    uint64_t word = 0;
    CHECK(!dsm_attach(user, raw, describe(r, raw, &d), -1, &remote));
    CHECK(!strcmp(dsm_remote_fabric(remote), way));
    CHECK(!dsm_read(remote, 8, &word, 8, -1) && word == ((uint64_t *)dsm_region_data(r))[1]);
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
}

static void attaches(dsm_ctx *user, uint8_t raw[DSM_DESC_MAX], size_t n, const char *bulk)
{
    dsm_remote *remote;
    static uint8_t out[DSM_BULK];
    put_u32(raw + n - 4, crc32(raw, n - 4));
    CHECK(!dsm_attach(user, raw, n, -1, &remote) && !strcmp(dsm_remote_fabric(remote), "verbs"));
    CHECK(!strcmp(dsm_remote_bulk_fabric(remote), bulk) && !dsm_read(remote, 0, out, sizeof out, -1));
    CHECK(!dsm_remote_close(remote));
}

/* A way for bulk that can't be gone, or is of a later release, is left out; by itself it is no way. */
static void bulk_ways(dsm_region *words)
{
    uint8_t raw[DSM_DESC_MAX];
    dsm_descriptor d;
    dsm_remote *remote;
    dsm_ctx *user = open_fabrics("shm,verbs"), *local = open_fabrics("shm");
    size_t n = describe(words, raw, &d), first = 48, second = 50 + strlen(d.ways[0].address);
    CHECK(raw[first] == FABRIC_VERBS && raw[second] == (0x80 | FABRIC_SHM));
    attaches(user, raw, n, "shm");
    CHECK(dsm_attach(local, raw, n, -1, &remote) == -DSM_EINVAL && strstr(dsm_last_error()->detail, "verbs"));
    raw[n - 5] ^= 1; /* no process is there */
    attaches(user, raw, n, "verbs");
    raw[second] = 0x80 | 100;
    attaches(user, raw, n, "verbs");
    raw[first] = 0x80 | FABRIC_VERBS;
    put_u32(raw + n - 4, crc32(raw, n - 4));
    CHECK(dsm_descriptor_parse(raw, n, &d) == -DSM_EDESC);
    raw[second] = FABRIC_SHM;
    put_u32(raw + n - 4, crc32(raw, n - 4));
    CHECK(dsm_descriptor_parse(raw, n, &d) == -DSM_EDESC);
    dsm_close(local);
    dsm_close(user);
}

static void ways(void)
{
    dsm_ctx *owner = open_fabrics("shm,verbs");
    dsm_region *plain, *words, *mine;
    dsm_descriptor d;
    uint8_t raw[DSM_DESC_MAX];
    static uint64_t buffer[512] = {1, 2};
    CHECK(!dsm_alloc(owner, 4096, DSM_READ, &plain));
    ((uint64_t *)dsm_region_data(plain))[1] = 77;
    describe(plain, raw, &d);
    CHECK(d.nways == 2 && d.ways[0].fabric == FABRIC_SHM && d.ways[1].fabric == FABRIC_VERBS);
    CHECK(!strncmp(d.ways[0].address, "unix:@", 6) && !strncmp(d.ways[1].address, "tcp:127.0.0.1:", 14));
    reaches("shm", plain, "shm");
    reaches("verbs", plain, "verbs");
    reaches("shm,verbs", plain, "shm");
    reaches("verbs,shm", plain, "verbs");

    /* Atomics of the device and of the CPUs do not exclude each other. */
    CHECK(!dsm_alloc(owner, DSM_BULK, DSM_READ | DSM_ATOMIC, &words));
    describe(words, raw, &d);
    CHECK(d.nways == 1 && d.ways[0].fabric == FABRIC_VERBS && d.nbulk == 1 && d.ways[1].fabric == FABRIC_SHM);
    reaches("shm,verbs", words, "verbs");
    reaches("verbs", words, "verbs");
    bulk_ways(words);

    /* shm can't share memory that is already there. */
    CHECK(!dsm_register(owner, buffer, sizeof buffer, DSM_READ, &mine));
    describe(mine, raw, &d);
    CHECK(d.nways == 1 && d.ways[0].fabric == FABRIC_VERBS);
    reaches("shm,verbs", mine, "verbs");

    CHECK(!dsm_region_close(mine) && !dsm_region_close(words) && !dsm_region_close(plain));
    dsm_close(owner);
}

/* An owner that is not on this host: no process listens at its Unix address. And fabrics of a later release. */
static void passed_over(void)
{
    dsm_ctx *owner = open_fabrics("shm,verbs"), *user = open_fabrics("shm,verbs"), *local = open_fabrics("shm");
    dsm_region *r;
    dsm_remote *remote;
    dsm_descriptor d;
    uint8_t raw[DSM_DESC_MAX];
    CHECK(!dsm_alloc(owner, 4096, DSM_READ, &r));
    size_t n = describe(r, raw, &d);
    raw[50 + strlen(d.ways[0].address) - 1] ^= 1;
    put_u32(raw + n - 4, crc32(raw, n - 4));
    CHECK(!dsm_attach(user, raw, n, -1, &remote) && !strcmp(dsm_remote_fabric(remote), "verbs"));
    CHECK(!dsm_remote_close(remote));
    CHECK(dsm_attach(local, raw, n, -1, &remote) == -DSM_EPEER);

    raw[48] = 100;
    put_u32(raw + n - 4, crc32(raw, n - 4));
    CHECK(!dsm_attach(user, raw, n, -1, &remote) && !strcmp(dsm_remote_fabric(remote), "verbs"));
    CHECK(!dsm_remote_close(remote));
    CHECK(dsm_attach(local, raw, n, -1, &remote) == -DSM_EINVAL);
    CHECK(strstr(dsm_last_error()->detail, "a later release"));

    /* Another process at the address on this host, which has another secret. */
    dsm_options o = options_of("shm");
    dsm_ctx *other;
    o.secret = "a secret that no other process knows";
    o.secret_len = strlen(o.secret);
    CHECK(!dsm_open(&o, &other) && dsm_region_descriptor(r, raw) == (int)n);
    CHECK(strlen(dsm_agent_address(other, 0)) == strlen(d.ways[0].address));
    memcpy(raw + 50, dsm_agent_address(other, 0), strlen(d.ways[0].address));
    put_u32(raw + n - 4, crc32(raw, n - 4));
    CHECK(!dsm_attach(user, raw, n, -1, &remote) && !strcmp(dsm_remote_fabric(remote), "verbs"));
    CHECK(!dsm_remote_close(remote) && dsm_attach(local, raw, n, -1, &remote) == -DSM_ESTALE);
    dsm_close(other);

    /* Gone, not elsewhere: what the owner's agent says is the answer. */
    CHECK(dsm_region_descriptor(r, raw) == (int)n && !dsm_region_close(r));
    CHECK(dsm_attach(user, raw, n, -1, &remote) == -DSM_ESTALE);
    dsm_close(local);
    dsm_close(user);
    dsm_close(owner);
}

/* The last way that the user has is the one where no process listens. */
static void no_way_left(void)
{
    dsm_ctx *owner = open_fabrics("shm"), *user = open_fabrics("verbs,shm");
    dsm_region *r;
    dsm_remote *remote;
    dsm_descriptor d;
    uint8_t raw[DSM_DESC_MAX];
    CHECK(!dsm_alloc(owner, 4096, DSM_READ, &r));
    size_t n = describe(r, raw, &d);
    CHECK(!dsm_attach(user, raw, n, -1, &remote) && !dsm_remote_close(remote) && !dsm_region_close(r));
    dsm_close(owner);
    CHECK(dsm_attach(user, raw, n, -1, &remote) == -DSM_EPEER);
    dsm_close(user);
}

static int lines_with(const char *what)
{
    char line[4096];
    int n = 0;
    FILE *f = fopen("/proc/self/maps", "re");
    CHECK(f);
    while (fgets(line, sizeof line, f))
        n += strstr(line, what) != NULL;
    fclose(f);
    return n;
}

/* The second device refuses regions that the first has registered: nothing of them stays. */
static void refused_by_the_second(void)
{
    dsm_ctx *owner = open_fabrics("shm,verbs");
    dsm_region *r;
    int files = open_files(), mappings = lines_with("memfd:");
    fake.full = true;
    for (int i = 0; i < 3; i++)
        CHECK(dsm_alloc(owner, 4096, DSM_READ, &r) == -DSM_ENOMEM);
    fake.full = false;
    CHECK(open_files() == files && lines_with("memfd:") == mappings && !fake.regs && !owner->live_regions);
    CHECK(!dsm_alloc(owner, 4096, DSM_READ, &r));
    reaches("shm,verbs", r, "shm");
    reaches("verbs", r, "verbs");
    CHECK(!dsm_region_close(r));
    while (open_files() != files) /* the agent has yet to notice that the users have left */
        usleep(1000);
    CHECK(lines_with("memfd:") == mappings && !fake.regs && !owner->live_regions);
    dsm_close(owner);
}

/* A node that has been cut off on one fabric, and can't be cut off on the other. */
static void fenced(void)
{
    dsm_ctx *owner = open_fabrics("shm,verbs"), *user = open_fabrics("verbs");
    dsm_region *r;
    dsm_remote *remote;
    dsm_descriptor d;
    uint8_t raw[DSM_DESC_MAX], node[DSM_NODE_ID];
    uint64_t word;
    CHECK(!dsm_alloc(owner, 4096, DSM_READ | DSM_ATOMIC, &r));
    CHECK(!dsm_attach(user, raw, describe(r, raw, &d), -1, &remote) && !dsm_read(remote, 0, &word, 8, -1));
    dsm_node_id(user, node);
    CHECK(dsm_fence(owner, node) == -DSM_EUNSUPPORTED);
    CHECK(dsm_read(remote, 0, &word, 8, 1000000000) < 0);
    CHECK(!dsm_remote_close(remote) && !dsm_region_close(r));
    dsm_close(user);
    dsm_close(owner);
}

static uint32_t no_memory; /* for any thread, the agents' among them */

void *__real_realloc(void *before, size_t n);
void *__wrap_realloc(void *before, size_t n);
void *__wrap_realloc(void *before, size_t n) { return load_relaxed_u32(&no_memory) ? NULL : __real_realloc(before, n); }

static unsigned evictions;

static int counted_evict(struct fabric_dev *d, const uint8_t node[DSM_NODE_ID])
{
    evictions++;
    return d->fabric->wire_id == FABRIC_SHM ? shm_fabric.evict(d, node) : verbs_fabric.evict(d, node);
}

/* Each fabric is asked to cut the node off, whenever it is fenced, also if the agent has no memory to note it. A fabric
 * that does not know promises nothing. */
static void fenced_again_and_again(void)
{
    static const struct fabric unknown = {FABRIC_NOSYS};
    static struct fabric counting[2];
    dsm_ctx *owner = open_fabrics("shm,verbs"), *alone = open_fabrics("verbs");
    const uint8_t node[DSM_NODE_ID] = {1};
    for (int i = 0; i < 2; i++) {
        counting[i] = *owner->devs[i]->fabric;
        counting[i].evict = counted_evict;
        owner->devs[i]->fabric = &counting[i];
    }
    store_relaxed_u32(&no_memory, 1);
    CHECK(dsm_fence(owner, node) == -DSM_ENOMEM && evictions == 2);
    store_relaxed_u32(&no_memory, 0);
    CHECK(dsm_fence(owner, node) == -DSM_EUNSUPPORTED && evictions == 4);
    CHECK(dsm_fence(owner, node) == -DSM_EUNSUPPORTED && evictions == 6);
    CHECK(!dsm_fence(alone, node) && !dsm_fence(alone, node));
    CHECK(unknown.evict(NULL, node) == -DSM_EUNSUPPORTED);
    dsm_close(alone);
    dsm_close(owner);
}

static void options(void)
{
    static const char *const bad[] = {
        "",
        "udp",
        "shm,",
        ",shm",
        "shm,shm",
        "verbs?device=good0,shm,verbs",
        "shm?device=x",
        "verbs?sl=16",
        "verbs?sl=-1",
        "verbs?sl=1x",
        "verbs?sl=1&sl=1",
        "verbs?sl",
        "verbs?port=256",
        "verbs?traffic_class=256",
        "verbs?gid=99999999999",
        "verbs?device",
        "verbs?colour=red",
        "verbs?mtu=1000",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(refuses(bad[i]) == -DSM_EINVAL);
    CHECK(refuses("shm,verbs?device=none0") == -DSM_ENODEV); /* the first is closed again */
    dsm_close(open_fabrics("verbs?device=good0&port=1&gid=-1&mtu=&sl=3&traffic_class=0&depth=64"));
    CHECK(!strcmp(dsm_fabric_name(1), "shm") && !strcmp(dsm_fabric_name(2), "verbs") &&
          !strcmp(dsm_fabric_name(3), "tcp"));
    CHECK(!dsm_fabric_name(4) && !dsm_fabric_option(1, 0) && !strcmp(dsm_fabric_option(2, 1), "port"));
}

int main(void)
{
    if (!fake_install()) {
        puts("ok: no libibverbs");
        return 0;
    }
    ways();
    passed_over();
    no_way_left();
    refused_by_the_second();
    fenced();
    fenced_again_and_again();
    options();
    CHECK(!fake.regs && !fake.queue_pairs);
    puts("ok");
    return 0;
}
#else
#include "without_verbs.h"
#endif
