/* A store of pages (docs/protocols/pages.md). dsm.h has the contract that all functions share. */
#ifndef DSM_DSM_STORE_H
#define DSM_DSM_STORE_H

#include "object.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    uint32_t page_bytes; /* a multiple of 64 from 256 to 1 MiB */
    uint32_t clients;    /* open handles at a time, 1 to 1024; each costs 64 frames */
    uint64_t pages;
    uint32_t copies; /* of each page, 1 to DSM_STORE_COPIES, each in memory of its own; 0: one */
    uint32_t index;  /* which of them this is */
    uint64_t id;     /* of the store, the same at all copies; 0: a new one */
} dsm_store_shape;
enum { DSM_STORE_COPIES = 5 };

/* How many bytes such a store needs. EINVAL: it can't be. */
int dsm_store_layout(const dsm_store_shape *shape, uint64_t *nbytes);
/* Formats zeroed memory of that many bytes that no other process sees yet. */
int dsm_store_format(void *memory, const dsm_store_shape *shape);

/* A store of one copy exists once it is formatted. One of several is being made until copy 0 says otherwise, which is
 * decided once. */
enum { DSM_STORE_MADE = 0, DSM_STORE_WHOLE = 1, DSM_STORE_GIVEN_UP = 2 };
/* What the header of a copy says, and the state. */
int dsm_store_look(dsm_remote *r, dsm_store_shape *shape, uint64_t *state);
/* r is copy 0. state: DSM_STORE_WHOLE or DSM_STORE_GIVEN_UP. *decided is what has been decided, perhaps by another. */
int dsm_store_settle(dsm_remote *r, uint64_t state, uint64_t *decided);

/* A handle is one client of the store. It is used by one thread at a time; but any number of threads may be in
 * dsm_store_read() where the memory is mapped. A process may die or be stopped anywhere: no other client waits for it,
 * and a page is whole and of one version always. */
typedef struct dsm_store dsm_store;
/* at: the memory of each copy, of one context if there are several. Errors: ECORRUPT, EVERSION, EMISMATCH (another
 * object, or not all copies of one store), EMEMBERS (all clients' places are taken), EUNSUPPORTED (several copies in
 * memory that is mapped). *failed is the copy that an error is about. */
int dsm_store_open(dsm_remote *const *at, uint32_t copies, dsm_store **out, uint32_t *failed);
/* How long an operation waits for a client which is changing the page at several copies, and is not proven dead. Then
 * it ends with EBUSY. 40 s at first. */
void dsm_store_wait(dsm_store *s, int64_t ns);
/* The copy that the last error of a call is about. */
uint32_t dsm_store_failed(const dsm_store *s);
/* Gives back the client's chunk and place. After an error the call may be repeated; other calls are refused with
 * ECLOSED. If the memory is out of reach, nothing is left to do and the result is 0. */
int dsm_store_leave(dsm_store *s);
/* Frees the handle. A place that it has not left is free once its process has ended. */
void dsm_store_drop(dsm_store *s);
/* dsm_store_leave(), then dsm_store_drop() unless leaving has failed. */
int dsm_store_close(dsm_store *s);
dsm_store_shape dsm_store_shape_of(const dsm_store *s);

/* Allocates n pages, which are all zeros: all or none. The ids are never 0 and never given again, as long as a page is
 * not freed 2^24 times. ESTOREFULL: fewer pages are free. */
int dsm_store_allocate(dsm_store *s, uint64_t *ids, size_t n);

/* Operations on one page, each of which takes effect at one instant between call and return. *version is that of the
 * page that was read or written; it only grows. It may be NULL.
 *
 * EPAGE: no page has the id. EUNKNOWN: the answer was lost, and the change may or may not have taken effect; it is not
 * made again. ECORRUPT: the bytes of the page are not the ones that were written. EBUSY: other clients have all frames;
 * that takes dead ones whose death can't be proven. Or another call with the handle is under way: that of another
 * thread, or the one that a signal handler has interrupted. ETIME: others have replaced the page during thousands of
 * looks at it, or a signal handler has ended the wait.
 *
 * The memory that a write is made from may change during the call: then the page has old and new bytes of it, but a
 * reader gets the same ones each time. */
int dsm_store_read(dsm_store *s, uint64_t pid, void *out, uint64_t *version);
int dsm_store_version(dsm_store *s, uint64_t pid, uint64_t *version);
int dsm_store_write(dsm_store *s, uint64_t pid, const void *page, uint64_t *version);
/* ECONFLICT: the page does not have the expected version, but *version; nothing was written. */
int dsm_store_compare_write(dsm_store *s, uint64_t pid, uint64_t expected, const void *page, uint64_t *version);
int dsm_store_free(dsm_store *s, uint64_t pid);
/* The same, but they never wait. 1: nothing was done, since the memory is not mapped, or the page is not in a frame or
 * changes, or no frame is at hand, or the page has not the expected version; call the others, which also say what is
 * wrong. expected: NULL for any version. */
int dsm_store_read_now(const dsm_store *s, uint64_t pid, void *out, uint64_t *version);
int dsm_store_version_now(const dsm_store *s, uint64_t pid, uint64_t *version);
int dsm_store_write_now(dsm_store *s, uint64_t pid, const uint64_t *expected, const void *page, uint64_t *version);

/* Operations on n pages, one after another; the first that fails ends the call. Those before it were done, none after
 * it was, and the detail of the error has its index. A signal handler may end them as it ends a wait. Where the memory
 * is not mapped, up to 64 pages are under way together, in any order but for those on one page: then some of those
 * after the one that failed may have been done. */
int dsm_store_read_many(dsm_store *s, const uint64_t *pids, size_t n, void *pages);
int dsm_store_write_many(dsm_store *s, const uint64_t *pids, size_t n, const void *pages, uint64_t *versions);

/* A transaction reads and changes several pages at one instant of its commit. Until then nothing of it is in the store,
 * so it may be dropped at any time. It is used by one thread, with one handle of a store. opaque: each read looks again
 * at the pages that were read before; where memory is mapped, all do. */
typedef struct dsm_transaction dsm_transaction;
dsm_transaction *dsm_transaction_new(int opaque);
void dsm_transaction_drop(dsm_transaction *t);
/* Pages as they are, or as the transaction has written them. ECONFLICT: one that was read before has changed. */
int dsm_transaction_read(dsm_store *s, dsm_transaction *t, const uint64_t *pids, size_t n, void *out);
/* They copy the page, and no more. EINVAL: too many pages. */
int dsm_transaction_write(const dsm_store *s, dsm_transaction *t, uint64_t pid, const void *page);
int dsm_transaction_free(dsm_transaction *t, uint64_t pid);
/* Whether all pages that were read are still the same. */
int dsm_transaction_check(dsm_store *s, dsm_transaction *t);
/* ECONFLICT: a page has changed since it was read, or another client is changing it; begin with a new transaction.
 * EUNKNOWN: it was committed or not. After any other error it was not. It can't be used again. */
int dsm_transaction_commit(dsm_store *s, dsm_transaction *t);
/* The page that the last ECONFLICT is about. */
uint64_t dsm_transaction_conflict(const dsm_transaction *t);

typedef struct {
    uint64_t free_pages;
    uint32_t clients; /* places taken, also by clients that are dead */
} dsm_store_counts;
/* They change meanwhile. */
int dsm_store_count(dsm_store *s, dsm_store_counts *out);

#ifdef __cplusplus
}
#endif
#endif
