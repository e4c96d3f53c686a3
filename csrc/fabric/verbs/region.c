/*
 * Memory of this process.
 *
 * Buffers that are registered together and are adjacent or overlap share one registration (struct verbs_mr), which
 * covers their union and not one byte more. Buffers with a gap between them never share one. The device enforces the
 * bounds of a registration only; those of each region are enforced by remote_check() in the peer's core.
 */
#ifdef DSM_HAVE_VERBS
#include "../../base/wire.h"
#include "verbs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

/* ---- errors ---- */

static uint64_t pinned_bytes(void)
{
    char line[128];
    unsigned long long kib = 0;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmPin: %llu", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib * 1024;
}

static bool is_mapped(const uint8_t *p)
{
    unsigned char resident;
    return !mincore((void *)((uintptr_t)p & ~(uintptr_t)4095), 1, &resident);
}

int verbs_reg_failed(int sys, const void *p, uint64_t nbytes)
{
    struct rlimit limit;
    if (sys == ENOMEM && (!is_mapped(p) || !is_mapped((const uint8_t *)p + nbytes - 1)))
        sys = EFAULT;
    if ((sys == ENOMEM || sys == EAGAIN || sys == EPERM) && !getrlimit(RLIMIT_MEMLOCK, &limit) &&
        limit.rlim_cur != RLIM_INFINITY && nbytes + 4096 + pinned_bytes() > limit.rlim_cur)
        return err_set(DSM_EMEMLOCK, sys, "registering %llu bytes while RLIMIT_MEMLOCK is %llu bytes",
                       (unsigned long long)nbytes, (unsigned long long)limit.rlim_cur);
    if (sys == EFAULT)
        return err_set(DSM_EINVAL, sys, "registering %llu bytes that are not mapped, or read-only",
                       (unsigned long long)nbytes);
    return err_set_errno(sys, "registering %llu bytes", (unsigned long long)nbytes);
}

/* ---- registrations ---- */

static int by_start(const void *a, const void *b)
{
    const struct verbs_mr *x = *(struct verbs_mr *const *)a, *y = *(struct verbs_mr *const *)b;
    return x->start < y->start ? -1 : x->start > y->start;
}

/* Index of the first registration that starts above p. */
static size_t above(const struct verbs_dev *d, const uint8_t *p)
{
    size_t lo = 0, hi = d->nmrs;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (d->mrs[mid]->start <= p)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* A registration that covers [p, p+nbytes), with an additional reference, or NULL. write: the device writes to it.
 * kept: it may be of the registration cache. Under d->lock (read). */
static struct verbs_mr *find_mr(struct verbs_dev *d, const void *p, uint64_t nbytes, bool write, bool kept)
{
    /* Registrations rarely overlap. One that is not found within a few steps back is ignored: the buffer is then
     * treated as memory that is not registered. */
    size_t i = above(d, p);
    for (int steps = 0; i > 0 && steps < 4; steps++) {
        struct verbs_mr *r = d->mrs[--i];
        const uint8_t *from = p;
        if (from < r->end && nbytes <= (uint64_t)(r->end - from) && (r->writable || !write) && (kept || !r->kept)) {
            fetch_add_u32(&r->users, 1); /* the table holds a reference, so r can't be freed meanwhile */
            return r;
        }
    }
    return NULL;
}

static int enter(struct verbs_dev *d, struct verbs_mr **mrs, size_t n)
{
    int rc = 0;
    pthread_rwlock_wrlock(&d->lock);
    if (d->nmrs + n > d->room) {
        size_t room = (d->nmrs + n) * 2;
        struct verbs_mr **more = realloc(d->mrs, room * sizeof *more);
        if (more) {
            d->mrs = more;
            d->room = room;
        } else {
            rc = err_set(DSM_ENOMEM, 0, "%zu registrations", room);
        }
    }
    if (!rc && n == 1) {
        size_t i = above(d, mrs[0]->start);
        memmove(d->mrs + i + 1, d->mrs + i, (d->nmrs - i) * sizeof *d->mrs);
        d->mrs[i] = mrs[0];
        d->nmrs++;
    } else if (!rc) {
        memcpy(d->mrs + d->nmrs, mrs, n * sizeof *mrs);
        d->nmrs += n;
        qsort(d->mrs, d->nmrs, sizeof *d->mrs, by_start);
    }
    pthread_rwlock_unlock(&d->lock);
    return rc;
}

/* Under d->lock (write). */
static void leave(struct verbs_dev *d, const struct verbs_mr *r)
{
    size_t i = above(d, r->start);
    while (i > 0 && d->mrs[i - 1] != r)
        i--;
    if (i > 0) {
        memmove(d->mrs + i - 1, d->mrs + i, (d->nmrs - i) * sizeof *d->mrs);
        d->nmrs--;
    }
}

/* Adapters give a key again, also at once, and to the same memory (mlx5 keeps those that are free by their size). A
 * peer that has the key of a registration which has ended must not reach the next one. So each one that grants rights
 * has addresses on the wire of its own, which no other one of this process ever has. They lie in pages as the memory
 * does, so that the device can translate large pages. */
static uint64_t wire_of(const uint8_t *start, uint64_t nbytes)
{
    static uint64_t next = VERBS_LARGE_PAGE;
    uint64_t within = (uintptr_t)start % VERBS_LARGE_PAGE, pages = (within + nbytes) / VERBS_LARGE_PAGE + 1;
    return fetch_add_u64(&next, pages * VERBS_LARGE_PAGE) + within;
}

static int mr_new(struct verbs_dev *d, uint8_t *start, uint8_t *end, uint32_t access, struct verbs_mr **out)
{
    uint64_t nbytes = (uint64_t)(end - start), wire = access ? wire_of(start, nbytes) : (uint64_t)(uintptr_t)start;
    int flags = (access & DSM_READ ? IBV_ACCESS_REMOTE_READ : 0) | (access & DSM_WRITE ? IBV_ACCESS_REMOTE_WRITE : 0) |
                (access & DSM_ATOMIC ? IBV_ACCESS_REMOTE_ATOMIC : 0);
    struct verbs_mr *r = calloc(1, sizeof *r);
    if (!r)
        return err_set(DSM_ENOMEM, 0, "registration");
    *r = (struct verbs_mr){.start = start, .end = end, .users = 1, .writable = true, .kept = !access};
    r->shift = wire - (uint64_t)(uintptr_t)start;
    r->mr = ibv.reg_mr_iova(d->pd, start, nbytes, wire, flags | IBV_ACCESS_LOCAL_WRITE);
    if (!r->mr && errno == EFAULT && access == DSM_READ) { /* read-only pages can be registered for reading */
        r->writable = false;
        r->mr = ibv.reg_mr_iova(d->pd, start, nbytes, wire, flags);
    }
    if (!r->mr) {
        int sys = errno;
        free(r);
        return verbs_reg_failed(sys, start, nbytes);
    }
    *out = r;
    return 0;
}

static void mr_free(struct verbs_mr *r)
{
    ibv.dereg_mr(r->mr);
    if (r->memory)
        memory_drop(r->memory);
    free(r);
}

void verbs_put_mr(struct verbs_mr *r)
{
    if (fetch_sub_u32(&r->users, 1) == 1)
        mr_free(r);
}

/* ---- local buffers of ops ---- */

static struct verbs_mr *new_mr(struct verbs_dev *d, void *p, uint64_t nbytes, bool write)
{
    struct verbs_mr *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    *r = (struct verbs_mr){.start = p, .end = (uint8_t *)p + nbytes, .users = 1, .writable = write};
    r->mr = ibv.reg_mr(d->pd, p, nbytes, write ? IBV_ACCESS_LOCAL_WRITE : 0);
    if (!r->mr) {
        int sys = errno;
        free(r);
        errno = sys;
        return NULL;
    }
    return r;
}

/* The bytes of a local piece. */
static void *piece_of(const dsm_op *op, int i, uint64_t *nbytes)
{
    *nbytes = i ? op->second_nbytes : fabric_op_first(op);
    return i ? op->second : op->local;
}

static bool is_written(const dsm_op *op) { return op->code == DSM_OP_READ; } /* local memory, by the device */

bool verbs_find_local(struct verbs_dev *d, struct fabric_op *w, bool kept)
{
    bool all = true;
    for (int i = 0; i < VERBS_PIECES; i++) {
        uint64_t n;
        void *p = piece_of(w->op, i, &n);
        w->prepared[i] = n ? find_mr(d, p, n, is_written(w->op), kept) : NULL;
        all = all && (!n || w->prepared[i]);
    }
    return all;
}

bool verbs_make_local(struct verbs_dev *d, struct fabric_op *w)
{
    for (int i = 0; i < VERBS_PIECES; i++) {
        uint64_t n;
        void *p = piece_of(w->op, i, &n);
        if (n && !w->prepared[i] && !(w->prepared[i] = new_mr(d, p, n, is_written(w->op)))) {
            int sys = errno;
            verbs_put_local(w);
            errno = sys;
            return false;
        }
    }
    return true;
}

void verbs_put_local(struct fabric_op *w)
{
    for (int i = 0; i < VERBS_PIECES; i++) {
        if (w->prepared[i])
            verbs_put_mr(w->prepared[i]);
        w->prepared[i] = NULL;
    }
}

void verbs_op_prepare(struct fabric_dev *base, struct fabric_op *w)
{
    struct verbs_dev *d = (struct verbs_dev *)base;
    pthread_rwlock_rdlock(&d->lock);
    bool found = verbs_find_local(d, w, true);
    pthread_rwlock_unlock(&d->lock);
    if (!found)
        verbs_make_local(d, w);
}

void verbs_op_release(struct fabric_dev *d, struct fabric_op *w)
{
    (void)d;
    verbs_put_local(w);
}

/* ---- regions ---- */

struct buffer {
    uint8_t *start, *end;
    size_t index;
};

static int buffer_order(const void *a, const void *b)
{
    const struct buffer *x = a, *y = b;
    return x->start < y->start ? -1 : x->start > y->start;
}

static struct verbs_mem *mem_new(struct verbs_dev *d, struct verbs_mr *r, struct memory *memory, uint32_t access)
{
    struct verbs_mem *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    memory_hold(memory);
    m->base = (struct fabric_mem){.dev = &d->base, .memory = memory, .access = access};
    m->mr = r;
    return m;
}

static void mem_delete(struct verbs_mem *m)
{
    memory_drop(m->base.memory);
    free(m);
}

/* Registers b[0 … count-1] together: they are sorted and cover all bytes from b->start to 'end'. */
static int register_run(struct verbs_dev *d, const struct buffer *b, size_t count, uint8_t *end,
                        struct memory *const *memory, uint32_t access, struct verbs_mr **made, struct fabric_mem **out)
{
    int rc = mr_new(d, b->start, end, access, made);
    for (size_t i = 0; i < count && !rc; i++) {
        struct verbs_mem *m = mem_new(d, *made, memory[b[i].index], access);
        if (m) {
            (*made)->regions++;
            out[b[i].index] = &m->base;
        } else {
            rc = err_set(DSM_ENOMEM, 0, "region");
            mr_free(*made);
        }
    }
    if (!rc && memory[b->index]->mapped) { /* allocated, so it is adjacent to no other */
        assert(count == 1);
        memory_hold((*made)->memory = memory[b->index]);
    }
    return rc;
}

static int register_runs(struct verbs_dev *d, const struct buffer *b, size_t n, struct memory *const *memory,
                         uint32_t access, struct verbs_mr **made, size_t *nmade, struct fabric_mem **out)
{
    for (size_t i = 0, j; i < n; i = j) {
        uint8_t *end = b[i].end;
        for (j = i + 1; j < n && b[j].start <= end; j++)
            end = b[j].end > end ? b[j].end : end;
        int rc = register_run(d, b + i, j - i, end, memory, access, &made[*nmade], out);
        if (rc)
            return rc;
        ++*nmade;
    }
    return 0;
}

static int check(const struct verbs_dev *d, const struct memory *m, uint32_t access)
{
    const uint8_t *p = m->data;
    uint64_t nbytes = m->nbytes;
    if (m->kind != MEMORY_HOST)
        return err_set(DSM_EUNSUPPORTED, 0, "memory of kind %u", m->kind);
    if (!nbytes || nbytes > d->attr.max_mr_size || nbytes > UINTPTR_MAX - (uintptr_t)p)
        return err_set(DSM_EINVAL, 0, "%llu bytes; a region on %s has 1 to %llu", (unsigned long long)nbytes, d->name,
                       (unsigned long long)d->attr.max_mr_size);
    if ((access & DSM_ATOMIC) && d->attr.atomic_cap == IBV_ATOMIC_NONE)
        return err_set(DSM_EUNSUPPORTED, 0, "%s has no atomics", d->name);
    if ((access & DSM_ATOMIC) && (uintptr_t)p % 8)
        return err_set(DSM_EALIGN, 0, "a region for atomics starts at %p", (const void *)p);
    return 0;
}

int verbs_reg(struct fabric_dev *base, size_t n, struct memory *const *m, uint32_t access, struct fabric_mem **out)
{
    struct verbs_dev *d = (struct verbs_dev *)base;
    size_t nmade = 0;
    struct buffer *b = malloc((n ? n : 1) * sizeof *b);
    struct verbs_mr **made = malloc((n ? n : 1) * sizeof *made);
    int rc = b && made ? 0 : err_set(DSM_ENOMEM, 0, "%zu buffers", n);
    for (size_t i = 0; i < n && !rc; i++) {
        rc = check(d, m[i], access);
        b[i] = (struct buffer){m[i]->data, m[i]->data + m[i]->nbytes, i};
        out[i] = NULL;
    }
    if (!rc) {
        qsort(b, n, sizeof *b, buffer_order);
        rc = register_runs(d, b, n, m, access, made, &nmade, out);
        if (!rc)
            rc = enter(d, made, nmade);
        for (size_t i = 0; rc && i < n; i++)
            if (out[i]) {
                mem_delete((struct verbs_mem *)out[i]);
                out[i] = NULL;
            }
        for (size_t i = 0; rc && i < nmade; i++)
            mr_free(made[i]);
    }
    free(b);
    free(made);
    return rc;
}

/* All regions of a registration together hold one reference, that of the table; 'regions' counts them. The last one
 * takes the registration out of the table, where ops find it, and drops that reference. */
void verbs_unreg(struct fabric_mem *base)
{
    struct verbs_dev *d = (struct verbs_dev *)base->dev;
    struct verbs_mem *m = (struct verbs_mem *)base;
    if (fetch_sub_u32(&m->mr->regions, 1) == 1) {
        pthread_rwlock_wrlock(&d->lock);
        leave(d, m->mr);
        pthread_rwlock_unlock(&d->lock);
        verbs_put_mr(m->mr);
    }
    mem_delete(m);
}

/* The blob: base u64, the address on the wire of offset 0 | rkey u32 */
enum { BLOB_KEY = 8, BLOB_SIZE = 12 };

int verbs_export(struct fabric_mem *base, struct fabric_blob *out)
{
    const struct verbs_mem *m = (const struct verbs_mem *)base;
    put_u64(out->bytes, (uint64_t)(uintptr_t)base->memory->data + m->mr->shift);
    put_u32(out->bytes + BLOB_KEY, m->mr->mr->rkey);
    out->nbytes = BLOB_SIZE;
    return 0;
}

/* ---- memory of other processes ---- */

int verbs_import(struct fabric_dev *d, const struct fabric_grant *grant, struct fabric_remote **out)
{
    if (grant->kind != MEMORY_HOST)
        return err_set(DSM_EUNSUPPORTED, 0, "memory of kind %u", grant->kind);
    if (grant->blob.nbytes != BLOB_SIZE || grant->blob.nfds)
        return err_set(DSM_EPROTO, 0, "the owner granted no address and key");
    uint64_t start = get_u64(grant->blob.bytes);
    if (!grant->nbytes || grant->nbytes > UINT64_MAX - start)
        return err_set(DSM_EPROTO, 0, "the owner granted an impossible range");
    struct verbs_remote *r = calloc(1, sizeof *r);
    if (!r)
        return err_set(DSM_ENOMEM, 0, "remote");
    r->base = (struct fabric_remote){.dev = d, .nbytes = grant->nbytes, .access = grant->access};
    r->by[0].start = start;
    r->by[0].key = get_u32(grant->blob.bytes + BLOB_KEY);
    *out = &r->base;
    return 0;
}

int verbs_import_by(struct fabric_remote *base, uint32_t theirs, const struct fabric_grant *grant)
{
    struct verbs_remote *r = (struct verbs_remote *)base;
    if (theirs >= FABRIC_DEVICES_MAX || grant->blob.nbytes != BLOB_SIZE || grant->blob.nfds ||
        grant->nbytes != base->nbytes || grant->nbytes > UINT64_MAX - get_u64(grant->blob.bytes))
        return err_set(DSM_EPROTO, 0, "the owner granted other memory by its device %u", theirs);
    r->by[theirs].start = get_u64(grant->blob.bytes);
    r->by[theirs].key = get_u32(grant->blob.bytes + BLOB_KEY);
    return 0;
}

void verbs_forget(struct fabric_remote *r) { free(r); }
#endif
