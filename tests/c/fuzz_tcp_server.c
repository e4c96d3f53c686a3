/*
 * The owner's side of the frames of tcp: a real device with its progress thread, and arbitrary bytes on a connection.
 *
 * The input is a list of pieces, each with a byte that says what it is and a byte of length: bytes as they are, or what
 * becomes a request with the slot and key of a region, whose fields come from the bytes. What the owner must make of
 * all of it is computed here again, one request after the other, and compared: the bytes of all regions, also of those
 * that are closed or may only be read, and each reply. At the end it says how many frames it has sent to owners.
 */
/* options: -detect_leaks=0 */ /* after each input: the owner's thread frees a connection a little later */
#include "base/wire.h"
#include "check.h"
#include "fabric/tcp/tcp.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerInitialize(int *argc, char ***argv);

enum { REGIONS = 4, CLOSED = 2, STREAM = 1 << 18, OPS = 1 << 16 };

static struct region {
    uint64_t nbytes;
    uint32_t access;
    uint8_t *data, *wanted; /* on the heap, where an access beyond the end is found */
    uint32_t slot;
    uint8_t key[TCP_KEY];
} regions[REGIONS] = {
    {.nbytes = 8192, .access = DSM_READ | DSM_WRITE | DSM_ATOMIC},
    {.nbytes = 256, .access = DSM_READ},
    {.nbytes = 512, .access = DSM_READ | DSM_WRITE | DSM_ATOMIC},
    {.nbytes = 8191, .access = DSM_WRITE},
};

static dsm_stats stats;
static uint64_t frames; /* with a whole head, up to the one that ends the connection */
static struct fabric_dev *device;
static uint8_t stream[STREAM];
static size_t length; /* of the stream */
static uint16_t wanted[OPS];
static size_t nwanted; /* ops that have an outcome */
static bool unsound;   /* the stream ends in what is no request: replies may be lost */
static uint8_t *payload, *answered;
static size_t npayload, nanswered, room = 1 << 16;

static void say_frames(void) { fprintf(stderr, "stat::frames: %llu\n", (unsigned long long)frames); }

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    CHECK(!tcp_fabric.open(&(struct fabric_options){.text = ""}, &stats, &device));
    CHECK((payload = malloc(room)) && (answered = malloc(room)));
    for (int i = 0; i < REGIONS; i++) {
        struct region *r = &regions[i];
        struct memory *memory;
        struct fabric_mem *m;
        struct fabric_blob blob = {0};
        r->data = calloc(1, r->nbytes);
        r->wanted = calloc(1, r->nbytes);
        CHECK(r->data && r->wanted && !memory_of_caller(r->data, r->nbytes, &memory));
        CHECK(!tcp_fabric.reg(device, 1, &memory, r->access, &m) && !tcp_fabric.export(m, &blob));
        memory_drop(memory); /* the registration holds it */
        r->slot = get_u32(blob.bytes);
        memcpy(r->key, blob.bytes + 4, TCP_KEY);
        if (i == CLOSED)
            tcp_fabric.unreg(m);
    }
    CHECK(!atexit(say_frames));
    return 0;
}

/* ---- the stream ---- */

static void put(const void *bytes, size_t n)
{
    if (n > STREAM - length)
        n = STREAM - length;
    memcpy(stream + length, bytes, n);
    length += n;
}

/* Makes a request of up to 255 bytes, and says how many ops it has. Data of a WRITE repeat the bytes. */
static uint64_t put_request(const uint8_t *in, size_t n, uint64_t number)
{
    static const uint64_t lengths[] = {1, 8, 9, 64, 4096, 4097, 8190, 8192};
    uint8_t head[TCP_REQUEST], word[8] = {0};
    if (n < 6)
        return 0;
    const struct region *r = &regions[in[0] % REGIONS];
    struct tcp_request q = {.code = (uint8_t)(1 + in[1] % 4),
                            .pieces = 1,
                            .slot = r->slot,
                            .nbytes = in[2] & 1 ? lengths[in[2] / 2 % 8] : (uint64_t)in[2] * 4,
                            .offset = (uint64_t)in[3] << 5 | (in[3] & 7),
                            .number = number};
    memcpy(q.key, r->key, TCP_KEY);
    if (q.code >= DSM_OP_FETCH_ADD) {
        q.nbytes = 8;
        q.offset &= in[4] & 1 ? ~UINT64_C(0) : ~UINT64_C(7);
    } else if (in[4] & 2) {
        q.pieces = (uint16_t)(1 + in[5]);
        q.offset = 0;
    }
    tcp_put_request(head, &q);
    put(head, sizeof head);
    for (uint32_t i = 0; q.pieces > 1 && i < q.pieces; i++) {
        put_u64(word, (uint64_t)in[i % n] * (in[4] >> 2));
        put(word, sizeof word);
    }
    if (q.code >= DSM_OP_FETCH_ADD) {
        put(in, 6);
        put(word, 2);
        put_u64(word, in[5]);
        put(word, sizeof word);
    }
    for (uint64_t left = q.code == DSM_OP_WRITE ? q.pieces * q.nbytes : 0, some; left && length < STREAM;
         left -= some) {
        some = left < n ? left : n;
        put(in, some);
    }
    return q.pieces;
}

static void make_stream(const uint8_t *bytes, size_t n)
{
    uint64_t number = 0;
    length = 0;
    while (n >= 2) {
        size_t some = bytes[1] < n - 2 ? bytes[1] : n - 2;
        if (bytes[0] % 8)
            number += put_request(bytes + 2, some, number);
        else
            put(bytes + 2, some);
        bytes += 2 + some;
        n -= 2 + some;
    }
}

/* ---- what it means ---- */

static struct region *named(const struct tcp_request *q)
{
    for (int i = 0; i < REGIONS; i++)
        if (i != CLOSED && regions[i].slot == q->slot && !memcmp(regions[i].key, q->key, TCP_KEY))
            return &regions[i];
    return NULL;
}

static uint16_t verdict(const struct region *r, const struct tcp_request *q, const uint8_t *offsets)
{
    static const uint32_t rights[] = {0, DSM_READ, DSM_WRITE, DSM_ATOMIC, DSM_ATOMIC};
    if (!r)
        return DSM_ESTALE;
    if (!(r->access & rights[q->code]))
        return DSM_EACCESS;
    for (uint32_t i = 0; i < q->pieces; i++) {
        uint64_t at = q->pieces > 1 ? get_u64(offsets + 8 * i) : q->offset;
        if (q->nbytes > r->nbytes || at > r->nbytes - q->nbytes || (q->code >= DSM_OP_FETCH_ADD && at % 8))
            return DSM_EACCESS;
    }
    return 0;
}

static void want(uint16_t status)
{
    CHECK(nwanted < OPS);
    wanted[nwanted++] = status;
}

static void keep(uint8_t **to, size_t *at, const void *bytes, size_t n)
{
    while (*at + n > room) {
        room *= 2;
        payload = realloc(payload, room);
        answered = realloc(answered, room);
        CHECK(payload && answered);
    }
    memcpy(*to + *at, bytes, n);
    *at += n;
}

static void want_atomic(struct region *r, const struct tcp_request *q, const uint8_t *operands)
{
    uint64_t old = get_u64(r->wanted + q->offset), first = get_u64(operands);
    bool stores = q->code == DSM_OP_FETCH_ADD || old == first;
    keep(&payload, &npayload, r->wanted + q->offset, 8);
    if (stores)
        put_u64(r->wanted + q->offset, q->code == DSM_OP_FETCH_ADD ? old + first : get_u64(operands + 8));
}

/* Executes the request at 'at' as the protocol says. Returns where the next one begins; 0: there is none. */
static size_t want_request(size_t at)
{
    struct tcp_request q;
    if (length - at < TCP_REQUEST)
        return 0;
    frames++;
    tcp_get_request(stream + at, &q);
    bool atomic = q.code >= DSM_OP_FETCH_ADD;
    if (q.code < 1 || q.code > 4 || !q.pieces || q.pieces > TCP_PIECES || !q.nbytes || q.nbytes > INT64_MAX ||
        (atomic && (q.pieces > 1 || q.nbytes != 8)) || (q.pieces > 1 && q.nbytes > tcp_piece_most(q.code)) ||
        q.number != nwanted) {
        unsound = true;
        return 0;
    }
    at += TCP_REQUEST;
    const uint8_t *offsets = stream + at;
    uint64_t more = (q.pieces > 1 ? 8u * q.pieces : 0) + (atomic ? TCP_OPERANDS : 0);
    if (length - at < more)
        return 0;
    at += more;
    struct region *r = named(&q);
    uint16_t status = verdict(r, &q, offsets);
    for (uint32_t i = 0; i < q.pieces; i++) {
        uint64_t to = q.pieces > 1 ? get_u64(offsets + 8 * i) : q.offset, have = length - at;
        if (q.code == DSM_OP_WRITE) {
            uint64_t some = have < q.nbytes ? have : q.nbytes;
            if (!status && (some == q.nbytes || q.nbytes > TCP_SHORT)) /* a long one is stored as it comes */
                memcpy(r->wanted + to, stream + at, some);
            if (some < q.nbytes)
                return 0;
            at += some;
        } else if (!status && atomic) {
            want_atomic(r, &q, offsets);
        } else if (!status) {
            keep(&payload, &npayload, r->wanted + to, q.nbytes);
        }
    }
    for (uint32_t i = 0; i < q.pieces; i++)
        want(status);
    return at;
}

/* ---- the connection ---- */

/* Looks at what has been received: the heads of replies, and their payload. */
static struct {
    uint8_t head[TCP_REPLY];
    size_t have;
    uint64_t left, ops;
    bool promised;
} in;

static void on_head(void)
{
    struct tcp_reply r;
    tcp_get_reply(in.head, &r);
    CHECK(r.ops && r.number == in.ops && r.ops <= nwanted - in.ops && r.flags <= TCP_MORE);
    CHECK(!in.promised || (!r.flags && !r.nbytes));
    for (uint32_t i = 0; i < r.ops && !(r.flags & TCP_MORE); i++)
        CHECK(wanted[in.ops + i] == r.status);
    in.left = r.nbytes;
    in.promised = r.flags & TCP_MORE;
    if (!in.promised)
        in.ops += r.ops;
}

static void on_bytes(const uint8_t *bytes, size_t n)
{
    while (n) {
        size_t some = in.left ? in.left : TCP_REPLY - in.have;
        some = some < n ? some : n;
        if (in.left) {
            keep(&answered, &nanswered, bytes, some);
            in.left -= some;
        } else {
            memcpy(in.head + in.have, bytes, some);
            if ((in.have += some) == TCP_REPLY) {
                in.have = 0;
                on_head();
            }
        }
        bytes += some;
        n -= some;
    }
}

/* Sends the stream and receives until the owner closes. */
static void exchange(int fd)
{
    uint8_t some[65536];
    size_t sent = 0;
    bool shut = false;
    for (;;) {
        if (sent == length && !shut)
            shut = !shutdown(fd, SHUT_WR);
        struct pollfd p = {.fd = fd, .events = (short)(POLLIN | (sent < length ? POLLOUT : 0))};
        int ready = poll(&p, 1, 10000);
        if (ready < 0 && errno == EINTR) /* the alarm with which libFuzzer looks for a hang */
            continue;
        CHECK(ready == 1); /* an owner that neither reads nor answers nor closes has stalled */
        if (p.revents & POLLOUT) {
            ssize_t n = send(fd, stream + sent, length - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (n > 0)
                sent += (size_t)n;
            else if (errno != EAGAIN)
                sent = length; /* the owner has closed */
        }
        if (p.revents & (POLLIN | POLLHUP | POLLERR)) {
            ssize_t n = recv(fd, some, sizeof some, MSG_DONTWAIT);
            if (n > 0)
                on_bytes(some, (size_t)n);
            else if (n == 0 || errno != EAGAIN)
                return;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct fabric_ep *e;
    int pair[2];
    make_stream(bytes, n);
    nwanted = npayload = nanswered = 0;
    unsound = false;
    for (size_t at = 0; (at = want_request(at));)
        ;
    memset(&in, 0, sizeof in);
    CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair));
    CHECK(!tcp_fabric.ep_open(device, true, &e) && !tcp_fabric.ep_stream(e, pair[0]));
    exchange(pair[1]);
    tcp_fabric.ep_close(e);
    close(pair[1]);
    CHECK(nanswered <= npayload && !memcmp(answered, payload, nanswered));
    CHECK(unsound || (in.ops == nwanted && nanswered == npayload && !in.have && !in.promised));
    for (int i = 0; i < REGIONS; i++)
        CHECK(!memcmp(regions[i].data, regions[i].wanted, regions[i].nbytes));
    return 0;
}
