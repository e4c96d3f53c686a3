/* Many pages in one call, one after another. Between two of them a signal handler may end the call. */
#include "../base/error.h"
#include "../core/remote.h"
#include "client.h"
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

/* Whether page i has failed by itself, and the call goes on. */
static bool goes_on(uint8_t *statuses, size_t i, int rc, bool of_page, bool *hurries)
{
    if (!statuses || !of_page)
        return false;
    statuses[i] = (uint8_t)-rc;
    *hurries |= rc == -DSM_EBUSY;
    return true;
}

int dsm_store_read_many(dsm_store *s, const uint64_t *pids, size_t n, void *pages, uint8_t *statuses)
{
    uint64_t each = dsm_store_shape_of(s).page_bytes;
    if (statuses)
        memset(statuses, 0, n);
    if (!remote_is_mapped(s->at[0]))
        return window_run(s, STORE_READ, pids, n, pages, NULL, statuses);
    bool hurries = false;
    for (size_t i = 0; i < n; i++) {
        bool of_page = false;
        int rc = ended(i);
        if (rc)
            return rc;
        rc = store_read_page(s, pids[i], (char *)pages + i * each, hurries, &of_page);
        if (rc && !goes_on(statuses, i, rc, of_page, &hurries))
            return failed_at(STORE_READ, rc, i, n);
    }
    return 0;
}

int dsm_store_write_many(dsm_store *s, const uint64_t *pids, size_t n, const void *pages, uint64_t *versions,
                         uint8_t *statuses)
{
    uint64_t each = dsm_store_shape_of(s).page_bytes;
    memset(versions, 0, n * sizeof *versions);
    if (statuses)
        memset(statuses, 0, n);
    if (!remote_is_mapped(s->at[0]))
        return window_run(s, STORE_WRITE, pids, n, pages, versions, statuses);
    bool hurries = false;
    for (size_t i = 0; i < n; i++) {
        bool of_page = false;
        int rc = ended(i);
        if (rc)
            return rc;
        rc = store_write_page(s, pids[i], (const char *)pages + i * each, &versions[i], hurries, &of_page);
        if (!rc)
            continue;
        if (!goes_on(statuses, i, rc, of_page, &hurries))
            return failed_at(STORE_WRITE, rc, i, n);
        versions[i] = 0;
    }
    return 0;
}
