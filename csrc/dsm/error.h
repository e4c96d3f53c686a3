/* Error codes, and the last failure of the calling thread. dsm.h has the contract that all functions share. */
#ifndef DSM_DSM_ERROR_H
#define DSM_DSM_ERROR_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum dsm_error {
#define DSM_ERR(code, value, cls, base, text) DSM_##code = (value),
#include "../base/err.def"
#undef DSM_ERR
    DSM_ERROR_END,
    DSM_ERROR_LAST = DSM_ERROR_END - 1
};

typedef struct {
    int code;         /* DSM_E…, positive */
    int sys;          /* errno, or 0 */
    int status;       /* work completion status (enum ibv_wc_status), or 0 */
    uint32_t vendor;  /* the device's own code, or 0 */
    int cause;        /* DSM_EUNKNOWN: the DSM_E… that says why no answer came; otherwise 0 */
    char detail[200]; /* details; "" when the code says it all */
} dsm_failure;

typedef struct {
    int code;
    const char *name, *py_class, *py_base, *text;
} dsm_error_row;

const dsm_failure *dsm_last_error(void); /* of this thread; valid until its next call of the core */
const dsm_error_row *dsm_error_rows(size_t *n);
const char *dsm_strerror(int code); /* takes either sign */

#ifdef __cplusplus
}
#endif
#endif
