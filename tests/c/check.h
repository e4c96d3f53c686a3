/* The check of tests whose place says enough. Those that go step by step have their own, which tells the step. */
#ifndef DSM_TESTS_CHECK_H
#define DSM_TESTS_CHECK_H

#include "dsm.h"

#include <stdio.h>
#include <stdlib.h>

#define CHECK(x) \
    do { \
        if (!(x)) { \
            fprintf(stderr, "%s:%d: %s (%s)\n", __FILE__, __LINE__, #x, dsm_last_error()->detail); \
            abort(); \
        } \
    } while (0)

#endif
