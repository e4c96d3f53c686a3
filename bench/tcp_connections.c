/*
 * Many connections of one program to one owner over tcp: each is a context of its own, with one op under way.
 *
 * Usage: tcp_connections DESCRIPTOR N, the secret in $DSMEM_SECRET. Answers each line "OPS" on standard input with the
 * seconds that OPS reads of 8 bytes took, and the 50th and 99th percentile of their times in µs. A line "idle" is
 * answered with nothing but its end: all connections are there. "fence": the seconds that an owner of its own takes to
 * evict the first of its contexts, which reads 64 pieces of 4 KiB at a time.
 */
#include "base/deadline.h"
#include "dsm.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 1024, TIMES = 1 << 20, PIECES = 64, PIECE = 4096 };
#define LIMIT_NS 30000000000ll

static struct {
    dsm_ctx *ctx;
    dsm_remote *remote;
    dsm_op op;
    dsm_ticket *ticket;
    uint64_t word;
    int64_t begun;
} of[MOST];
static int64_t times[TIMES];

static void must(int rc, const char *what)
{
    if (!rc)
        return;
    fprintf(stderr, "%s: %s\n", what, dsm_last_error()->detail);
    exit(1);
}

static dsm_ctx *open_one(void)
{
    dsm_ctx *c;
    dsm_options o;
    dsm_options_init(&o);
    o.fabric = "tcp";
    o.listen = "127.0.0.1";
    o.secret = getenv("DSMEM_SECRET");
    o.secret_len = strlen(o.secret);
    must(dsm_open(&o, &c), "open");
    return c;
}

static void connect_all(const char *hex, int n)
{
    uint8_t descriptor[4096];
    size_t len = strlen(hex) / 2;
    for (size_t i = 0; i < len; i++)
        if (sscanf(hex + 2 * i, "%2hhx", &descriptor[i]) != 1)
            exit(1);
    for (int i = 0; i < n; i++) {
        of[i].ctx = open_one();
        must(dsm_attach(of[i].ctx, descriptor, len, LIMIT_NS, &of[i].remote), "attach");
        of[i].op = (dsm_op){.code = DSM_OP_READ, .remote = of[i].remote, .local = &of[i].word, .nbytes = 8};
    }
}

static void start(int i)
{
    of[i].begun = clock_ns();
    must(dsm_submit(of[i].ctx, &of[i].op, 1, &of[i].ticket, NULL), "submit");
}

static void finish(int i, int done)
{
    must(dsm_finish(of[i].ticket, LIMIT_NS, NULL), "finish");
    if (done < TIMES)
        times[done] = clock_ns() - of[i].begun;
}

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void measure(int n, int ops)
{
    int64_t from = clock_ns();
    int kept = ops < TIMES ? ops : TIMES;
    for (int i = 0; i < n && i < ops; i++)
        start(i);
    for (int done = 0; done < ops; done++) {
        finish(done % n, done);
        if (done + n < ops)
            start(done % n);
    }
    int64_t took = clock_ns() - from;
    qsort(times, (size_t)kept, sizeof *times, ascending);
    printf("%.9f %.3f %.3f\n", (double)took * 1e-9, (double)times[kept / 2] * 1e-3,
           (double)times[(int64_t)kept * 99 / 100] * 1e-3);
}

/* ---- evicting a peer that is in the midst of reads ---- */

static uint64_t batches;

static void *read_on(void *remote)
{
    static uint8_t out[PIECES * PIECE];
    uint64_t offsets[PIECES];
    for (int i = 0; i < PIECES; i++)
        offsets[i] = (uint64_t)i * PIECE;
    while (!dsm_read_many(remote, offsets, PIECES, out, PIECE, LIMIT_NS))
        __atomic_fetch_add(&batches, 1, __ATOMIC_RELAXED);
    return NULL;
}

static void fence(void)
{
    dsm_ctx *owner = open_one(), *peer = open_one();
    dsm_region *region;
    dsm_remote *remote;
    pthread_t reader;
    uint8_t node[DSM_NODE_ID], descriptor[DSM_DESC_MAX];
    must(dsm_alloc(owner, PIECES * PIECE, DSM_READ, &region), "alloc");
    size_t len = (size_t)dsm_region_descriptor(region, descriptor);
    must(dsm_attach(peer, descriptor, len, LIMIT_NS, &remote), "attach");
    dsm_node_id(peer, node);
    __atomic_store_n(&batches, 0, __ATOMIC_RELAXED);
    if (pthread_create(&reader, NULL, read_on, remote))
        exit(1);
    while (__atomic_load_n(&batches, __ATOMIC_RELAXED) < 10)
        ;
    int64_t from = clock_ns();
    must(dsm_fence(owner, node), "fence");
    printf("%.9f\n", (double)(clock_ns() - from) * 1e-9);
    pthread_join(reader, NULL);
    must(dsm_remote_close(remote), "close");
    dsm_close(peer);
    must(dsm_region_close(region), "close");
    dsm_close(owner);
}

int main(int argc, char **argv)
{
    char line[64];
    int n = argc == 3 ? atoi(argv[2]) : 0;
    if (n < 1 || n > MOST)
        return 2;
    connect_all(argv[1], n);
    while (fgets(line, sizeof line, stdin)) {
        if (!strncmp(line, "idle", 4))
            puts("");
        else if (!strncmp(line, "fence", 5))
            fence();
        else
            measure(n, atoi(line));
        fflush(stdout);
    }
    return 0;
}
