/* Logical clocks (docs/protocols/clock.md). The contract of all of them stands in dsm.h. */
#ifndef DSM_DSM_CLOCK_H
#define DSM_DSM_CLOCK_H

#include "object.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    dsm_remote *remote; /* NULL: the word is at own */
    uint64_t offset;
    uint64_t *own;
} dsm_clock;

uint64_t dsm_clock_bytes(void);
/* Into zeroed memory that nobody else sees yet. */
int dsm_clock_format(void *memory);
/* One of the two clocks of the object. ECORRUPT, EVERSION, EMISMATCH. */
int dsm_clock_open(dsm_remote *r, int hybrid, dsm_clock *out);
/* The next stamp, greater than received (0: nothing was received) and than all before. */
int dsm_clock_lamport(const dsm_clock *c, uint64_t received, uint64_t *stamp);
/* Likewise, and not behind now_ms, milliseconds since 1970 (negative: the system's clock). EDRIFT: it would be more
 * than max_drift_ms ahead of that; the clock has not changed. */
int dsm_clock_hybrid(const dsm_clock *c, uint64_t received, int64_t now_ms, uint64_t max_drift_ms, uint64_t *stamp);
/* The last stamp. */
int dsm_clock_now(const dsm_clock *c, uint64_t *stamp);

#ifdef __cplusplus
}
#endif
#endif
