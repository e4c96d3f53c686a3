#include "mapped.h"

#include "../base/mapped_ops.h"

#include <stddef.h>
#include <time.h>

/* What a page had at an instant. */
struct proven {
    uint64_t *word; /* of the head */
    uint64_t head, version;
    const uint8_t *frame; /* NULL: the page is empty */
};

static bool is_allowed(const dsm_remote *r, const struct store_shape *s, uint64_t pid, uint32_t rights)
{
    return remote_allows(r, 0, s->nbytes, rights) && page_number(pid) < s->pages;
}

static uint64_t *head_word(const dsm_remote *r, const struct store_shape *s, uint64_t pid)
{
    return (uint64_t *)(void *)remote_at(r, head_at(s, page_number(pid)));
}

uint64_t mapped_head(const dsm_remote *r, const struct store_shape *s, uint64_t pid)
{
    const uint64_t *word = head_word(r, s, pid);
    return load_acquire_u64(word);
}

/* The head as it is, and what its frame says, which counts if the head is still there afterwards. */
static bool look(const dsm_remote *r, const struct store_shape *s, uint64_t pid, struct proven *p)
{
    p->word = head_word(r, s, pid);
    p->head = load_acquire_u64(p->word); /* its partner is the compare-swap of a write */
    p->frame = NULL;
    p->version = head_version(p->head);
    if (head_state(p->head) == HEAD_EMPTY)
        return head_low(p->head) == page_generation(pid) && page_generation(pid);
    if (head_state(p->head) != HEAD_FRAMED || head_low(p->head) >= frames_of(s))
        return false;
    p->frame = remote_at(r, frame_at(s, head_low(p->head)));
    const struct frame_header *h = (const struct frame_header *)(const void *)p->frame;
    p->version = load_relaxed_u64(&h->version);
    return load_relaxed_u64(&h->pid) == pid && head_names(p->head, p->version);
}

static bool is_still(const struct proven *p, uint64_t pid)
{
    const struct frame_header *h = (const struct frame_header *)(const void *)p->frame;
    fence_acquire(); /* with the fence_release() of fill() */
    return load_relaxed_u64(p->word) == p->head &&
           (!h || (load_relaxed_u64(&h->version) == p->version && load_relaxed_u64(&h->pid) == pid));
}

int mapped_page_read(const dsm_remote *r, const struct store_shape *s, uint64_t pid, void *out, uint64_t *version,
                     uint64_t *head)
{
    struct proven p;
    if (!is_allowed(r, s, pid, DSM_READ) || !look(r, s, pid, &p) || !p.frame)
        return 1;
    mapped_copy(out, p.frame + sizeof(struct frame_header), s->page_bytes);
    if (!is_still(&p, pid))
        return 1;
    if (version)
        *version = p.version;
    if (head)
        *head = p.head;
    return 0;
}

int mapped_page_version(const dsm_remote *r, const struct store_shape *s, uint64_t pid, uint64_t *version)
{
    struct proven p;
    if (!is_allowed(r, s, pid, DSM_READ) || !look(r, s, pid, &p) || !is_still(&p, pid))
        return 1;
    if (version)
        *version = p.version;
    return 0;
}

int mapped_page_header(const dsm_remote *r, const struct store_shape *s, uint64_t pid, struct frame_header *said,
                       uint64_t *head)
{
    struct proven p;
    if (!is_allowed(r, s, pid, DSM_READ) || !look(r, s, pid, &p))
        return 1;
    *said = (struct frame_header){.version = p.version};
    if (p.frame)
        mapped_copy(said, p.frame, sizeof *said);
    if (!is_still(&p, pid) || (p.frame && !frame_fits(said, page_number(pid), p.head)))
        return 1;
    if (head)
        *head = p.head;
    return 0;
}

/* ---- writing ---- */

/* Exact to the tick of the kernel, some milliseconds: the exact time would cost as much as the rest of the header. */
static uint64_t stamp(void)
{
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME_COARSE, &wall);
    return ((uint64_t)wall.tv_sec * 1000 + (uint64_t)wall.tv_nsec / 1000000) << 16;
}

/* A reader that gets new bytes here, for a head that named the frame before, then sees that this head is gone; and if
 * it has come back, that the frame has another version. So the fences: behind the swap that freed the frame, and
 * between the version and the page. */
static void fill(uint8_t *frame, struct frame_header *h, const void *page, uint32_t page_bytes)
{
    uint64_t words[sizeof *h / 8], *to = (uint64_t *)(void *)frame;
    enum { BEFORE_HASH = offsetof(struct frame_header, hash) / 8 };
    memcpy(words, h, sizeof words);
    fence_release();
    for (int i = 0; i < BEFORE_HASH; i++)
        store_relaxed_u64(&to[i], words[i]);
    fence_release();
    frame_seal(h, frame + sizeof *h, page, page_bytes);
    memcpy(words, h, sizeof words);
    for (int i = BEFORE_HASH; i < (int)(sizeof words / 8); i++)
        store_relaxed_u64(&to[i], words[i]);
}

int mapped_page_write(const dsm_remote *r, const struct store_env *e, uint64_t pid, const uint64_t *expected,
                      const void *page, uint64_t *version)
{
    const struct store_shape *s = e->shape;
    struct proven p;
    if (!is_allowed(r, s, pid, DSM_READ | DSM_WRITE | DSM_ATOMIC) || !look(r, s, pid, &p) || !is_still(&p, pid) ||
        (expected && *expected != p.version))
        return 1;
    uint32_t frame = frames_take(e->frames);
    if (frame == NO_FRAME)
        return 1;
    struct frame_header h = {.pid = pid,
                             .version = p.version + 1,
                             .writer = frame_writer(e->slot, s->epoch, e->mark),
                             .time = stamp(),
                             .before = p.head};
    fill(remote_at(r, frame_at(s, frame)), &h, page, s->page_bytes);
    if (compare_swap_u64(p.word, p.head, head_of(HEAD_FRAMED, h.version, frame)) != p.head) {
        store_count_retry(e);
        frames_put_back(e, 0, frame);
        return 1;
    }
    if (p.frame)
        frames_put_back(e, 0, head_low(p.head));
    if (version)
        *version = h.version;
    return 0;
}
