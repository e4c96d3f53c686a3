#include "error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static __thread dsm_failure last;

static const dsm_error_row rows[] = {
#define DSM_ERR(code, value, cls, base, text) {value, "DSM_" #code, cls, base, text},
#include "err.def"
#undef DSM_ERR
};

const dsm_failure *dsm_last_error(void) { return &last; }

const dsm_error_row *dsm_error_rows(size_t *n)
{
    *n = sizeof rows / sizeof *rows;
    return rows;
}

const char *dsm_strerror(int code)
{
    if (code < 0)
        code = -code;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].code == code)
            return rows[i].text;
    return code ? "unknown error" : "success";
}

static int record(int code, int sys, int status, uint32_t vendor, const char *fmt, va_list ap)
{
    last.code = code;
    last.sys = sys;
    last.status = status;
    last.vendor = vendor;
    last.cause = 0;
    vsnprintf(last.detail, sizeof last.detail, fmt, ap);
    size_t used = strlen(last.detail);
    if (sys && used + 3 < sizeof last.detail) {
        char text[80];
        snprintf(last.detail + used, sizeof last.detail - used, "%s%s", used ? ": " : "",
                 strerror_r(sys, text, sizeof text));
    }
    return -code;
}

int err_set(int code, int sys, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int rc = record(code, sys, 0, 0, fmt, ap);
    va_end(ap);
    return rc;
}

int err_set_op(int code, int cause, int wc_status, uint32_t vendor, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int rc = record(code, 0, wc_status, vendor, fmt, ap);
    va_end(ap);
    last.cause = cause;
    return rc;
}

int err_again(const dsm_failure *f)
{
    last = *f;
    return -f->code;
}

int err_known(int rc)
{
    if (rc != -DSM_EUNKNOWN || last.code != DSM_EUNKNOWN)
        return rc;
    last.code = last.cause;
    last.cause = 0;
    return -last.code;
}

int err_set_errno(int sys, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int rc = record(sys == ENOMEM ? DSM_ENOMEM : DSM_ESYS, sys, 0, 0, fmt, ap);
    va_end(ap);
    return rc;
}
