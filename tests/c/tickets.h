/* What an event loop does with a context. The program that includes it defines CHECK. */
#ifndef DSM_TESTS_TICKETS_H
#define DSM_TESTS_TICKETS_H

#include "dsm.h"

#include <poll.h>

static inline dsm_ticket *next_completed(dsm_ctx *c)
{
    struct pollfd on = {.fd = dsm_event_fd(c), .events = POLLIN};
    dsm_ticket *t;
    while (!(t = dsm_completed(c)))
        CHECK(poll(&on, 1, -1) == 1);
    return t;
}

#endif
