/*
 * The agent's side of the control protocol: conn_input() of a real context, in every state, on arbitrary bytes.
 *
 * The input is a list of pieces, each with a byte that says what to do, and a byte of length:
 *   0   the bytes as they are                        3   a message of a type and with a payload from the bytes, sealed
 *   1   a hello                                      4   ATTACH or STATUS of the region that is there, sealed
 *   2   the proof that the agent expects             5   the bytes behind half of a hello or header
 *   6   a message of any number and type, sealed     7   PARTS of the pool that is there, sealed; one of them is live
 * With these the fuzzer gets past the handshake without having to guess a MAC. A piece that does not fit the state is
 * noise.
 */
#include "agent/agent.h"
#include "base/wire.h"
#include "check.h"
#include "context.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static dsm_ctx *context;
static dsm_pool *pool;
static dsm_region *part;
static dsm_descriptor region; /* of the part */

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    uint8_t raw[DSM_DESC_MAX];
    context = open_context(NULL);
    CHECK(!dsm_pool_open(context, 4096, DSM_READ, &pool) && !dsm_pool_alloc(pool, 64, &part));
    CHECK(!dsm_descriptor_parse(raw, (size_t)dsm_region_descriptor(part, raw), &region));
    return 0;
}

static size_t message(const struct conn *c, unsigned type, uint64_t number, const uint8_t *in, size_t n, uint8_t *out)
{
    memcpy(out, MESSAGE_MAGIC, 4);
    put_u16(out + 4, (uint16_t)type);
    put_u16(out + 6, (uint16_t)n);
    put_u64(out + 8, number);
    memcpy(out + HEADER_SIZE, in, n);
    message_seal(&c->session.asking, out);
    return message_length(out);
}

/* Frames at most this many bytes of a piece, and returns their number. */
static size_t frame(const struct conn *c, unsigned kind, const uint8_t *in, size_t n, uint8_t out[600])
{
    uint8_t name[NAME_SIZE + FABRIC_SIZE], parts[NAME_SIZE + 256] = {0};
    memset(out, 0, 600);
    switch (kind) {
    case 1:
        memcpy(out, HELLO_MAGIC, 4);
        put_u16(out + 4, PROTOCOL_VERSION);
        memcpy(out + 8, in, n < 48 ? n : 48);
        return HELLO_SIZE;
    case 2:
        handshake_mac(context, LABEL_CLIENT, &c->handshake, out);
        return PROOF_SIZE;
    case 3:
        return message(c, n ? in[0] % 6 : 0, c->session.number + 1, in, n, out);
    case 4:
        put_u64(name, region.region);
        put_u64(name + 8, region.generation);
        put_u32(name + NAME_SIZE, n & 2 ? FABRIC_SHM : FABRIC_VERBS);
        return message(c, n & 1 ? MSG_ATTACH : MSG_STATUS, c->session.number + 1, name, n & 1 ? sizeof name : NAME_SIZE,
                       out);
    case 6:
        if (n < 10)
            return 0;
        return message(c, get_u16(in), get_u64(in + 2), in + 10, n - 10, out);
    case 7: /* the bytes are what is wrong with the parts */
        put_u64(parts, region.region);
        put_u64(parts + 8, region.generation);
        for (size_t i = NAME_SIZE; i + PART_SIZE <= NAME_SIZE + n && i + PART_SIZE <= sizeof parts; i += PART_SIZE) {
            put_u64(parts + i, region.part.number);
            put_u64(parts + i + 8, region.part.generation);
            put_u64(parts + i + 16, region.part.offset);
            put_u64(parts + i + 24, region.part.nbytes);
        }
        for (size_t i = 0; i < n && i < 256; i++)
            parts[NAME_SIZE + i] ^= in[i];
        return message(c, MSG_PARTS, c->session.number + 1, parts, NAME_SIZE + n, out);
    case 5:
        memcpy(out, c->state == CONN_HELLO ? HELLO_MAGIC : MESSAGE_MAGIC, 4);
        memcpy(out + 4, in, n);
        return 4 + n;
    default:
        memcpy(out, in, n);
        return n;
    }
}

/* Gives the connection the bytes as on_conn() does: as many as there is room for, at once. */
static bool feed(struct agent *a, struct conn *c, const uint8_t *bytes, size_t n)
{
    while (n) {
        size_t room = sizeof c->in - c->have, some = n < room ? n : room;
        CHECK(room);
        memcpy(c->in + c->have, bytes, some);
        c->have += some;
        bytes += some;
        n -= some;
        if (!conn_input(a, c))
            return false;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
    struct agent *a = context->agent;
    int pair[2];
    uint8_t framed[600], drain[4096];
    CHECK(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair));
    struct conn *c = calloc(1, sizeof *c); /* on the heap, where an access beyond the end is found */
    CHECK(c);
    c->fd = pair[0];
    pthread_mutex_lock(&a->turn);
    size_t before = a->unauthenticated++;
    for (bool good = true; good && n >= 2;) {
        size_t len = bytes[1] < n - 2 ? bytes[1] : n - 2;
        good = feed(a, c, framed, frame(c, bytes[0] % 8, bytes + 2, len, framed));
        bytes += 2 + len;
        n -= 2 + len;
        while (recv(pair[1], drain, sizeof drain, 0) > 0)
            ;
    }
    if (c->state != CONN_OPEN)
        a->unauthenticated--;
    CHECK(a->unauthenticated == before);
    conn_close_endpoint(c);
    pthread_mutex_unlock(&a->turn);
    free(c);
    close(pair[0]);
    close(pair[1]);
    return 0;
}
