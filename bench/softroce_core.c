/*
 * The C core as a contestant of bench/softroce.py, and the owner of the memory that the contestants use.
 *
 *   softroce_core DEVICE GID_INDEX SPIN_NS
 *
 * prints the descriptor of a region of its own, then obeys lines on its standard input and answers each with one line:
 *   attach HEX                    to a region of another one; answers 'attached'
 *   read|write|fetch_add N BYTES  N ops one after the other; answers the time of each in ns
 *   ping N | pong N               a write of 8 bytes to the other, which answers with one: both sides spin on their own
 *                                 memory, as ib_write_lat does. 'ping' answers half of each round trip, 'pong' the word
 *                                 'done'
 *   inbox                         a queue in memory of its own, from which it takes; answers its descriptor
 *   outbox HEX                    into the queue of another one; answers 'attached'
 *   queue_ping N | queue_pong N   the same with a message of 8 bytes through two queues; 'queue_ping' answers each
 *   round trip many read|write|fetch_add N BYTES  N batches of MANY ops; answers the time of each batch
 *   read_bw|write_bw N BYTES      N ops with up to 2 * MANY under way; answers the time of all
 * The secret is in $DSMEM_SECRET. A command that takes longer than LIMIT_S ends the program: a side whose other one is
 * gone does not spin forever.
 */
#include "base/atomic.h"
#include "base/deadline.h"
#include "dsm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MANY = 64, NBYTES = 16 << 20, TIMES_MAX = 1 << 20, LIMIT_S = 60 };

static dsm_ctx *ctx;
static dsm_region *region;
static dsm_remote *remote;
static dsm_queue *inbox, *outbox;
static int64_t stamp[TIMES_MAX + 1];
static double ns; /* per unit of the stamps */

/* The time stamp counter, as perftest reads it: under emulation clock_gettime costs as much as a part of an op. */
static int64_t now(void)
{
#ifdef __x86_64__
    return (int64_t)__builtin_ia32_rdtsc();
#else
    return clock_ns();
#endif
}

/* ns per unit of now() */
static double unit(void)
{
    int64_t from = now(), start = clock_ns(), end;
    while ((end = clock_ns()) - start < 50000000)
        ;
    return (double)(end - start) / (double)(now() - from);
}

static void must(int rc, const char *what)
{
    if (!rc)
        return;
    fprintf(stderr, "softroce_core: %s: %s; %s\n", what, dsm_strerror(rc), dsm_last_error()->detail);
    exit(1);
}

static void print_times(size_t n, double divide)
{
    for (size_t i = 0; i < n; i++)
        printf("%.0f%c", (double)(stamp[i + 1] - stamp[i]) * ns / divide, i + 1 < n ? ' ' : '\n');
}

static int code_of(const char *name)
{
    return !strcmp(name, "read") ? DSM_OP_READ : !strcmp(name, "write") ? DSM_OP_WRITE : DSM_OP_FETCH_ADD;
}

static dsm_remote *attach(const char *hex)
{
    uint8_t raw[DSM_DESC_MAX];
    size_t n = strlen(hex) / 2;
    unsigned byte;
    dsm_remote *made = NULL;
    for (size_t i = 0; i < n && i < sizeof raw && sscanf(hex + 2 * i, "%2x", &byte) == 1; i++)
        raw[i] = (uint8_t)byte;
    must(dsm_attach(ctx, raw, n, -1, &made), "attach");
    return made;
}

static void print_descriptor(dsm_region *of)
{
    uint8_t raw[DSM_DESC_MAX];
    int n = dsm_region_descriptor(of, raw);
    for (int i = 0; i < n; i++)
        printf("%02x", raw[i]);
    puts("");
}

static void single(const char *name, size_t n, uint64_t nbytes)
{
    uint8_t *local = dsm_region_data(region);
    int code = code_of(name), rc = 0;
    uint64_t old;
    stamp[0] = now();
    for (size_t i = 0; i < n && !rc; i++) {
        rc = code == DSM_OP_READ    ? dsm_read(remote, 64, local + 64, nbytes, -1)
             : code == DSM_OP_WRITE ? dsm_write(remote, 64, local + 64, nbytes, -1)
                                    : dsm_fetch_add(remote, 64, 1, &old, -1);
        stamp[i + 1] = now();
    }
    must(rc, name);
    print_times(n, 1);
}

/* Word 0 of each side's region is written by the other: ping writes i, pong waits for it and writes i. Like
 * ib_write_lat both post, wait for the completion, and then for the other's write. */
static void ping_pong(size_t n, int first)
{
    const uint64_t *mine = dsm_region_data(region);
    uint64_t value;
    stamp[0] = now();
    for (uint64_t i = 1; i <= n; i++) {
        while (!first && load_acquire_u64(mine) != i)
            ;
        value = i;
        must(dsm_write(remote, 0, &value, 8, -1), "write");
        while (first && load_acquire_u64(mine) != i)
            ;
        stamp[i] = now();
    }
    value = 0;
    memcpy(dsm_region_data(region), &value, 8);
    if (first)
        print_times(n, 2);
    else
        puts("done");
}

/* ---- two queues ---- */

static void open_inbox(void)
{
    dsm_queue_config shape = {.lanes = 1, .flags = DSM_QUEUE_CHECKED, .lane_bytes = 1 << 16, .max_message = 1024};
    uint8_t raw[DSM_DESC_MAX];
    dsm_region *memory;
    dsm_remote *own;
    must(dsm_alloc(ctx, dsm_queue_nbytes(&shape), DSM_READ | DSM_WRITE | DSM_ATOMIC, &memory), "allocate");
    must(dsm_queue_format(dsm_region_data(memory), &shape), "format");
    must(dsm_attach(ctx, raw, (size_t)dsm_region_descriptor(memory, raw), -1, &own), "attach");
    must(dsm_queue_open(own, dsm_region_data(memory), &inbox), "inbox");
    must(dsm_queue_consume(inbox), "consume");
    print_descriptor(memory);
}

static void open_outbox(const char *hex)
{
    must(dsm_queue_open(attach(hex), NULL, &outbox), "outbox");
    must(dsm_queue_produce(outbox), "produce");
    puts("attached");
}

static void receive(uint64_t wanted)
{
    const void *payload;
    uint64_t length, value = 0;
    uint8_t kind;
    int rc;
    while ((rc = dsm_queue_next(inbox, &payload, &length, &kind)) == -DSM_EEMPTY)
        ;
    must(rc, "next");
    memcpy(&value, payload, length == sizeof value ? length : 0);
    must(value == wanted ? dsm_queue_done(inbox) : -DSM_ECORRUPT, "the message");
}

static void queue_ping_pong(size_t n, int first)
{
    stamp[0] = now();
    for (uint64_t i = 1; i <= n; i++) {
        if (!first)
            receive(i);
        must(dsm_queue_push(outbox, &i, sizeof i, 1), "push");
        must(dsm_queue_flush(outbox), "flush");
        if (first)
            receive(i);
        stamp[i] = now();
    }
    if (first)
        print_times(n, 1);
    else
        puts("done");
}

/* ---- many ops ---- */

static void fill(dsm_op *ops, int code, uint64_t nbytes)
{
    uint8_t *local = dsm_region_data(region);
    for (uint64_t i = 0; i < MANY; i++)
        ops[i] = (dsm_op){.code = (uint8_t)code,
                          .remote = remote,
                          .offset = 64 + i * nbytes,
                          .local = code == DSM_OP_FETCH_ADD ? NULL : local + 64 + i * nbytes,
                          .nbytes = nbytes,
                          .operand = 1};
}

static void many(const char *name, size_t n, uint64_t nbytes)
{
    dsm_op ops[MANY];
    fill(ops, code_of(name), nbytes);
    stamp[0] = now();
    for (size_t i = 0; i < n; i++) {
        must(dsm_execute(ctx, ops, MANY, -1, NULL), name);
        stamp[i + 1] = now();
    }
    print_times(n, 1);
}

static void bandwidth(const char *name, size_t n, uint64_t nbytes)
{
    dsm_op ops[2][MANY];
    dsm_ticket *t[2];
    size_t batches = n / MANY;
    for (int i = 0; i < 2; i++)
        fill(ops[i], code_of(name), nbytes);
    stamp[0] = now();
    for (size_t i = 0; i < batches; i++) {
        if (i >= 2)
            must(dsm_finish(t[i % 2], -1, NULL), name);
        must(dsm_submit(ctx, ops[i % 2], MANY, &t[i % 2], NULL), name);
    }
    for (size_t i = batches > 2 ? batches - 2 : 0; i < batches; i++)
        must(dsm_finish(t[i % 2], -1, NULL), name);
    stamp[1] = now();
    print_times(1, 1);
}

static void obey(char *line)
{
    char name[16], what[DSM_DESC_MAX * 2 + 1] = "";
    size_t n = 0;
    unsigned long long nbytes = 8;
    alarm(LIMIT_S);
    if (sscanf(line, "attach %512s", what) == 1) {
        remote = attach(what);
        puts("attached");
    } else if (!strcmp(line, "inbox\n")) {
        open_inbox();
    } else if (sscanf(line, "outbox %512s", what) == 1) {
        open_outbox(what);
    } else if (sscanf(line, "many %15s %zu %llu", name, &n, &nbytes) == 3 && n <= TIMES_MAX) {
        many(name, n, nbytes);
    } else if (sscanf(line, "%15s %zu %llu", name, &n, &nbytes) >= 2 && n <= TIMES_MAX) {
        if (!strcmp(name, "ping") || !strcmp(name, "pong"))
            ping_pong(n, name[1] == 'i');
        else if (!strncmp(name, "queue_p", 7))
            queue_ping_pong(n, name[7] == 'i');
        else if (strstr(name, "_bw"))
            bandwidth(*name == 'r' ? "read" : "write", n, nbytes);
        else
            single(name, n, nbytes);
    } else {
        must(-DSM_EINVAL, line);
    }
    alarm(0);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char *line = NULL;
    size_t room = 0;
    dsm_options o;
    const char *secret = getenv("DSMEM_SECRET");
    if (argc != 4 || !secret)
        return 2;
    ns = unit();
    dsm_options_init(&o);
    char fabric[128];
    snprintf(fabric, sizeof fabric, "verbs?device=%s&gid=%s", argv[1], argv[2]);
    o.fabric = fabric;
    o.spin_ns = atoll(argv[3]);
    o.listen = "127.0.0.1";
    o.secret = secret;
    o.secret_len = strlen(secret);
    must(dsm_open(&o, &ctx), "open");
    must(dsm_alloc(ctx, NBYTES, DSM_READ | DSM_WRITE | DSM_ATOMIC, &region), "allocate");
    print_descriptor(region);
    fflush(stdout);
    while (getline(&line, &room, stdin) > 0)
        obey(line);
    return 0;
}
