/* Segments: arrays, with versions where they were asked for (docs/protocols/segment.md). The contract of all of them
 * stands in dsm.h. */
#ifndef DSM_DSM_SEGMENT_H
#define DSM_DSM_SEGMENT_H

#include "object.h"

#ifdef __cplusplus
extern "C" {
#endif

#define DSM_SEGMENT_AXES 16
#define DSM_SEGMENT_DTYPE 3712

typedef struct {
    uint32_t axes, itemsize, dtype_length, versioned;
    uint64_t shape[DSM_SEGMENT_AXES]; /* when it was made */
    uint64_t capacity;                /* rows that there is room for */
    uint64_t rows;                    /* elements of the first axis now; 1 where there is no axis */
    uint64_t row_bytes;
    uint64_t data, shadow; /* offsets; shadow is 0 where there are no versions */
    uint64_t identity;     /* of this process as a writer; remote: of this struct */
    uint64_t turn;         /* remote: the thread that is the writer with this struct, or 0 */
    uint32_t left;         /* remote: the last one may have left the segment held */
    char dtype[DSM_SEGMENT_DTYPE];
} dsm_segment;

/* From axes, itemsize, dtype, versioned, shape and capacity (at least shape[0]): the rest, and the bytes of all.
 * Errors: EINVAL, ENOMEM (more than there are addresses). */
int dsm_segment_layout(dsm_segment *s, uint64_t *nbytes);
/* Into zeroed memory that nobody else sees yet. */
int dsm_segment_format(void *memory, uint64_t nbytes, const dsm_segment *s);
/* Checks all that is there, once, and copies it. 1: fine, but it has grown beyond r. Errors: ECORRUPT, EVERSION,
 * EMISMATCH. */
int dsm_segment_open(dsm_remote *r, dsm_segment *s);
/* The rows now. 1: they reach beyond r, which must be mapped again. */
int dsm_segment_rows(dsm_remote *r, const dsm_segment *s, uint64_t *rows);
/* The same of memory that is local, unchecked: to see whether they have changed. */
uint64_t dsm_segment_rows_mapped(const dsm_remote *r);
/* Of a segment without versions, when the memory is there. */
int dsm_segment_set_rows(dsm_remote *r, uint64_t rows);
/* Wakes those who wait for a change, which was made before. Nothing where the memory is remote. */
void dsm_segment_notify(dsm_remote *r);
/* Until the n bytes at offset differ from those seen; copies them to now. Spins for spin_ns where the memory is local,
 * then sleeps. A change by plain stores, or remotely, is noticed within 50 ms. ETIME. */
int dsm_segment_wait(dsm_remote *r, uint64_t offset, const void *seen, void *now, uint64_t n, int64_t spin_ns,
                     int64_t timeout_ns);

/* One writer at a time, for all of a new version: begin, change the data (local) or all of a copy (remote), then commit
 * or abort. A reader sees the version before until commit, and nothing of what a writer did that dies before. ETIME:
 * another writes. EINVAL: no versions. ENOTHELD: commit or abort without begin. */
int dsm_segment_begin(dsm_remote *r, dsm_segment *s, int64_t timeout_ns, uint64_t *version, uint64_t *rows);
/* data: the whole new version, s->rows rows, which is written first; NULL where it is in place already (local).
 * *version: as begin gave it, then that of what was written. ECORRUPT: the segment no longer has so many. ENOTHELD: the
 * turn was broken, or is another thread's. After an error the caller aborts. */
int dsm_segment_commit(dsm_remote *r, dsm_segment *s, const void *data, uint64_t *version);
/* After it the caller writes no more, also after an error; then the next begin with s finds what was left, or leave
 * does. */
int dsm_segment_abort(dsm_remote *r, dsm_segment *s, uint64_t version);
/* Before s is forgotten: what a write that failed has left is brought to an end. After an error it may be called
 * again. */
int dsm_segment_leave(dsm_remote *r, dsm_segment *s);
/* Copies one version of *rows rows into out. 1: it has other rows, *rows tells how many; give so much room. ETIME:
 * writers were too quick until now. *tries is 0 first and stays the caller's, so that one who may write gets his turn
 * at last. */
int dsm_segment_snapshot(dsm_remote *r, dsm_segment *s, void *out, uint64_t *rows, int64_t timeout_ns, int *tries,
                         uint64_t *version);
int dsm_segment_writer(dsm_remote *r, uint64_t *identity); /* 0: nobody writes */
/* Takes the turn from a writer that the caller knows to be gone (a node elsewhere, which nothing here proves dead). 1:
 * done, 0: that one does not write. */
int dsm_segment_evict(dsm_remote *r, dsm_segment *s, uint64_t holder);

#ifdef __cplusplus
}
#endif
#endif
