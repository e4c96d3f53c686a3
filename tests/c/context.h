/* Contexts of C tests, with one secret. The program that includes it defines CHECK. */
#ifndef DSM_TESTS_CONTEXT_H
#define DSM_TESTS_CONTEXT_H

#include "dsm.h"

#include <string.h>

static inline dsm_options options_of(const char *fabrics)
{
    static const char secret[] = "a secret that all C tests share.";
    dsm_options o;
    dsm_options_init(&o);
    o.fabric = fabrics;
    o.listen = strstr(fabrics, "verbs") || strstr(fabrics, "tcp") ? "127.0.0.1" : NULL;
    o.secret = secret;
    o.secret_len = sizeof secret - 1;
    return o;
}

static inline dsm_ctx *open_with(dsm_options o)
{
    dsm_ctx *c;
    CHECK(!dsm_open(&o, &c));
    return c;
}

/* On shm; fault: NULL for a plain one, else its plan, with which no memory is mapped. */
static inline dsm_ctx *open_context(const char *fault)
{
    dsm_options o = options_of("shm");
    o.fault = fault;
    return open_with(o);
}

#endif
