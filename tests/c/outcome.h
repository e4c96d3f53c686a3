/* What the core has just returned for a write or an atomic op whose answer was lost. */
#ifndef DSM_TESTS_OUTCOME_H
#define DSM_TESTS_OUTCOME_H

#include "dsm.h"

#include <stdbool.h>

/* cause: DSM_E…, why no answer came. */
static inline bool is_unknown(int rc, int cause)
{
    return rc == -DSM_EUNKNOWN && dsm_last_error()->code == DSM_EUNKNOWN && dsm_last_error()->cause == cause;
}

#endif
