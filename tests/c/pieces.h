/* Ops whose local memory is in two pieces, through the core. The program that includes it defines CHECK. */
#ifndef DSM_TESTS_PIECES_H
#define DSM_TESTS_PIECES_H

#include "dsm.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { PIECES_BYTES = 65536 }; /* that the remote has at least */

/* Memory of exactly n bytes, so that the sanitizers find the byte behind it; NULL for none. */
struct piece_buffer {
    uint8_t *at;
    uint64_t n;
};

static inline struct piece_buffer piece_of(uint64_t n, unsigned seed)
{
    struct piece_buffer b = {n ? malloc(n) : NULL, n};
    for (uint64_t i = 0; i < n; i++)
        b.at[i] = (uint8_t)(seed + i * 7);
    return b;
}

static inline dsm_op op_in_two(uint8_t code, dsm_remote *r, uint64_t offset, struct piece_buffer a,
                               struct piece_buffer b)
{
    return (dsm_op){.code = code,
                    .remote = r,
                    .offset = offset,
                    .local = a.at,
                    .nbytes = a.n + b.n,
                    .second = b.at,
                    .second_nbytes = b.n};
}

static inline bool holds(const uint8_t *at, struct piece_buffer b) { return !b.n || !memcmp(at, b.at, b.n); }

/* Writes the bytes of both pieces, which come to lie behind one another and nowhere else, and reads them back. */
static inline void move_in_two(dsm_ctx *c, dsm_remote *r, uint64_t offset, struct piece_buffer a, struct piece_buffer b)
{
    uint64_t n = a.n + b.n;
    struct piece_buffer whole = piece_of(n + 2, 0), x = piece_of(a.n, 1), y = piece_of(b.n, 2);
    dsm_op to = op_in_two(DSM_OP_WRITE, r, offset, a, b), from = op_in_two(DSM_OP_READ, r, offset, x, y);
    memset(whole.at, 0x55, n + 2);
    CHECK(!dsm_write(r, offset - 1, whole.at, n + 2, -1));
    CHECK(!dsm_execute(c, &to, 1, -1, NULL) && !to.status);
    CHECK(!dsm_read(r, offset - 1, whole.at, n + 2, -1));
    CHECK(whole.at[0] == 0x55 && whole.at[n + 1] == 0x55);
    CHECK(holds(whole.at + 1, a) && holds(whole.at + 1 + a.n, b));
    CHECK(!dsm_execute(c, &from, 1, -1, NULL) && !from.status);
    CHECK(holds(a.at, x) && holds(b.at, y));
    free(whole.at);
    free(x.at);
    free(y.at);
}

static const uint64_t piece_lengths[][2] = {
    {0, 1},         {1, 0},     {1, 1},       {0, 8},       {8, 8},       {3, 5},         {7, 249},     {64, 200},
    {200, 64},      {255, 2},   {64, 4096},   {4096, 1},    {5000, 3193}, {1, 9000},      {9000, 1},    {40, 20000},
    {20001, 20003}, {0, 30000}, {8, 8 * 999}, {8192, 8192}, {8191, 8193}, {16384, 16384}, {100, 64000}, {30000, 3},
};

static inline void move_all_lengths(dsm_ctx *c, dsm_remote *r)
{
    for (size_t i = 0; i < sizeof piece_lengths / sizeof *piece_lengths; i++) {
        struct piece_buffer a = piece_of(piece_lengths[i][0], 11), b = piece_of(piece_lengths[i][1], 97);
        for (uint64_t offset = 1; offset < 1000; offset += 63)
            if (offset == 1 || offset == 64 || a.n + b.n < 300)
                move_in_two(c, r, offset, a, b);
        free(a.at);
        free(b.at);
    }
}

/* In one batch with ops of one piece and an atomic, so that short ones might go into one request. */
static inline void move_among_others(dsm_ctx *c, dsm_remote *r)
{
    enum { N = 90 };
    static uint64_t header[N], payload[N], back[N][2], word[N];
    static dsm_op ops[3 * N + 1];
    size_t n = 0;
    memset(back, 0, sizeof back);
    for (uint64_t i = 0; i < N; i++) {
        struct piece_buffer h = {(uint8_t *)&header[i], 8}, p = {(uint8_t *)&payload[i], 8};
        header[i] = i;
        payload[i] = word[i] = ~i;
        ops[n++] =
            i % 3 == 2
                ? (dsm_op){.code = DSM_OP_WRITE, .remote = r, .offset = 16 * i + 8, .local = &word[i], .nbytes = 8}
                : op_in_two(DSM_OP_WRITE, r, 16 * i, h, p);
    }
    ops[n++] = (dsm_op){.code = DSM_OP_FETCH_ADD, .remote = r, .offset = 16 * N, .nbytes = 8, .operand = 5};
    for (uint64_t i = 0; i < N; i++) {
        struct piece_buffer x = {(uint8_t *)&back[i][0], 8}, y = {(uint8_t *)&back[i][1], 8};
        ops[n] = op_in_two(DSM_OP_READ, r, 16 * i, y, x); /* the other way round */
        ops[n++].flags = DSM_OP_FENCE;
    }
    CHECK(!dsm_execute(c, ops, n, -1, NULL));
    for (uint64_t i = 0; i < N; i++)
        CHECK(back[i][0] == ~i && (i % 3 == 2 || back[i][1] == i));
}

static inline int execute_one(dsm_ctx *c, dsm_op op)
{
    int rc = dsm_execute(c, &op, 1, -1, NULL);
    CHECK(rc == op.status);
    return rc;
}

/* What is no pair of pieces: not a byte is moved. */
static inline void refuse_odd_pieces(dsm_ctx *c, dsm_remote *r)
{
    struct piece_buffer a = piece_of(100, 1), b = piece_of(100, 2), none = {0};
    for (uint8_t code = DSM_OP_READ; code <= DSM_OP_WRITE; code++) {
        dsm_op good = op_in_two(code, r, 0, a, b), op = good;
        op.second = NULL;
        CHECK(execute_one(c, op) == -DSM_EINVAL);
        op = good;
        op.local = NULL;
        CHECK(execute_one(c, op) == -DSM_EINVAL);
        op = good;
        op.second_nbytes = 201;
        CHECK(execute_one(c, op) == -DSM_EINVAL);
        op.second_nbytes = UINT64_MAX - 7;
        CHECK(execute_one(c, op) == -DSM_EINVAL);
        op.second_nbytes = 201;
        CHECK(dsm_execute_as(c, &op, 1, &(dsm_choice){.go_on = true}, -1, NULL) == -DSM_EINVAL);
        op = good;
        op.nbytes = UINT64_MAX;
        CHECK(execute_one(c, op) == -DSM_EBOUNDS);
        CHECK(execute_one(c, op_in_two(code, r, 0, none, none)) == -DSM_EINVAL);
        op = op_in_two(code, r, 0, a, none);
        op.nbytes = 0;
        CHECK(execute_one(c, op) == -DSM_EINVAL);
    }
    free(a.at);
    free(b.at);
}

/* Ops whose ticket is finished later. */
static inline void move_in_halves(dsm_ctx *c, dsm_remote *r)
{
    struct piece_buffer a = piece_of(17, 3), b = piece_of(12345, 4), x = piece_of(12345, 0), y = piece_of(17, 0);
    dsm_op ops[] = {op_in_two(DSM_OP_WRITE, r, 5, a, b), op_in_two(DSM_OP_READ, r, 5, y, x)};
    dsm_ticket *t;
    CHECK(!dsm_submit(c, ops, 2, &t, NULL) && dsm_ticket_ops(t) == ops && !dsm_finish(t, -1, NULL));
    CHECK(holds(a.at, y) && holds(b.at, x));
    free(a.at);
    free(b.at);
    free(x.at);
    free(y.at);
}

static inline void all_of_pieces(dsm_ctx *c, dsm_remote *r)
{
    refuse_odd_pieces(c, r);
    move_all_lengths(c, r);
    move_among_others(c, r);
    move_in_halves(c, r);
}

#endif
