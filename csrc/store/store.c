/*
 * A client of a store: its place, and operations on one page.
 *
 * Where memory is mapped, nothing is posted, no hints are kept, and an operation first tries the short way of mapped.h.
 */
#include "../base/deadline.h"
#include "../base/mapped_ops.h"
#include "../core/remote.h"
#include "../objects/member.h"
#include "../objects/object.h"
#include "../objects/sure.h"
#include "mapped.h"
#include "window.h"

#include <stdlib.h>

/* ---- places ---- */

/* Closed by another one that sweeps it, too, is closed. */
static int close_chunk(const dsm_store *s, uint64_t chunk, uint64_t word)
{
    return sure_swap_away(s->remote, chunk_at(&s->shape, chunk), word, chunk_next(word, 0, CHUNK_CLOSED));
}

/* The word says whether the client has it open; reading it settles what was in doubt. Its frames are not used from now
 * on, also where the answer is lost. */
static int close_own_chunk(dsm_store *s)
{
    uint64_t word;
    int rc = sure_read(s->remote, chunk_at(&s->shape, s->frames.chunk), &word, 8);
    s->frames = (struct store_frames){.chunk = s->frames.chunk};
    if (rc || chunk_state(word) != CHUNK_OPEN || chunk_owner(word) != s->env.slot + 1)
        return rc;
    return close_chunk(s, s->frames.chunk, word);
}

/* Closes what the dead client has left open, before another one gets its slot: chunk words name owners by slot. Until
 * then its frames are not used; the store has 64 for each slot. */
static int close_chunks(void *arg, uint32_t slot, uint64_t dead)
{
    const dsm_store *s = arg;
    uint64_t words[PER_CHUNK];
    int rc = 0;
    for (uint64_t i = 0; i < s->shape.chunks && !rc; i++) {
        uint64_t left = s->shape.chunks - i, word;
        if (i % PER_CHUNK == 0)
            rc = sure_read(s->remote, chunk_at(&s->shape, i), words, 8 * (left < PER_CHUNK ? left : PER_CHUNK));
        word = words[i % PER_CHUNK];
        if (rc || chunk_state(word) != CHUNK_OPEN || chunk_owner(word) != slot + 1)
            continue;
        int is = member_is(s->remote, STORE_SLOTS, slot, dead);
        rc = is > 0 ? close_chunk(s, i, word) : is;
    }
    return rc;
}

static int join(dsm_store *s)
{
    uint8_t bytes[STORE_HEADER];
    struct object_header approved;
    int rc = object_check(s->remote, DSM_STORE, &approved);
    if (!rc && dsm_remote_nbytes(s->remote) < STORE_SLOTS)
        rc = err_set(DSM_ECORRUPT, 0, "%llu bytes are too few for a store", (unsigned long long)approved.nbytes);
    if (!rc)
        rc = sure_read(s->remote, 0, bytes, sizeof bytes);
    if (!rc && memcmp(bytes, &approved, sizeof approved))
        rc = err_set(DSM_ECORRUPT, 0, "the header of the store changes");
    if (!rc)
        rc = store_parse(bytes, &s->shape);
    if (!rc)
        rc = member_identity(s->remote, &s->identity);
    if (!rc)
        s->env.mark = store_mark(s->identity);
    return rc ? rc : member_join(s->remote, STORE_SLOTS, s->shape.slots, s->identity, close_chunks, s, &s->env.slot);
}

/* A copy of a page that is written; and where ops are posted what is known of pages, and room for many of them. */
static int get_memory(dsm_store *s)
{
    bool posts = !remote_is_mapped(s->remote);
    s->env.copy = malloc(s->shape.page_bytes);
    s->env.hints = posts ? calloc(s->shape.pages, sizeof *s->env.hints) : NULL;
    s->env.freed = calloc(1, sizeof *s->env.freed + s->shape.chunks * sizeof *s->env.freed->of);
    s->window = posts ? window_new(s->shape.page_bytes) : NULL;
    return s->env.copy && s->env.freed && (!posts || (s->env.hints && s->window))
               ? 0
               : err_set(DSM_ENOMEM, 0, "copies of pages, and hints for %llu", (unsigned long long)s->shape.pages);
}

int dsm_store_open(dsm_remote *r, dsm_store **out)
{
    dsm_store *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(DSM_ENOMEM, 0, "a handle of a store");
    s->remote = r;
    s->env =
        (struct store_env){.shape = &s->shape, .copies = 1, .at = &s->remote, .frames = &s->frames, .heads = &s->heads};
    int rc = join(s);
    if (!rc && (rc = get_memory(s)))
        member_leave(r, STORE_SLOTS, s->env.slot, s->identity);
    if (rc) {
        dsm_store_drop(s);
        return rc;
    }
    s->frames.chunk = (uint32_t)(s->env.slot * 0x9e3779b9u % s->shape.chunks);
    *out = s;
    return 0;
}

int dsm_store_leave(dsm_store *s)
{
    s->leaving = true;
    int rc = close_own_chunk(s);
    if (!rc)
        rc = member_leave(s->remote, STORE_SLOTS, s->env.slot, s->identity);
    return rc == -DSM_EFORK || sure_lost(rc) ? 0 : rc;
}

void dsm_store_drop(dsm_store *s)
{
    window_free(s->window);
    free(s->env.copy);
    free(s->env.freed);
    free(s->env.hints);
    free(s);
}

int dsm_store_close(dsm_store *s)
{
    int rc = dsm_store_leave(s);
    if (!rc)
        dsm_store_drop(s);
    return rc;
}

/* ---- layout ---- */

static int lay_out(const dsm_store_shape *shape, struct store_shape *s)
{
    *s = (struct store_shape){
        .page_bytes = shape->page_bytes, .slots = shape->clients, .copies = 1, .pages = shape->pages};
    return store_lay_out(s);
}

int dsm_store_layout(const dsm_store_shape *shape, uint64_t *nbytes)
{
    struct store_shape s;
    int rc = lay_out(shape, &s);
    if (!rc)
        *nbytes = s.nbytes;
    return rc;
}

int dsm_store_format(void *memory, const dsm_store_shape *shape)
{
    struct store_shape s;
    int rc = lay_out(shape, &s);
    return rc ? rc : store_format(memory, &s);
}

dsm_store_shape dsm_store_shape_of(const dsm_store *s)
{
    return (dsm_store_shape){.page_bytes = s->shape.page_bytes, .clients = s->shape.slots, .pages = s->shape.pages};
}

/* ---- counts ---- */

/* How many of n words at 'offset' are of pages that are free, or of places that are taken. */
static int count_words(const dsm_store *s, uint64_t offset, uint64_t n, bool heads, uint64_t *found)
{
    uint64_t words[PER_CHUNK];
    *found = 0;
    for (uint64_t from = 0; from < n; from += PER_CHUNK) {
        uint64_t some = n - from < PER_CHUNK ? n - from : PER_CHUNK;
        int rc = sure_read(s->remote, offset + 8 * from, words, 8 * some);
        if (rc)
            return rc;
        for (uint64_t i = 0; i < some; i++)
            *found += heads ? head_state(words[i]) == HEAD_FREE : words[i] != 0;
    }
    return 0;
}

int dsm_store_count(dsm_store *s, dsm_store_counts *out)
{
    uint64_t clients = 0;
    int rc = count_words(s, head_at(&s->shape, 0), s->shape.pages, true, &out->free_pages);
    if (!rc)
        rc = count_words(s, slot_at(0), s->shape.slots, false, &clients);
    out->clients = (uint32_t)clients;
    return rc;
}

/* ---- operations ---- */

static int allocate(dsm_store *s, uint64_t *ids, size_t n)
{
    struct store_allocation m = {.ids = ids, .want = n};
    struct store_env env = s->env;
    int rc = store_enter(s);
    if (rc)
        return rc;
    env.now = clock_ns();
    while (store_allocate_step(&m, &env) == STORE_POST)
        store_execute(s, m.ops, m.n);
    return store_exit(s, m.status);
}

/* Another thread may change the caller's array. What it says is not what would be given back. */
int dsm_store_allocate(dsm_store *s, uint64_t *ids, size_t n)
{
    uint64_t few[PER_CHUNK], *own = few;
    if (n > s->shape.pages)
        return err_set(DSM_ESTOREFULL, 0, "%zu pages of a store that has %llu", n, (unsigned long long)s->shape.pages);
    if (n > PER_CHUNK && !(own = malloc(n * sizeof *own)))
        return err_set(DSM_ENOMEM, 0, "the ids of %zu pages", n);
    int rc = allocate(s, own, n);
    if (!rc)
        memcpy(ids, own, n * sizeof *own);
    if (own != few)
        free(own);
    return rc;
}

static int operate(dsm_store *s, struct store_op *m, uint64_t *version)
{
    int rc = store_enter(s);
    if (rc)
        return rc;
    rc = store_drive(s, m);
    if (version)
        *version = m->version;
    return store_exit(s, rc);
}

int dsm_store_read_now(const dsm_store *s, uint64_t pid, void *out, uint64_t *version)
{
    return remote_is_mapped(s->remote) ? mapped_page_read(s->remote, &s->shape, pid, out, version) : 1;
}

int dsm_store_version_now(const dsm_store *s, uint64_t pid, uint64_t *version)
{
    return remote_is_mapped(s->remote) ? mapped_page_version(s->remote, &s->shape, pid, version) : 1;
}

int dsm_store_write_now(dsm_store *s, uint64_t pid, const uint64_t *expected, const void *page, uint64_t *version)
{
    return remote_is_mapped(s->remote) ? mapped_page_write(s->remote, &s->env, pid, expected, page, version) : 1;
}

int dsm_store_read(dsm_store *s, uint64_t pid, void *out, uint64_t *version)
{
    if (!dsm_store_read_now(s, pid, out, version))
        return 0;
    struct store_op m = {.kind = STORE_READ, .pid = pid, .page = out};
    return operate(s, &m, version);
}

int dsm_store_version(dsm_store *s, uint64_t pid, uint64_t *version)
{
    if (!dsm_store_version_now(s, pid, version))
        return 0;
    struct store_op m = {.kind = STORE_VERSION, .pid = pid};
    return operate(s, &m, version);
}

/* A chunk that can't be opened is the machine's to report. */
static int write_page(dsm_store *s, uint64_t pid, const uint64_t *expected, const void *page, uint64_t *version)
{
    if (remote_is_mapped(s->remote) && !s->frames.free)
        store_open_chunk(s);
    if (!dsm_store_write_now(s, pid, expected, page, version))
        return 0;
    struct store_op m = {.kind = expected ? STORE_COMPARE_WRITE : STORE_WRITE,
                         .pid = pid,
                         .page = (void *)(uintptr_t)page,
                         .expected = expected ? *expected : 0};
    return operate(s, &m, version);
}

int dsm_store_write(dsm_store *s, uint64_t pid, const void *page, uint64_t *version)
{
    return write_page(s, pid, NULL, page, version);
}

int dsm_store_compare_write(dsm_store *s, uint64_t pid, uint64_t expected, const void *page, uint64_t *version)
{
    return write_page(s, pid, &expected, page, version);
}

int dsm_store_free(dsm_store *s, uint64_t pid)
{
    struct store_op m = {.kind = STORE_FREE, .pid = pid};
    return operate(s, &m, NULL);
}
