/* Many pages in one call, of memory that is not mapped: window.c. */
#ifndef DSM_STORE_WINDOW_H
#define DSM_STORE_WINDOW_H

#include "client.h"

struct store_window *window_new(uint64_t page_bytes);
void window_free(struct store_window *w); /* NULL: has no effect */
/* versions: NULL, or one for each page. It is 0 for one that is not known to be done, and not set for those behind the
 * last window. statuses: NULL, or as of dsm_store_read_many(). */
int window_run(dsm_store *s, enum store_kind kind, const uint64_t *pids, size_t n, const void *pages,
               uint64_t *versions, uint8_t *statuses);
/* The same between store_enter() and store_exit(). heads: NULL, or for reads the head that each page had. ends: as of
 * struct store_op. */
int window_operate(dsm_store *s, enum store_kind kind, const uint64_t *pids, size_t n, const void *pages,
                   uint64_t *versions, uint64_t *heads, int64_t ends);

#endif
