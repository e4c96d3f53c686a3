/*
 * Many ops of one size: at offsets in one remote, or at (region, offset) in many parts.
 *
 * All of them are checked before the first is executed. Offsets may lie in memory that other threads or processes
 * write, so each is loaded once for each use, and checked then.
 */
#include "../base/mapped_ops.h"
#include "remote.h"

#include <stdlib.h>

struct many {
    dsm_ctx *ctx;
    dsm_remote *one;          /* NULL: in parts */
    const dsm_remotes *parts; /* with regions[i] */
    const uint64_t *regions, *offsets;
    size_t n;
    uint8_t *local;
    uint64_t each;
    uint8_t code;
};

/* Loads an offset, once, and checks it. It may change after check_one(). */
static inline bool load_offset(const dsm_remote *r, const uint64_t *offset, uint64_t each, uint64_t *at)
{
    *at = load_relaxed_u64(offset);
    return __builtin_expect(*at <= r->nbytes - each, 1);
}

/* Finds byte 'offset' of a region, and checks that 'each' bytes from there on may be accessed. */
static int locate(const dsm_remotes *r, uint64_t region, uint64_t offset, uint64_t each, uint32_t right,
                  dsm_remote **whole, uint64_t *at)
{
    if (region >= r->n)
        return err_set(DSM_EBOUNDS, 0, "region %llu of %zu", (unsigned long long)region, r->n);
    const struct piece *p = &r->pieces[region];
    if (each > p->nbytes || offset > p->nbytes - each)
        return err_set(DSM_EBOUNDS, 0, "offset %llu + %llu bytes, region %llu has %llu", (unsigned long long)offset,
                       (unsigned long long)each, (unsigned long long)region, (unsigned long long)p->nbytes);
    *whole = r->wholes[p->whole];
    *at = p->offset + offset;
    return remote_check(*whole, *at, each, right);
}

static uint32_t right_of(uint8_t code) { return code == DSM_OP_READ ? DSM_READ : DSM_WRITE; }

static int locate_part(const struct many *m, size_t i, dsm_remote **whole, uint64_t *at)
{
    return locate(m->parts, load_relaxed_u64(&m->regions[i]), load_relaxed_u64(&m->offsets[i]), m->each,
                  right_of(m->code), whole, at);
}

static int locate_one(const struct many *m, size_t i, dsm_remote **r, uint64_t *at)
{
    *r = m->one;
    return load_offset(m->one, &m->offsets[i], m->each, at) ? 0 : remote_check(m->one, *at, m->each, right_of(m->code));
}

/* ---- posted ---- */

static int post(const struct many *m, int64_t timeout_ns)
{
    enum { ON_STACK = 64 };
    dsm_op few[ON_STACK], *ops = m->n <= ON_STACK ? few : malloc(m->n * sizeof *ops);
    if (!ops)
        return err_set(DSM_ENOMEM, 0, "%zu ops", m->n);
    int rc = 0;
    for (size_t i = 0; i < m->n && !rc; i++) {
        dsm_remote *r;
        uint64_t at;
        rc = m->one ? locate_one(m, i, &r, &at) : locate_part(m, i, &r, &at);
        if (!rc)
            ops[i] = (dsm_op){
                .code = m->code, .remote = r, .offset = at, .local = m->local + i * m->each, .nbytes = m->each};
    }
    if (!rc)
        rc = ops_run(m->ctx, ops, m->n, timeout_ns);
    if (ops != few)
        free(ops);
    return rc;
}

/* ---- one remote ---- */

/* Checks that all offsets are in bounds, without a branch for each offset. */
static int check_one(const dsm_remote *r, const uint64_t *offsets, size_t n, uint64_t each, uint32_t right)
{
    int rc = remote_check(r, 0, each, right);
    if (rc)
        return rc;
    uint64_t top = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t at = load_relaxed_u64(&offsets[i]);
        top = at > top ? at : top;
    }
    return remote_check(r, top, each, right);
}

static inline int mapped_read_many(const dsm_remote *r, const uint64_t *offsets, size_t n, uint8_t *to, uint64_t each)
{
    uint64_t at;
    for (size_t i = 0; i < n; i++, to += each) {
        if (!load_offset(r, &offsets[i], each, &at))
            return remote_check(r, at, each, DSM_READ);
        mapped_read(remote_at(r, at), to, each);
    }
    return 0;
}

static inline int mapped_write_many(const dsm_remote *r, const uint64_t *offsets, size_t n, const uint8_t *from,
                                    uint64_t each)
{
    uint64_t at;
    for (size_t i = 0; i < n; i++, from += each) {
        if (!load_offset(r, &offsets[i], each, &at))
            return remote_check(r, at, each, DSM_WRITE);
        mapped_write(remote_at(r, at), from, each);
    }
    return 0;
}

/* A function of its own, so that ops on mapped memory need no room for it on the stack. */
static __attribute__((noinline)) int post_one(dsm_remote *r, uint8_t code, const uint64_t *offsets, size_t n,
                                              const void *local, uint64_t each, int64_t timeout_ns)
{
    struct many m = {.ctx = r->ctx,
                     .one = r,
                     .offsets = offsets,
                     .n = n,
                     .local = (uint8_t *)(uintptr_t)local,
                     .each = each,
                     .code = code};
    return post(&m, timeout_ns);
}

int dsm_read_many(dsm_remote *r, const uint64_t *offsets, size_t n, void *out, uint64_t each, int64_t timeout_ns)
{
    uint8_t *to = out;
    int rc = check_one(r, offsets, n, each, DSM_READ);
    if (rc || !n)
        return rc;
    if (!remote_is_mapped(r))
        return post_one(r, DSM_OP_READ, offsets, n, to, each, timeout_ns);
    return each == 8 ? mapped_read_many(r, offsets, n, to, 8) : mapped_read_many(r, offsets, n, to, each);
}

int dsm_write_many(dsm_remote *r, const uint64_t *offsets, size_t n, const void *data, uint64_t each,
                   int64_t timeout_ns)
{
    const uint8_t *from = data;
    int rc = check_one(r, offsets, n, each, DSM_WRITE);
    if (rc || !n)
        return rc;
    if (!remote_is_mapped(r))
        return post_one(r, DSM_OP_WRITE, offsets, n, from, each, timeout_ns);
    return each == 8 ? mapped_write_many(r, offsets, n, from, 8) : mapped_write_many(r, offsets, n, from, each);
}

/* ---- many parts ---- */

static int check_parts(const struct many *m)
{
    dsm_remote *whole;
    uint64_t at;
    int rc = 0;
    for (size_t i = 0; i < m->n && !rc; i++)
        rc = locate_part(m, i, &whole, &at);
    return rc;
}

static int move_mapped(const struct many *m)
{
    dsm_remote *whole = NULL;
    uint64_t at = 0;
    int rc = check_parts(m);
    for (size_t i = 0; i < m->n && !rc; i++) {
        if ((rc = locate_part(m, i, &whole, &at)))
            break;
        if (m->code == DSM_OP_READ)
            mapped_read(remote_at(whole, at), m->local + i * m->each, m->each);
        else
            mapped_write(remote_at(whole, at), m->local + i * m->each, m->each);
    }
    return rc;
}

static int move_parts(const struct many *m, int64_t timeout_ns)
{
    if (ctx_forked(m->ctx))
        return refuse_forked();
    if (!m->n)
        return 0;
    return m->parts->mapped ? move_mapped(m) : post(m, timeout_ns);
}

int dsm_remotes_read_many(dsm_remotes *r, const uint64_t *regions, const uint64_t *offsets, size_t n, void *out,
                          uint64_t each, int64_t timeout_ns)
{
    struct many m = {r->ctx, NULL, r, regions, offsets, n, out, each, DSM_OP_READ};
    return move_parts(&m, timeout_ns);
}

int dsm_remotes_write_many(dsm_remotes *r, const uint64_t *regions, const uint64_t *offsets, size_t n, const void *data,
                           uint64_t each, int64_t timeout_ns)
{
    struct many m = {r->ctx, NULL, r, regions, offsets, n, (uint8_t *)(uintptr_t)data, each, DSM_OP_WRITE};
    return move_parts(&m, timeout_ns);
}
