/* Segments: layout, the checks of an attach, resizing, waiting for changes. segment.h has the layout. */
#include "segment.h"

#include "../../base/crc32.h"
#include "../../base/deadline.h"
#include "../backoff.h"
#include "../member.h"
#include "../sure.h"

#include <stdlib.h>
#include <string.h>

/* ---- layout ---- */

static int row_of(dsm_segment *s)
{
    s->row_bytes = s->itemsize;
    for (uint32_t i = 1; i < s->axes; i++)
        if (!s->shape[i] || __builtin_mul_overflow(s->row_bytes, s->shape[i], &s->row_bytes))
            return err_set(DSM_EINVAL, 0, "axis %u of the shape has length %llu", i, (unsigned long long)s->shape[i]);
    return 0;
}

static bool up_to_page(uint64_t *n)
{
    if (*n > UINT64_MAX / 4)
        return false;
    *n = (*n + SEGMENT_DATA - 1) / SEGMENT_DATA * SEGMENT_DATA;
    return true;
}

int dsm_segment_layout(dsm_segment *s, uint64_t *nbytes)
{
    if (s->axes > DSM_SEGMENT_AXES || !s->itemsize || !s->dtype_length || s->dtype_length > DSM_SEGMENT_DTYPE)
        return err_set(DSM_EINVAL, 0, "%u axes of at most %d, %u bytes an element, a dtype of %u bytes of at most %d",
                       s->axes, DSM_SEGMENT_AXES, s->itemsize, s->dtype_length, DSM_SEGMENT_DTYPE);
    int rc = row_of(s);
    if (rc)
        return rc;
    s->rows = s->axes ? s->shape[0] : 1;
    if (s->capacity < s->rows)
        s->capacity = s->rows;
    uint64_t data;
    if (__builtin_mul_overflow(s->row_bytes, s->capacity, &data) || !up_to_page(&data))
        return err_set(DSM_ENOMEM, 0, "%llu rows of %llu bytes", (unsigned long long)s->capacity,
                       (unsigned long long)s->row_bytes);
    s->data = SEGMENT_DATA;
    s->shadow = s->versioned ? s->data + data : 0;
    *nbytes = s->data + (s->versioned ? 2 * data : data);
    return 0;
}

static uint32_t header_crc(const struct segment_header *h, const char *dtype)
{
    uint8_t bytes[SEGMENT_ROWS + DSM_SEGMENT_DTYPE];
    memcpy(bytes, h, SEGMENT_ROWS);
    memset(bytes + offsetof(struct segment_header, crc), 0, sizeof h->crc);
    memcpy(bytes + SEGMENT_ROWS, dtype, h->dtype_length);
    return crc32(bytes, SEGMENT_ROWS + h->dtype_length);
}

int dsm_segment_format(void *memory, uint64_t nbytes, const dsm_segment *s)
{
    struct segment_header *h = memory;
    int rc = object_format(memory, DSM_SEGMENT, nbytes);
    if (rc)
        return rc;
    h->capacity = s->capacity;
    h->row_bytes = s->row_bytes;
    h->data = s->data;
    h->shadow = s->shadow;
    h->axes = s->axes;
    h->itemsize = s->itemsize;
    h->dtype_length = s->dtype_length;
    memcpy(h->shape, s->shape, s->axes * sizeof *h->shape);
    memcpy((char *)memory + SEGMENT_DTYPE, s->dtype, s->dtype_length);
    struct segment_words *w = (struct segment_words *)((char *)memory + SEGMENT_ROWS);
    w->rows = w->shadow_rows = s->rows;
    h->crc = header_crc(h, s->dtype);
    return 0;
}

/* ---- attach ---- */

/* Compares a copy of the header with what it would say if the segment had been made here. */
static int check(const struct segment_header *h, const dsm_segment *s)
{
    dsm_segment same = *s;
    uint64_t nbytes;
    if (h->crc != header_crc(h, s->dtype) || dsm_segment_layout(&same, &nbytes))
        return err_set(DSM_ECORRUPT, 0, "the header of the segment is damaged");
    if (h->row_bytes != same.row_bytes || h->data != same.data || h->shadow != same.shadow ||
        h->capacity != same.capacity || h->object.nbytes != nbytes)
        return err_set(DSM_ECORRUPT, 0, "the header of the segment contradicts itself");
    return 0;
}

/* Reads the one copy of the header that all fields are taken from. Its first bytes must be those that object_check()
 * has approved. */
static int read_header(dsm_remote *r, struct segment_header *h)
{
    struct object_header approved;
    int rc = object_check(r, DSM_SEGMENT, &approved);
    if (!rc && dsm_remote_nbytes(r) < SEGMENT_DATA)
        rc = err_set(DSM_ECORRUPT, 0, "%llu bytes are too few for a segment", (unsigned long long)dsm_remote_nbytes(r));
    if (!rc)
        rc = dsm_read(r, 0, h, sizeof *h, remote_timeout(r));
    if (!rc && memcmp(&h->object, &approved, sizeof approved))
        rc = err_set(DSM_ECORRUPT, 0, "the header of the segment changes");
    return rc;
}

int dsm_segment_open(dsm_remote *r, dsm_segment *s)
{
    struct segment_header h;
    memset(s, 0, sizeof *s);
    int rc = read_header(r, &h);
    if (rc)
        return rc;
    if (h.axes > DSM_SEGMENT_AXES || !h.dtype_length || h.dtype_length > DSM_SEGMENT_DTYPE)
        return err_set(DSM_ECORRUPT, 0, "the header of the segment is damaged");
    rc = dsm_read(r, SEGMENT_DTYPE, s->dtype, h.dtype_length, remote_timeout(r));
    if (rc)
        return rc;
    s->axes = h.axes;
    s->itemsize = h.itemsize;
    s->dtype_length = h.dtype_length;
    s->versioned = h.shadow != 0;
    s->capacity = h.capacity;
    memcpy(s->shape, h.shape, s->axes * sizeof *s->shape);
    rc = check(&h, s);
    if (rc)
        return rc;
    s->row_bytes = h.row_bytes;
    s->data = h.data;
    s->shadow = h.shadow;
    rc = member_identity(r, &s->identity);
    return rc ? rc : dsm_segment_rows(r, s, &s->rows);
}

/* ---- rows ---- */

int dsm_segment_rows(dsm_remote *r, const dsm_segment *s, uint64_t *rows)
{
    uint64_t now, bytes;
    int rc = sure_words(r, SEGMENT_ROWS, &now, 1);
    if (rc)
        return rc;
    if (__builtin_mul_overflow(now, s->row_bytes, &bytes) || (s->shadow && now > s->capacity) || (!s->axes && now != 1))
        return err_set(DSM_ECORRUPT, 0, "the segment has %llu rows of %llu bytes", (unsigned long long)now,
                       (unsigned long long)s->row_bytes);
    *rows = now;
    return bytes > dsm_remote_nbytes(r) - s->data; /* 1: there are more rows than this remote reaches */
}

uint64_t dsm_segment_rows_mapped(const dsm_remote *r)
{
    return load_relaxed_u64((const uint64_t *)(const void *)remote_at(r, SEGMENT_ROWS));
}

/* If it is repeated after a failure, it counts as a resize that came later. */
int dsm_segment_set_rows(dsm_remote *r, uint64_t rows)
{
    uint64_t seen = 0, found;
    int rc, lost = 0;
    while ((rc = sure_swap(r, SEGMENT_ROWS, seen, rows, &found)) != SWAP_DONE) {
        if (rc < 0)
            return rc;
        if (rc == SWAP_UNKNOWN && ++lost == SURE_TRIES)
            return err_set(DSM_EIO, 0, "%d times in a row", SURE_TRIES);
        if (rc == SWAP_REFUSED && found == rows)
            return 0;
        seen = found;
    }
    return 0;
}

/* ---- waiting ---- */

void dsm_segment_notify(dsm_remote *r)
{
    struct eventcount *eventcount = segment_eventcount(r);
    if (eventcount)
        eventcount_notify(eventcount, NOTIFY_ALL);
}

/* 1: the bytes differ from those seen, 0: they do not yet, or -DSM_E…. */
static int changed(dsm_remote *r, uint64_t offset, const void *seen, void *now, uint64_t n)
{
    int rc = sure_read(r, offset, now, n);
    return rc ? rc : memcmp(seen, now, n) != 0;
}

int dsm_segment_wait(dsm_remote *r, uint64_t offset, const void *seen, void *now, uint64_t n, int64_t spin_ns,
                     int64_t timeout_ns)
{
    struct eventcount *eventcount = segment_eventcount(r);
    int64_t deadline = deadline_after(timeout_ns), spin = deadline_after(spin_ns > 0 ? spin_ns : 0);
    struct backoff backoff = BACKOFF_INIT;
    for (;;) {
        int64_t time = clock_ns();
        bool sleep = time >= spin || !remote_is_mapped(r);
        uint32_t rung = sleep && eventcount ? eventcount_prepare(eventcount) : 0;
        int rc = changed(r, offset, seen, now, n);
        if (rc)
            return rc < 0 ? rc : 0;
        if (time >= deadline)
            return err_set(DSM_ETIME, 0, "the element is not what is waited for; the deadline passed");
        if (!sleep)
            cpu_relax();
        else if (eventcount)
            eventcount_wait(eventcount, rung, deadline);
        else
            backoff_sleep(&backoff, deadline);
    }
}
