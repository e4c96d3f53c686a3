#include "random.h"

#include "error.h"

#include <errno.h>
#include <stdint.h>
#include <sys/random.h>

int random_bytes(void *out, size_t n)
{
    for (uint8_t *at = out; n;) {
        ssize_t got = getrandom(at, n, 0);
        if (got < 0 && errno != EINTR)
            return err_set_errno(errno, "getrandom: a seccomp filter of this process may forbid it");
        if (got > 0) {
            at += got;
            n -= (size_t)got;
        }
    }
    return 0;
}
