/* Recording the last failure of the calling thread, which dsm_last_error() returns. */
#ifndef DSM_BASE_ERROR_H
#define DSM_BASE_ERROR_H

#include "../dsm.h"

/* Records the failure and returns -code: 'return err_set(DSM_ENODEV, 0, "no port of %s is active", name);'
 * sys is an errno, whose text is appended to the detail, or 0. */
int err_set(int code, int sys, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The same for an op that failed. cause: DSM_E… if the code is DSM_EUNKNOWN, otherwise 0. */
int err_set_op(int code, int cause, int wc_status, uint32_t vendor, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
/* The failure of another thread, or an earlier one. */
int err_again(const dsm_failure *f);
/* For code that finds out by itself whether an op took effect: -DSM_EUNKNOWN, which the core has just returned, becomes
 * the cause; other codes stay. */
int err_known(int rc);
/* For a system call that failed with errno 'sys': DSM_ENOMEM if it is ENOMEM, otherwise DSM_ESYS. */
int err_set_errno(int sys, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
