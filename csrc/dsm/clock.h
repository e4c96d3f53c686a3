/* Logical clocks (docs/protocols/clock.md). dsm.h has the contract that all functions share. */
#ifndef DSM_DSM_CLOCK_H
#define DSM_DSM_CLOCK_H

#include "object.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    dsm_remote *remote; /* NULL: the word is at 'own' */
    uint64_t offset;
    uint64_t *own;
} dsm_clock;

uint64_t dsm_clock_bytes(void);
/* Formats zeroed memory that no other process sees yet. */
int dsm_clock_format(void *memory);
/* Opens one of the two clocks of the object. Errors: ECORRUPT, EVERSION, EMISMATCH. */
int dsm_clock_open(dsm_remote *r, int hybrid, dsm_clock *out);
/* Gives the next stamp, which is greater than 'received' (0: nothing was received) and than all stamps before it. */
int dsm_clock_lamport(const dsm_clock *c, uint64_t received, uint64_t *stamp);
/* Like dsm_clock_lamport(), and the stamp is not behind now_ms, milliseconds since 1970 (negative: use the system's
 * clock). EDRIFT: the stamp would be more than max_drift_ms ahead of that time; the clock has not changed. */
int dsm_clock_hybrid(const dsm_clock *c, uint64_t received, int64_t now_ms, uint64_t max_drift_ms, uint64_t *stamp);
/* Gives the last stamp. */
int dsm_clock_now(const dsm_clock *c, uint64_t *stamp);

#ifdef __cplusplus
}
#endif
#endif
