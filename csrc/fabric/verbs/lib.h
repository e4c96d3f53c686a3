/*
 * libibverbs, loaded with dlopen() at its first use; the extension is not linked against it.
 *
 * The members lack the prefix ibv_ because infiniband/verbs.h defines some of the full names as macros.
 */
#ifndef DSM_FABRIC_VERBS_LIB_H
#define DSM_FABRIC_VERBS_LIB_H

#include <infiniband/verbs.h>
#include <stdbool.h>

struct verbs_lib {
#define VERBS_SYM(name, version) __typeof__(ibv_##name) *name;
#include "sym.def"
#undef VERBS_SYM
};

/* Valid after verbs_load() has returned 0. */
extern struct verbs_lib ibv;

/* Loads the library ($DSMEM_LIBIBVERBS, or libibverbs.so.1) once per process. Every later call returns the same
 * result. */
int verbs_load(void);
/* Whether fork() copies registered pages for the child, so that it can use what lies in them. After verbs_load(). */
bool verbs_fork_copies(void);
int verbs_query_port(struct ibv_context *ctx, uint8_t port, struct ibv_port_attr *out); /* 0 or an errno */

#endif
