/*
 * Whether what lies in the memory of each copy is what pages.md says of it; and a page whose frame is damaged at some
 * copies is written again from a copy where it is whole.
 *
 * Other clients go on meanwhile. A finding holds if the head of copy 0 was the same before and after the look at it: a
 * frame that a head names does not change, and when the head of copy 0 names a frame all copies have that head.
 */
#include "../base/error.h"
#include "../objects/sure.h"
#include "client.h"
#include "posting.h"

#include <stdlib.h>

enum { LOOKS = 5, PAUSE = 1000000 }; /* at a page that others change; ns between them */

struct look {
    dsm_store *s;
    uint64_t number, head; /* of the page; at copy 0 */
    uint64_t id;           /* 0: not known */
    uint8_t *frame;        /* room for one: header and page */
};

static int read_head(dsm_store *s, uint32_t k, uint64_t number, uint64_t *head)
{
    uint32_t place = place_of(&s->env, number, k);
    int rc = sure_words(s->at[place], head_of_page_at(&s->shape, number), head, 1);
    if (rc)
        posting_blame(s, place);
    return rc;
}

/* 1: it is whole, and is the page's; it stays in l->frame. 0: it is not. */
static int frame_is_good(struct look *l, uint32_t k)
{
    const struct store_shape *shape = &l->s->shape;
    if (head_low(l->head) >= frames_of(shape))
        return 0;
    uint32_t place = place_of(&l->s->env, l->number, k);
    int rc = sure_read(l->s->at[place], frame_at(shape, head_low(l->head)), l->frame,
                       sizeof(struct frame_header) + shape->page_bytes);
    struct frame_header h;
    memcpy(&h, l->frame, sizeof h);
    if (rc)
        posting_blame(l->s, place);
    if (rc || !frame_fits(&h, l->number, l->head))
        return rc;
    l->id = h.pid;
    return frame_holds(&h, l->frame + sizeof h, shape->page_bytes);
}

/* At another copy than the primary, which has that head: the lock of the change that has made it, whose unlock is late;
 * or of one that is about to lose. A later change replaces it if its client is dead. */
static bool is_passing(uint64_t word, uint64_t head)
{
    int64_t behind = versions_ahead(head, word);
    return head_locked(word) && !head_in_transaction(word) && (behind == 0 || behind == 1);
}

/* What is wrong while l->head is the head. */
static int look_once(struct look *l, dsm_store_fault *f)
{
    f->heads = f->frames = 0;
    l->id = head_state(l->head) == HEAD_EMPTY ? page_id(head_low(l->head), l->number) : 0;
    for (uint32_t k = 0; k < copies_of_page(&l->s->env, l->number); k++) {
        uint64_t head = l->head;
        int rc = k ? read_head(l->s, k, l->number, &head) : 0;
        if (!rc && head_state(l->head) == HEAD_FRAMED)
            rc = frame_is_good(l, k);
        else if (!rc)
            rc = 1;
        if (rc < 0)
            return rc;
        f->heads |= (uint8_t)((head != l->head && !is_passing(head, l->head)) << k);
        f->frames |= (uint8_t)((rc == 0) << k);
    }
    return 0;
}

static bool is_state(uint64_t head)
{
    return head_state(head) == HEAD_FRAMED || head_state(head) == HEAD_EMPTY || head_state(head) == HEAD_FREE;
}

/* The page is as it should be, or *f says what is wrong. */
static int look_at(struct look *l, dsm_store_fault *f)
{
    for (int looks = 0; looks < LOOKS; looks++) {
        uint64_t after = 0;
        if (looks) {
            store_sleep(PAUSE);
            int rc = read_head(l->s, 0, l->number, &l->head);
            if (rc)
                return rc;
        }
        if (head_locked(l->head))
            continue;
        int rc = look_once(l, f);
        if (rc || !(f->heads | f->frames | !is_state(l->head)))
            return rc;
        rc = read_head(l->s, 0, l->number, &after);
        f->unknown = !is_state(l->head);
        if (rc || after == l->head)
            return rc;
    }
    *f = (dsm_store_fault){.page = l->number, .changes = 1};
    return 0;
}

static bool is_wrong(const dsm_store_fault *f) { return f->heads || f->frames || f->changes || f->unknown; }

/* In one extent they lie in a row. */
static int read_heads(dsm_store *s, uint64_t first, uint32_t n, uint64_t *heads)
{
    int rc = 0;
    if (s->shape.extents == 1)
        return sure_read(s->at[0], head_at(&s->shape, first), heads, n * sizeof *heads);
    for (uint32_t i = 0; i < n && !rc; i++)
        rc = read_head(s, 0, first + i, &heads[i]);
    return rc;
}

static int check(dsm_store *s, uint64_t first, uint32_t n, dsm_store_fault *faults, uint32_t *found, uint8_t *frame)
{
    uint64_t heads[PER_CHUNK];
    int rc = read_heads(s, first, n, heads);
    for (uint32_t i = 0; i < n && !rc; i++) {
        struct look l = {.s = s, .number = first + i, .head = heads[i], .frame = frame};
        dsm_store_fault *f = &faults[*found];
        *f = (dsm_store_fault){.page = first + i};
        rc = look_at(&l, f);
        f->id = f->changes ? 0 : l.id;
        *found += !rc && is_wrong(f);
    }
    return rc;
}

static uint8_t *room(const dsm_store *s)
{
    uint8_t *frame = malloc(sizeof(struct frame_header) + s->shape.page_bytes);
    if (!frame)
        err_set(DSM_ENOMEM, 0, "a page of %u bytes", s->shape.page_bytes);
    return frame;
}

int dsm_store_check(dsm_store *s, uint64_t first, uint32_t n, dsm_store_fault *faults, uint32_t *found)
{
    *found = 0;
    if (first > store_pages(&s->shape) || n > store_pages(&s->shape) - first || n > DSM_STORE_CHECKED)
        return err_set(DSM_EINVAL, 0, "%u pages from %llu of %llu", n, (unsigned long long)first,
                       (unsigned long long)store_pages(&s->shape));
    uint8_t *frame = room(s);
    if (!frame)
        return -DSM_ENOMEM;
    int rc = store_enter(s);
    if (!rc)
        rc = store_exit(s, check(s, first, n, faults, found, frame));
    free(frame);
    return rc;
}

/* ---- repair ---- */

/* The page as a copy has it, whole, into l->frame. 1: some copy has. */
static int find_good(struct look *l)
{
    for (uint32_t k = 0; k < copies_of_page(&l->s->env, l->number); k++) {
        int rc = frame_is_good(l, k);
        if (rc)
            return rc;
    }
    return 0;
}

/* The client is told what the page has, since its own look at copy 0 may find a header that is not whole. */
static int write_again(const struct look *l)
{
    struct frame_header h;
    struct store_op m;
    struct store_env now = l->s->env;
    memcpy(&h, l->frame, sizeof h);
    store_ask(&now);
    l->s->env.hints[l->number] = (struct store_hint){.version = h.version,
                                                     .generation = page_generation(h.pid),
                                                     .frame = head_low(l->head),
                                                     .time = (uint16_t)(now.now / 1000000000)};
    store_op_begin(&m, STORE_COMPARE_WRITE, h.pid, l->frame + sizeof h);
    m.expected = h.version;
    return store_drive(l->s, &m);
}

static int repair(struct look *l, int *repaired)
{
    dsm_store_fault f = {0};
    int rc = read_head(l->s, 0, l->number, &l->head);
    if (!rc)
        rc = look_at(l, &f);
    if (rc || !f.frames || f.changes)
        return rc;
    rc = f.heads ? 0 : find_good(l);
    if (rc < 0)
        return rc;
    if (rc == 0)
        return err_set(DSM_ECORRUPT, 0, "page number %llu: no copy of it is whole", (unsigned long long)l->number);
    rc = write_again(l);
    *repaired = !rc;
    return rc == -DSM_ECONFLICT || rc == -DSM_EPAGE ? 0 : rc; /* another client has replaced it */
}

int dsm_store_repair(dsm_store *s, uint64_t page, int *repaired)
{
    struct look l = {.s = s, .number = page};
    *repaired = 0;
    if (page >= store_pages(&s->shape))
        return err_set(DSM_EPAGE, 0, "page %llu", (unsigned long long)page);
    if (copies_of_page(&s->env, page) < 2)
        return err_set(DSM_EUNSUPPORTED, 0, "a page of one copy has no other to repair it from");
    l.frame = room(s);
    if (!l.frame)
        return -DSM_ENOMEM;
    int rc = store_enter(s);
    if (!rc)
        rc = store_exit(s, repair(&l, repaired));
    free(l.frame);
    return rc;
}
