#ifdef DSM_HAVE_VERBS
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dlvsym */
#endif
#include "lib.h"

#include "../../base/error.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct verbs_lib ibv;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char failure[160]; /* why loading failed; "" on success */

/* memcpy() converts the data pointer to a function pointer: POSIX requires this to work for dlsym(), but ISO C has no
 * cast for it. */
static bool find(void *library, const char *name, const char *version, void *slot)
{
    void *p = dlvsym(library, name, version);
    memcpy(slot, &p, sizeof p);
    if (!p)
        snprintf(failure, sizeof failure, "libibverbs has no %s@%s", name, version);
    return p;
}

static bool find_all(void *library)
{
    return true
#define VERBS_SYM(name, version) &&find(library, "ibv_" #name, version, &ibv.name)
#include "sym.def"
#undef VERBS_SYM
        ;
}

/* The core refuses calls of a child of fork(), but copy-on-write could still replace registered pages of the parent;
 * ibv_fork_init() prevents this. Kernels that copy pinned pages at fork (since 5.12) don't need it. There it would only
 * remove whole pages from the child, with all other data in them, and every registration would cost an madvise() call
 * and up to two more mappings. ibv_fork_init() fails if other code in this process has registered memory before. */
static bool fork_copies;

static void prepare_fork(void *library)
{
    enum { UNNEEDED = 2 }; /* IBV_FORK_UNNEEDED, which older headers lack */
    int (*status)(void);
    void *p = dlvsym(library, "ibv_is_fork_initialized", "IBVERBS_1.13");
    memcpy(&status, &p, sizeof p);
    fork_copies = p && status() == UNNEEDED;
    if (!fork_copies)
        (void)ibv.fork_init();
}

static void load(void)
{
    const char *path = getenv("DSMEM_LIBIBVERBS");
    void *library = dlopen(path && *path ? path : "libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *why = dlerror();
        snprintf(failure, sizeof failure, "%s; apt install libibverbs1 ibverbs-providers", why ? why : "libibverbs");
        return;
    }
    if (!find_all(library)) {
        dlclose(library);
        return;
    }
    prepare_fork(library);
}

bool verbs_fork_copies(void) { return fork_copies; }

int verbs_load(void)
{
    pthread_once(&once, load);
    return *failure ? err_set(DSM_ENOFABRIC, 0, "%s", failure) : 0;
}

/* Like the macro ibv_query_port, but calls the function of the loaded library. */
int verbs_query_port(struct ibv_context *ctx, uint8_t port, struct ibv_port_attr *out)
{
    struct verbs_context *v = verbs_get_ctx_op(ctx, query_port);
    memset(out, 0, sizeof *out);
    if (v)
        return v->query_port(ctx, port, out, sizeof *out);
    return ibv.query_port(ctx, port, (struct _compat_ibv_port_attr *)out);
}
#endif
