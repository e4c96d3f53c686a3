/*
 * The client's side of the frames of tcp: ops are posted, and the owner answers with arbitrary bytes, or with replies
 * that are good but for what the bytes change in them.
 *
 * Whatever comes, each op ends once, the buffers are not written beyond their ends (they lie on the heap) and not after
 * the end of their op; and a status of success is only what a reply in order, with as many bytes as asked for, has
 * said. At the end it says how many frames it has handed to clients.
 */
#include "base/wire.h"
#include "check.h"
#include "fabric/tcp/tcp.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerInitialize(int *argc, char ***argv);

enum { OPS = 24, REGION = 1 << 16 };

static dsm_stats stats;
static uint64_t frames; /* noise counts where it has a whole head */
static struct fabric_dev *device;
static struct fabric_remote *memory;
static struct { /* what the core's remotes begin with */
    struct fabric_target target;
} remote;

static void say_frames(void) { fprintf(stderr, "stat::frames: %llu\n", (unsigned long long)frames); }

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    struct fabric_grant grant = {.nbytes = REGION, .access = DSM_READ | DSM_WRITE | DSM_ATOMIC};
    grant.blob.nbytes = TCP_BLOB;
    CHECK(!tcp_fabric.open(&(struct fabric_options){.text = ""}, &stats, &device));
    CHECK(!tcp_fabric.import(device, &grant, &memory));
    remote.target.remote = memory;
    CHECK(!atexit(say_frames));
    return 0;
}

struct post {
    struct fabric_group group;
    struct fabric_op work[OPS];
    dsm_op ops[OPS];
    size_t n;
};

/* Each byte is an op. */
static void make_ops(struct post *p, const uint8_t *bytes, size_t n)
{
    static const uint64_t lengths[] = {1, 8, 9, 100, 4096, 4097, 20000, 40000};
    p->n = n < OPS ? n : OPS;
    for (size_t i = 0; i < p->n; i++) {
        dsm_op *op = &p->ops[i];
        *op = (dsm_op){.code = (uint8_t)(1 + bytes[i] % 4), .remote = (dsm_remote *)(void *)&remote, .nbytes = 8};
        if (op->code <= DSM_OP_WRITE) {
            op->nbytes = lengths[bytes[i] >> 5];
            uint64_t second = bytes[i] & 16 ? op->nbytes / 3 : 0;
            CHECK((op->local = calloc(1, op->nbytes - second)));
            if (second) {
                op->second_nbytes = second;
                CHECK((op->second = calloc(1, second)));
            }
        }
        op->status = 1; /* not ended */
        p->work[i] = (struct fabric_op){.op = op, .group = &p->group, .next = i + 1 < p->n ? &p->work[i + 1] : NULL};
    }
    p->group.pending = (uint32_t)p->n;
}

static uint64_t expected(const dsm_op *op) { return op->code == DSM_OP_WRITE ? 0 : op->nbytes; }

/* A reply to the ops [first, first + n) as an owner would send it, changed by the bytes. */
static size_t reply(const struct post *p, size_t first, size_t n, const uint8_t *change, size_t changes, uint8_t *out)
{
    struct tcp_reply r = {.number = first, .ops = (uint32_t)n};
    for (size_t i = first; i < first + n; i++)
        r.nbytes += expected(&p->ops[i]);
    tcp_put_reply(out, &r);
    for (size_t i = 0; i + 1 < changes; i += 2)
        out[change[i] % TCP_REPLY] ^= change[i + 1];
    return TCP_REPLY + r.nbytes;
}

static void check_ended(const struct post *p)
{
    bool lost = false; /* an op before it had no answer */
    for (size_t i = 0; i < p->n; i++) {
        int status = p->ops[i].status;
        bool answered = !status || status == -DSM_EACCESS || status == -DSM_ESTALE;
        CHECK(status <= 0);
        CHECK(answered || status == -DSM_EUNKNOWN || status == -DSM_EIO || status == -DSM_EPEER ||
              status == -DSM_ECANCELED);
        CHECK(!answered || !lost); /* replies come in order */
        CHECK(status != -DSM_EUNKNOWN || p->ops[i].code != DSM_OP_READ);
        lost = lost || !answered;
    }
}

/* Hands the client so many bytes, which it reads as they come. */
static void hand_over(struct fabric_ep *e, int fd, const uint8_t *bytes, size_t n)
{
    uint8_t drain[65536];
    for (size_t at = 0; at < n && !e->broken;) {
        ssize_t some = send(fd, bytes + at, n - at, MSG_NOSIGNAL | MSG_DONTWAIT);
        at += some > 0 ? (size_t)some : 0;
        while (recv(fd, drain, sizeof drain, MSG_DONTWAIT) > 0)
            ;
        tcp_fabric.poll(e);
    }
}

/* For each reply: how many ops it is about, how many bytes change it, and these. About no op: just these. */
static void answer(struct fabric_ep *e, const struct post *p, int fd, const uint8_t *bytes, size_t n)
{
    static uint8_t out[TCP_REPLY + OPS * 40000];
    for (size_t first = 0; n >= 2 && !e->broken;) {
        size_t ops = bytes[0] % OPS, changes = bytes[1] % 32;
        changes = changes < n - 2 ? changes : n - 2;
        ops = ops < p->n - first ? ops : p->n - first;
        if (ops)
            hand_over(e, fd, out, reply(p, first, ops, bytes + 2, changes, out));
        else
            hand_over(e, fd, bytes + 2, changes);
        frames += ops || changes >= TCP_REPLY;
        first += ops;
        bytes += 2 + changes;
        n -= 2 + changes;
    }
}

static void release(struct post *p)
{
    for (size_t i = 0; i < p->n; i++) {
        if (p->work[i].prepared[0])
            tcp_fabric.op_release(device, &p->work[i]);
        if (p->ops[i].code > DSM_OP_WRITE)
            continue;
        free(p->ops[i].local);
        if (p->ops[i].second_nbytes)
            free(p->ops[i].second);
    }
}

/* How many ops; the ops; then what is answered. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct fabric_ep *e;
    struct post p = {0};
    int pair[2];
    if (n < 2 || !(bytes[0] % OPS))
        return 0;
    make_ops(&p, bytes + 1, bytes[0] % OPS < n - 1 ? bytes[0] % OPS : n - 1);
    CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair));
    CHECK(!tcp_fabric.ep_open(device, false, &e));
    CHECK(!tcp_fabric.ep_connect(e, (const uint8_t[TCP_TOKEN]){1}, TCP_TOKEN) && !tcp_fabric.ep_stream(e, pair[0]));
    tcp_fabric.post(e, &p.work[0]);
    answer(e, &p, pair[1], bytes + 1 + p.n, n - 1 - p.n);
    tcp_fabric.ep_abort(e);
    CHECK(!p.group.pending && !e->inflight && !e->bytes);
    check_ended(&p);
    release(&p);
    tcp_fabric.ep_close(e);
    close(pair[1]);
    return 0;
}
