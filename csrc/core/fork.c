/* fork() does not copy registrations: a child can't use objects that were created before the fork. */
#include "core.h"

uint32_t core_forks;

static void in_child(void) { fetch_add_u32(&core_forks, 1); }

__attribute__((constructor)) static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }

const uint32_t *dsm_forks(void) { return &core_forks; }

int dsm_forked(const dsm_ctx *c) { return ctx_forked(c); }

int refuse_forked(void) { return err_set(DSM_EFORK, 0, "the object was made before the fork"); }
