/*
 * A client of a store, for the files that drive its machines. One thread at a time is between store_enter() and
 * store_exit(), unless the memory is mapped: there the caller sees to it. A store of several copies is not mapped.
 */
#ifndef DSM_STORE_CLIENT_H
#define DSM_STORE_CLIENT_H

#include "handle.h"

/* EBUSY: another call is under way, or this one is a signal handler's. ECLOSED: it is leaving. */
int store_enter(dsm_store *s);
/* The same of a call that changes pages. ECOPIES: that is refused, as of store_may_change(). */
int store_enter_to_change(dsm_store *s);
int store_may_change(const dsm_store *s);
/* Returns rc. */
int store_exit(dsm_store *s, int rc);
/* As posting_execute(), again for those that were certainly not executed. */
void store_insist(dsm_store *s, dsm_op *ops, uint32_t n);
/* For a machine that has met a lock on a page: resolves it if the holder is proven dead, or is this client. */
int store_recover(dsm_store *s, uint64_t number, uint64_t lock, uint32_t copy);
/* Says in the error of a machine, -DSM_E…, what it can't know. Returns rc. */
int store_explain(dsm_store *s, int rc);
/* In an extent. No compare-swap that names a frame of the chunk that is open there may be under way. */
int store_open_chunk(dsm_store *s, uint32_t extent);
void store_sleep(int64_t ns);
/* As dsm_store_read(), and as dsm_store_write(), of one of many pages. hurries: as of struct store_op. *of_page is set
 * if they fail: whether that is about the page alone. */
int store_read_page(dsm_store *s, uint64_t pid, void *out, bool hurries, bool *of_page);
int store_write_page(dsm_store *s, uint64_t pid, const void *page, uint64_t *version, bool hurries, bool *of_page);
/* Until the machine is done, or a signal handler ends the wait. */
int store_drive(dsm_store *s, struct store_op *m);

#endif
