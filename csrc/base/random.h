/* Bytes that nobody can guess. */
#ifndef DSM_BASE_RANDOM_H
#define DSM_BASE_RANDOM_H

#include <stddef.h>

/* All of them, or -DSM_ESYS: the kernel can refuse for good (a seccomp filter), so nobody may ask in a loop without an
 * end. */
int random_bytes(void *out, size_t n);

#endif
