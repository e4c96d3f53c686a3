/*
 * A client of a store: its place, and operations on one page.
 *
 * Where memory is mapped, nothing is posted, no hints are kept, and an operation first tries the short way of mapped.h.
 */
#include "../base/deadline.h"
#include "../base/mapped_ops.h"
#include "../core/remote.h"
#include "../objects/sure.h"
#include "client.h"
#include "mapped.h"
#include "place.h"
#include "posting.h"
#include "window.h"

#include <stdlib.h>
#include <string.h>

/* ---- opening and leaving ---- */

/* Words that a survey reads at a time; and chunks of which it reads heads and words in about the time in which one is
 * looked through. Postings cost most; where memory is mapped, bytes do. */
enum { SURVEY_WORDS = 1 << 15, SURVEY_COSTS = 256, SURVEY_COSTS_MAPPED = 8 };

/* A copy of a page that is written; and where ops are posted what is known of pages, and room for many of them. */
static int get_memory(dsm_store *s)
{
    bool posts = !remote_is_mapped(s->at[0]);
    s->env.copy = malloc(s->shape.page_bytes);
    s->env.hints = posts ? calloc(store_pages(&s->shape), sizeof *s->env.hints) : NULL;
    s->env.freed = calloc(s->shape.extents, freed_bytes(&s->shape));
    s->env.survey = malloc(8 * SURVEY_WORDS);
    s->env.survey_words = SURVEY_WORDS;
    s->env.survey_costs = (uint32_t)(s->shape.chunks / (posts ? SURVEY_COSTS : SURVEY_COSTS_MAPPED));
    s->window = posts ? window_new(s->shape.page_bytes) : NULL;
    return s->env.copy && s->env.freed && s->env.survey && (!posts || (s->env.hints && s->window))
               ? 0
               : err_set(DSM_ENOMEM, 0, "copies of pages, and hints for %llu",
                         (unsigned long long)store_pages(&s->shape));
}

/* So long that a client which has died is proven dead meanwhile, where servers have their usual grace period, 30 s. */
#define LOCK_WAIT 40000000000ll

/* Of one extent, until its header says how many there are. */
static dsm_store *new_handle(dsm_remote *const *at, uint32_t n)
{
    dsm_store *s = calloc(1, sizeof *s);
    if (s && !(s->posting = posting_new())) {
        free(s);
        s = NULL;
    }
    if (!s)
        return NULL;
    memcpy(s->at, at, n * sizeof *at);
    s->shape.extents = 1;
    s->env = (struct store_env){.shape = &s->shape,
                                .copies = n,
                                .at = s->at,
                                .dues = &s->dues,
                                .intents = &s->intents,
                                .words = &s->words,
                                .held = &s->held,
                                .lock_wait = LOCK_WAIT,
                                .frames = s->frames,
                                .heads = &s->heads,
                                .retries = &s->retries};
    for (uint32_t k = 0; k < n; k++)
        s->env.mixes |= !remote_reads_whole(at[k]);
    posting_begin(s);
    return s;
}

int dsm_store_open(dsm_remote *const *at, uint32_t n, dsm_store **out, uint32_t *failed)
{
    if (!n || n > STORE_PLACES_MOST)
        return err_set(DSM_EINVAL, 0, "%u copies of all extents; 1 to %d", n, STORE_PLACES_MOST);
    dsm_store *s = new_handle(at, n);
    *failed = 0;
    if (!s)
        return err_set(DSM_ENOMEM, 0, "a handle of a store");
    int rc = place_take(s);
    if (!rc && (rc = get_memory(s)))
        place_leave(s);
    if (rc) {
        *failed = dsm_store_failed(s);
        dsm_store_drop(s);
        return rc;
    }
    for (uint32_t x = 0; x < s->shape.extents; x++)
        s->frames[x].chunk = (uint32_t)(s->env.slot * 0x9e3779b9u % s->shape.chunks);
    s->fewest = s->env.copies;
    for (uint32_t x = 0; x < s->shape.extents; x++)
        if (copies_of(&s->env, x) < s->fewest)
            s->fewest = copies_of(&s->env, x);
    s->env.in_turn = s->shape.epoch && !remote_is_mapped(s->at[0]);
    *out = s;
    return 0;
}

int dsm_store_leave(dsm_store *s)
{
    s->leaving = true;
    int rc = place_leave(s);
    if (sure_lost(rc) && rc != -DSM_EFORK)
        place_abandon(s);
    return rc == -DSM_EFORK || sure_lost(rc) ? 0 : rc;
}

void dsm_store_drop(dsm_store *s)
{
    posting_collect(s);
    posting_free(s->posting);
    window_free(s->window);
    free(s->env.copy);
    free(s->env.freed);
    free(s->env.survey);
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

void dsm_store_wait(dsm_store *s, int64_t ns) { s->env.lock_wait = ns; }

uint32_t dsm_store_failed(const dsm_store *s) { return posting_failed(s); }

/* ---- layout ---- */

static int lay_out(const dsm_store_shape *shape, struct store_shape *s)
{
    uint32_t extents = shape->extents ? shape->extents : 1;
    *s = (struct store_shape){.page_bytes = shape->page_bytes,
                              .slots = shape->clients,
                              .pages = shape->pages / extents,
                              .copies = shape->copies ? shape->copies : 1,
                              .index = shape->index,
                              .extents = extents,
                              .extent = shape->extent,
                              .spread = shape->spread,
                              .id = shape->id,
                              .nodes = shape->nodes};
    if (shape->spread > UINT16_MAX)
        return err_set(DSM_EINVAL, 0, "extents at %u memory nodes; at most %d", shape->spread, UINT16_MAX);
    if (shape->pages % extents)
        return err_set(DSM_EINVAL, 0, "%llu pages in %u extents; a multiple of that", (unsigned long long)shape->pages,
                       extents);
    return store_lay_out(s);
}

static dsm_store_shape shape_of(const struct store_shape *s)
{
    return (dsm_store_shape){.page_bytes = s->page_bytes,
                             .clients = s->slots,
                             .pages = store_pages(s),
                             .copies = s->copies,
                             .index = s->index,
                             .extents = s->extents,
                             .extent = s->extent,
                             .spread = s->spread,
                             .id = s->id,
                             .nodes = s->nodes,
                             .epoch = s->epoch};
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

dsm_store_shape dsm_store_shape_of(const dsm_store *s) { return shape_of(&s->shape); }

int dsm_store_look(dsm_remote *r, dsm_store_shape *shape, uint64_t *state)
{
    struct store_shape found;
    int rc = place_look(r, &found, state);
    if (!rc)
        *shape = shape_of(&found);
    return rc;
}

int dsm_store_settle(dsm_remote *r, uint64_t from, uint64_t state, uint64_t *decided)
{
    int rc = sure_swap_away(r, STORE_COMPLETE, from, state);
    return rc ? rc : sure_read(r, STORE_COMPLETE, decided, sizeof *decided);
}

/* ---- counts ---- */

uint64_t dsm_store_retries(const dsm_store *s) { return load_relaxed_u64(&s->retries); }

/* Adds how many of n words at 'offset' of a place are of pages that are free, or of slots that are taken. */
static int count_words(const dsm_store *s, uint32_t place, uint64_t offset, uint64_t n, bool heads, uint64_t *found)
{
    uint64_t words[PER_CHUNK];
    for (uint64_t from = 0; from < n; from += PER_CHUNK) {
        uint64_t some = n - from < PER_CHUNK ? n - from : PER_CHUNK;
        int rc = sure_read(s->at[place], offset + 8 * from, words, 8 * some);
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
    int rc = count_words(s, 0, slot_at(0), s->shape.slots, false, &clients);
    out->free_pages = 0;
    for (uint32_t x = 0; x < s->shape.extents && !rc; x++)
        rc = count_words(s, first_of(&s->env, x), head_at(&s->shape, 0), s->shape.pages, true, &out->free_pages);
    out->clients = (uint32_t)clients;
    return rc;
}

/* ---- operations ---- */

static int drive_allocation(dsm_store *s, struct store_allocation *m)
{
    struct store_env env = s->env;
    for (;;) {
        store_ask(&env);
        switch (store_allocate_step(m, &env)) {
        case STORE_POST:
            store_insist(s, m->ops, m->n);
            break;
        case STORE_SLEEP:
            store_sleep(m->sleep_ns);
            break;
        case STORE_RECOVER:
            store_recover(s, m->locked, m->lock,
                          m->copy); /* without success: pages that were taken are given back first */
            break;
        default:
            return store_explain(s, m->status);
        }
    }
}

static int allocate(dsm_store *s, uint64_t *ids, size_t n, size_t *left)
{
    struct store_allocation m;
    store_allocation_begin(&m, ids, n);
    int rc = store_enter_to_change(s);
    if (!rc)
        rc = store_exit(s, drive_allocation(s, &m));
    *left = (size_t)m.left;
    return rc;
}

/* Another thread may change the caller's array. What it says is not what would be given back. */
int dsm_store_allocate(dsm_store *s, uint64_t *ids, size_t n, size_t *left)
{
    uint64_t few[PER_CHUNK], *own = few;
    *left = 0;
    if (n > store_pages(&s->shape))
        return err_set(DSM_ESTOREFULL, 0, "%zu pages of a store that has %llu", n,
                       (unsigned long long)store_pages(&s->shape));
    if (n > PER_CHUNK && !(own = malloc(n * sizeof *own)))
        return err_set(DSM_ENOMEM, 0, "the ids of %zu pages", n);
    int rc = allocate(s, own, n, left);
    memcpy(ids, own, (rc ? *left : n) * sizeof *own);
    if (own != few)
        free(own);
    return rc;
}

static int operate(dsm_store *s, struct store_op *m, uint64_t *version)
{
    int rc = kind_changes(m->kind) ? store_enter_to_change(s) : store_enter(s);
    if (rc)
        return rc;
    rc = store_drive(s, m);
    if (m->kind >= STORE_WRITE)
        s->doubt.pid = 0;
    if (rc == -DSM_EUNKNOWN)
        s->doubt = m->doubt;
    if (version)
        *version = m->version;
    return store_exit(s, rc);
}

int dsm_store_read_now(const dsm_store *s, uint64_t pid, void *out, uint64_t *version)
{
    return remote_is_mapped(s->at[0]) ? mapped_page_read(s->at[0], &s->shape, pid, out, version, NULL) : 1;
}

int dsm_store_version_now(const dsm_store *s, uint64_t pid, uint64_t *version)
{
    return remote_is_mapped(s->at[0]) ? mapped_page_version(s->at[0], &s->shape, pid, version) : 1;
}

int dsm_store_write_now(dsm_store *s, uint64_t pid, const uint64_t *expected, const void *page, uint64_t *version)
{
    return remote_is_mapped(s->at[0]) ? mapped_page_write(s->at[0], &s->env, pid, expected, page, version) : 1;
}

int store_read_page(dsm_store *s, uint64_t pid, void *out, bool hurries, bool *of_page)
{
    if (!dsm_store_read_now(s, pid, out, NULL))
        return 0;
    struct store_op m;
    store_op_begin(&m, STORE_READ, pid, out);
    m.hurries = hurries;
    int rc = operate(s, &m, NULL);
    *of_page = m.of_page;
    return rc;
}

int dsm_store_read(dsm_store *s, uint64_t pid, void *out, uint64_t *version)
{
    if (!dsm_store_read_now(s, pid, out, version))
        return 0;
    struct store_op m;
    store_op_begin(&m, STORE_READ, pid, out);
    return operate(s, &m, version);
}

int dsm_store_version(dsm_store *s, uint64_t pid, uint64_t *version)
{
    if (!dsm_store_version_now(s, pid, version))
        return 0;
    struct store_op m;
    store_op_begin(&m, STORE_VERSION, pid, NULL);
    return operate(s, &m, version);
}

static dsm_page_metadata metadata_of(const struct frame_header *h)
{
    if (!h->writer)
        return (dsm_page_metadata){.version = h->version, .change = DSM_PAGE_EMPTY};
    bool committed = writer_in_transaction(h->writer);
    return (dsm_page_metadata){.version = h->version,
                               .time = h->time,
                               .slot = writer_slot(h->writer),
                               .epoch = writer_epoch(h->writer),
                               .change = committed ? DSM_PAGE_COMMITTED : DSM_PAGE_WRITTEN,
                               .transaction = committed ? writer_transaction(h->writer) : 0};
}

int dsm_store_metadata_now(const dsm_store *s, uint64_t pid, dsm_page_metadata *out)
{
    struct frame_header said;
    if (!remote_is_mapped(s->at[0]) || mapped_page_header(s->at[0], &s->shape, pid, &said, NULL))
        return 1;
    *out = metadata_of(&said);
    return 0;
}

/* What proves the head of a page in a frame is its header. */
int dsm_store_metadata(dsm_store *s, uint64_t pid, dsm_page_metadata *out)
{
    if (!dsm_store_metadata_now(s, pid, out))
        return 0;
    struct store_op m;
    store_op_begin(&m, STORE_VERSION, pid, NULL);
    int rc = operate(s, &m, NULL);
    if (rc)
        return rc;
    if (head_state(m.guess) == HEAD_EMPTY)
        m.header = (struct frame_header){.version = m.version};
    *out = metadata_of(&m.header);
    return 0;
}

/* A chunk that can't be opened is the machine's to report. Whether the page is written. */
static bool write_now(dsm_store *s, uint64_t pid, const uint64_t *expected, const void *page, uint64_t *version)
{
    if (remote_is_mapped(s->at[0]) && !s->frames->free)
        store_open_chunk(s, 0);
    return !dsm_store_write_now(s, pid, expected, page, version);
}

int store_write_page(dsm_store *s, uint64_t pid, const void *page, uint64_t *version, bool hurries, bool *of_page)
{
    if (write_now(s, pid, NULL, page, version))
        return 0;
    struct store_op m;
    store_op_begin(&m, STORE_WRITE, pid, (void *)(uintptr_t)page);
    m.hurries = hurries;
    int rc = operate(s, &m, version);
    *of_page = m.of_page;
    return rc;
}

static int write_page(dsm_store *s, uint64_t pid, const uint64_t *expected, const void *page, uint64_t *version)
{
    if (write_now(s, pid, expected, page, version))
        return 0;
    struct store_op m;
    store_op_begin(&m, expected ? STORE_COMPARE_WRITE : STORE_WRITE, pid, (void *)(uintptr_t)page);
    if (expected)
        m.expected = *expected;
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
    struct store_op m;
    store_op_begin(&m, STORE_FREE, pid, NULL);
    return operate(s, &m, NULL);
}
