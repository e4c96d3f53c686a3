/* Recording the last failure of the calling thread, which dsm_last_error() returns. */
#ifndef DSM_BASE_ERROR_H
#define DSM_BASE_ERROR_H

#include "../dsm.h"

/* Records the failure and returns -code: 'return err_set(DSM_ENODEV, 0, "no port of %s is active", name);'
 * sys is an errno, whose text is appended to the detail, or 0. */
int err_set(int code, int sys, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The same for a work completion that failed. */
int err_set_wc(int code, int wc_status, uint32_t vendor, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* For a system call that failed with errno 'sys': DSM_ENOMEM if it is ENOMEM, otherwise DSM_ESYS. */
int err_set_errno(int sys, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
