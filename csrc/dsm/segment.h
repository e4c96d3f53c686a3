/* Segments: arrays, with versions if the creator asked for them (docs/protocols/segment.md). dsm.h has the contract
 * that all functions share. */
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
    uint64_t shape[DSM_SEGMENT_AXES]; /* at creation */
    uint64_t capacity;                /* most rows that there is room for */
    uint64_t rows;                    /* current length of the first axis; 1 if there is no axis */
    uint64_t row_bytes;
    uint64_t data, shadow; /* offsets; shadow is 0 if there are no versions */
    uint64_t identity;     /* of this process as a writer; if remote: of this struct */
    uint64_t turn;         /* if remote: the thread that is the writer with this struct, or 0; see versions.c */
    uint32_t left;         /* if remote: the last writer with this struct may have left the segment held */
    char dtype[DSM_SEGMENT_DTYPE];
} dsm_segment;

/* Computes the other fields and the size of the object in bytes from axes, itemsize, dtype, versioned, shape and
 * capacity (at least shape[0]). Errors: EINVAL, ENOMEM (more than the address space). */
int dsm_segment_layout(dsm_segment *s, uint64_t *nbytes);
/* Formats zeroed memory that no other process sees yet. */
int dsm_segment_format(void *memory, uint64_t nbytes, const dsm_segment *s);
/* Checks the header and the rows once, and copies them to *s. 1: success, but the segment has grown beyond r. Errors:
 * ECORRUPT, EVERSION, EMISMATCH. */
int dsm_segment_open(dsm_remote *r, dsm_segment *s);
/* Gives the current number of rows. 1: they extend beyond r, which must be mapped again. */
int dsm_segment_rows(dsm_remote *r, const dsm_segment *s, uint64_t *rows);
/* The same for local memory, without checks: for finding out whether the number has changed. */
uint64_t dsm_segment_rows_mapped(const dsm_remote *r);
/* Sets the number of rows of a segment without versions, once the memory for them is there. */
int dsm_segment_set_rows(dsm_remote *r, uint64_t rows);
/* Wakes the processes that wait for a change. The change must have been made before. Has no effect if the memory is
 * remote. */
void dsm_segment_notify(dsm_remote *r);
/* Waits until the n bytes at offset differ from 'seen', and copies them to 'now'. Spins for spin_ns if the memory is
 * local, then sleeps. A change by plain stores, or by a remote process, is noticed within 50 ms. ETIME: the deadline
 * passed. */
int dsm_segment_wait(dsm_remote *r, uint64_t offset, const void *seen, void *now, uint64_t n, int64_t spin_ns,
                     int64_t timeout_ns);

/* One writer at a time writes the whole of a new version: begin, change the data (local) or all of a copy (remote),
 * then commit or abort. Until the commit readers see the version before, and they never see anything of a writer that
 * died before its commit. ETIME: another process is writing. EINVAL: the segment has no versions. ENOTHELD: commit or
 * abort without begin. */
int dsm_segment_begin(dsm_remote *r, dsm_segment *s, int64_t timeout_ns, uint64_t *version, uint64_t *rows);
/* data: the whole new version, s->rows rows, which the call writes first; NULL if the version is in place already
 * (local). *version: on entry the value from begin, on success the number of the version that was written. ECORRUPT:
 * the segment no longer has s->rows rows. ENOTHELD: the turn was broken, or belongs to another thread. After an error
 * the caller must abort. */
int dsm_segment_commit(dsm_remote *r, dsm_segment *s, const void *data, uint64_t *version);
/* After this call the caller must not write any more, even if the call failed. After a failure the next begin with s,
 * or dsm_segment_leave(), finishes what was left. */
int dsm_segment_abort(dsm_remote *r, dsm_segment *s, uint64_t version);
/* Must be called before s is discarded: finishes what a failed write has left. After an error it may be called
 * again. */
int dsm_segment_leave(dsm_remote *r, dsm_segment *s);
/* Copies one version of *rows rows into out. 1: the version has another number of rows, which is now in *rows; provide
 * that much room. ETIME: writers overtook every copy until the deadline. The caller sets *tries to 0 once and keeps it
 * across calls: after a number of tries a reader that may write takes the writer's turn. */
int dsm_segment_snapshot(dsm_remote *r, dsm_segment *s, void *out, uint64_t *rows, int64_t timeout_ns, int *tries,
                         uint64_t *version);
int dsm_segment_writer(dsm_remote *r, uint64_t *identity); /* 0: no process is writing */
/* Takes the turn away from a writer that the caller knows to be gone (a node elsewhere, which nothing here proves
 * dead). 1: done. 0: that process is not writing. */
int dsm_segment_evict(dsm_remote *r, dsm_segment *s, uint64_t holder);

#ifdef __cplusplus
}
#endif
#endif
