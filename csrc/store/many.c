/* Many pages in one call, one after another. Between two of them a signal handler may end the call. */
#include "../base/error.h"
#include "../core/remote.h"
#include "window.h"

#include <string.h>

enum { BETWEEN_LOOKS = 256 };

static int ended(size_t i)
{
    if (i % BETWEEN_LOOKS != BETWEEN_LOOKS - 1 || !wait_interrupted())
        return 0;
    return err_set(DSM_ETIME, 0, "a signal handler ended the call before ids[%zu]", i);
}

static int failed_at(enum store_kind kind, int rc, size_t i, size_t n)
{
    dsm_failure f = *dsm_last_error();
    return err_set_op(-rc, f.cause, f.status, f.vendor, "ids[%zu] of %zu: %s%s", i, n, f.detail,
                      kind_changes(kind) ? " (those before it were done, none after it)" : "");
}

int dsm_store_read_many(dsm_store *s, const uint64_t *pids, size_t n, void *pages)
{
    uint64_t each = dsm_store_shape_of(s).page_bytes;
    if (!remote_is_mapped(s->at[0]))
        return window_run(s, STORE_READ, pids, n, pages, NULL);
    for (size_t i = 0; i < n; i++) {
        int rc = ended(i);
        if (rc)
            return rc;
        rc = dsm_store_read(s, pids[i], (char *)pages + i * each, NULL);
        if (rc)
            return failed_at(STORE_READ, rc, i, n);
    }
    return 0;
}

int dsm_store_write_many(dsm_store *s, const uint64_t *pids, size_t n, const void *pages, uint64_t *versions)
{
    uint64_t each = dsm_store_shape_of(s).page_bytes;
    memset(versions, 0, n * sizeof *versions);
    if (!remote_is_mapped(s->at[0]))
        return window_run(s, STORE_WRITE, pids, n, pages, versions);
    for (size_t i = 0; i < n; i++) {
        int rc = ended(i);
        if (rc)
            return rc;
        rc = dsm_store_write(s, pids[i], (const char *)pages + i * each, &versions[i]);
        if (rc)
            return failed_at(STORE_WRITE, rc, i, n);
    }
    return 0;
}
