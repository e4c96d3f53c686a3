/* What has become of changes that ended with EUNKNOWN, as a machine (machine.h). */
#ifndef DSM_STORE_DOUBT_H
#define DSM_STORE_DOUBT_H

#include "machine.h"

struct store_outcome {
    const dsm_store_doubt *of; /* made together: all or none */
    size_t count, at;
    int status, is; /* is: DSM_STORE_… */

    enum { OUTCOME_BEGINS, OUTCOME_LOOKS, OUTCOME_TRACES, OUTCOME_READS, OUTCOME_LOOKS_AGAIN } step;
    uint32_t n, steps; /* ops; changes of the page that were traced back */
    dsm_op *ops;
    uint64_t head, version; /* of the page, now or once; and the header of its frame */
    struct frame_header header;
    dsm_op op;
    struct store_op look; /* sleeps, and meets locks, as this machine does */
};

/* STORE_SLEEP and STORE_RECOVER are those of m->look. Errors: those of a look at a page's version. */
enum store_next store_outcome_step(struct store_outcome *m, struct store_env *e);

#endif
