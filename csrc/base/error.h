/* The calling thread's last failure (dsm_last_error). */
#ifndef DSM_BASE_ERR_H
#define DSM_BASE_ERR_H

#include "../dsm.h"

/* Records the failure and returns -code: 'return err_set(DSM_ENODEV, 0, "no port of %s is active", name);'
 * sys is an errno or 0, whose text is appended. */
int err_set(int code, int sys, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The same for a failed work completion. */
int err_set_wc(int code, int wc_status, uint32_t vendor, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* For a system call that failed: maps errno to ENOMEM, EMEMLOCK, EPERM… where that says more than ESYS. */
int err_set_errno(int sys, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
