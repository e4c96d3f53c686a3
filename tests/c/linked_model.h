#ifndef DSM_TESTS_LINKED_MODEL_H
#define DSM_TESTS_LINKED_MODEL_H

#include <pthread.h>

/* The model device (tests/modeldev) is linked into the program: libibverbs' names are its functions. */
static void linked_model_fill(void)
{
#define VERBS_SYM(name, version) ibv.name = ibv_##name;
#include "fabric/verbs/sym.def"
#undef VERBS_SYM
}

int __wrap_verbs_load(void);
int __wrap_verbs_load(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, linked_model_fill);
    return 0;
}

#endif
