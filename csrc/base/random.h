/* Cryptographically secure random bytes. */
#ifndef DSM_BASE_RANDOM_H
#define DSM_BASE_RANDOM_H

#include <stddef.h>

/* Fills all n bytes and returns 0, or returns -DSM_ESYS. The kernel can refuse permanently (a seccomp filter), so the
 * caller must not retry without a limit. */
int random_bytes(void *out, size_t n);

#endif
