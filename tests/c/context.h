/* A context on shm; fault: NULL for a plain one, else its plan, with which no memory is mapped. The
 * program that includes it defines CHECK. */
#ifndef DSM_TESTS_CONTEXT_H
#define DSM_TESTS_CONTEXT_H

#include "dsm.h"

static inline dsm_ctx *open_context(const char *fault)
{
    static const char secret[] = "a secret that all C tests share.";
    dsm_options o;
    dsm_ctx *c;
    dsm_options_init(&o);
    o.fabric = "shm";
    o.fault = fault;
    o.secret = secret;
    o.secret_len = sizeof secret - 1;
    CHECK(!dsm_open(&o, &c));
    return c;
}

#endif
