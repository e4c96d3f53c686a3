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
    /* Each page is in one of so many extents, which are alike; 0: one. 'pages' is a multiple of it. All copies of all
     * extents are at most DSM_STORE_PLACES, each in memory of its own. */
    uint32_t extents, extent; /* and which of them this is */
    uint32_t spread;          /* over how many memory nodes the extents are spread, for its users */
    uint64_t id;              /* of the store, the same at all copies; 0: a new one */
    uint64_t nodes; /* at which they are, in which order, as its creator says it for its users; 0: it does not */
    uint64_t epoch; /* of one that is looked at: dsm_store_recover(); 0: it has none */
} dsm_store_shape;
enum { DSM_STORE_COPIES = 5, DSM_STORE_PLACES = 64 };

/* How many bytes such a store needs. EINVAL: it can't be. */
int dsm_store_layout(const dsm_store_shape *shape, uint64_t *nbytes);
/* Formats zeroed memory of that many bytes that no other process sees yet. */
int dsm_store_format(void *memory, const dsm_store_shape *shape);

/* A store of one copy of one extent exists once it is formatted. Another is being made until copy 0 of extent 0 says
 * otherwise, which is decided once; given up is also one that is removed. */
enum { DSM_STORE_MADE = 0, DSM_STORE_WHOLE = 1, DSM_STORE_GIVEN_UP = 2 };
/* What the header of a copy says, and the state. */
int dsm_store_look(dsm_remote *r, dsm_store_shape *shape, uint64_t *state);
/* r is copy 0 of extent 0. From MADE to WHOLE or GIVEN_UP; or, of a store that is removed, from WHOLE to GIVEN_UP.
 * *decided is the state afterwards, perhaps by another's decision. */
int dsm_store_settle(dsm_remote *r, uint64_t from, uint64_t state, uint64_t *decided);

/* A handle is one client of the store. It is used by one thread at a time; but any number of threads may be in
 * dsm_store_read() where the memory is mapped. A process may die or be stopped anywhere: no other client waits for it,
 * and a page is whole and of one version always. */
typedef struct dsm_store dsm_store;
/* The lower bits of an id are the number of the page, from 0 to pages - 1. */
#define DSM_STORE_NUMBERS (1ull << 40)
/* at: the memory of each copy, of one context if there are several: in their order, the copies of extent 0 first, then
 * those of extent 1, and so on; or, once the store has an epoch, those of each extent that belong to it, its primary
 * first. Errors: ECORRUPT, EVERSION, EMISMATCH (another object, or not all copies of one store, or of one epoch),
 * EMEMBERS (all clients' places are taken), EUNSUPPORTED (several copies or extents in memory that is mapped). *failed
 * is the place in 'at' that an error is about. */
int dsm_store_open(dsm_remote *const *at, uint32_t n, dsm_store **out, uint32_t *failed);
/* How long an operation waits for a client which is changing the page at several copies, and is not proven dead. Then
 * it ends with EBUSY. 40 s at first. */
void dsm_store_wait(dsm_store *s, int64_t ns);
/* Changes of pages end with ECOPIES while an extent has fewer copies, as in an epoch it may. */
void dsm_store_demand(dsm_store *s, uint32_t copies);
int dsm_store_has_demanded(const dsm_store *s);
/* The place in 'at' that the last error of a call is about. */
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
 * not freed 2^24 times. ESTOREFULL: fewer pages are free. After an error the first *left ids are of pages that could
 * not be given back, since a copy does not answer: they are to be freed later. */
int dsm_store_allocate(dsm_store *s, uint64_t *ids, size_t n, size_t *left);

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
/* What a page says of its last change. */
typedef struct {
    uint64_t version;
    uint64_t time;        /* when it was written, by the clock of its writer: ms since 1970 << 16 */
    uint32_t slot, epoch; /* the place of its writer among the clients, and the lower 20 bits of the epoch */
    uint32_t change;      /* DSM_PAGE_…; of an empty page only the version counts */
    uint32_t transaction; /* DSM_PAGE_COMMITTED: the lower 31 bits of the number that it has in its slot */
} dsm_page_metadata;
enum { DSM_PAGE_EMPTY = 0, DSM_PAGE_WRITTEN = 1, DSM_PAGE_COMMITTED = 2 }; /* never written; alone; by a transaction */
int dsm_store_metadata(dsm_store *s, uint64_t pid, dsm_page_metadata *out);
int dsm_store_write(dsm_store *s, uint64_t pid, const void *page, uint64_t *version);
/* ECONFLICT: the page does not have the expected version, but *version; nothing was written. */
int dsm_store_compare_write(dsm_store *s, uint64_t pid, uint64_t expected, const void *page, uint64_t *version);
int dsm_store_free(dsm_store *s, uint64_t pid);
/* The same, but they never wait. 1: nothing was done, since the memory is not mapped, or the page is not in a frame or
 * changes, or no frame is at hand, or the page has not the expected version; call the others, which also say what is
 * wrong. expected: NULL for any version. */
int dsm_store_read_now(const dsm_store *s, uint64_t pid, void *out, uint64_t *version);
int dsm_store_version_now(const dsm_store *s, uint64_t pid, uint64_t *version);
int dsm_store_metadata_now(const dsm_store *s, uint64_t pid, dsm_page_metadata *out);
int dsm_store_write_now(dsm_store *s, uint64_t pid, const uint64_t *expected, const void *page, uint64_t *version);

/* A change of a page that has ended with EUNKNOWN: the head before, the one that was to be, the version that goes with
 * it, and the header of its frame, if it names one. */
typedef struct {
    uint64_t pid, from, to, version;
    uint8_t header[64];
} dsm_store_doubt;
/* Of the last dsm_store_write(), dsm_store_compare_write() or dsm_store_free() with this handle. Its pid is 0 if that
 * did not end with EUNKNOWN. */
void dsm_store_doubt_of(const dsm_store *s, dsm_store_doubt *out);
/* What has become of n changes that were made together, all or none: by this handle, or by one of an epoch before, to
 * which nothing can arrive any more. The state of the pages says it, also if others have changed them since, but not
 * always. A doubt is older than some minutes at most: the lower bits of versions come again. */
enum { DSM_STORE_UNKNOWN = 0, DSM_STORE_DONE = 1, DSM_STORE_NOT_DONE = 2 };
enum { DSM_STORE_DOUBTS = 64 };
/* The changes of the last dsm_store_write_many(), if it has failed, whose outcome is unknown. out: room for
 * DSM_STORE_DOUBTS. Returns how many. The next call for many pages forgets them, unless it is refused. */
uint32_t dsm_store_doubts(const dsm_store *s, dsm_store_doubt *out);
int dsm_store_outcome(dsm_store *s, const dsm_store_doubt *of, size_t n, int *outcome);

/* Operations on n pages, one after another; the first that fails ends the call. Those before it were done, none after
 * it was, and the detail of the error has its index. A signal handler may end them as it ends a wait. Where the memory
 * is not mapped, up to 64 pages are under way together, in any order but for those on one page: then some of those
 * after the one that failed may have been done. After an error *versions are those of the pages that were certainly
 * written, and 0 for the others.
 *
 * statuses: NULL, or room for one of each page. Then a page that fails by itself ends nothing: its status is EPAGE,
 * ECORRUPT, or EBUSY (another client has it locked), and the call goes on with the others, whose status is 0. Its
 * version is 0 then. Any other failure ends the call as before, and statuses say nothing. */
int dsm_store_read_many(dsm_store *s, const uint64_t *pids, size_t n, void *pages, uint8_t *statuses);
int dsm_store_write_many(dsm_store *s, const uint64_t *pids, size_t n, const void *pages, uint64_t *versions,
                         uint8_t *statuses);

/* What a recovery has found. */
typedef struct {
    uint64_t forward, back;       /* changes of single pages that were under way: made, and undone */
    uint64_t committed, given_up; /* the same of transactions */
    uint64_t differing;           /* pages without a lock that were not the same at all copies */
} dsm_store_recovered;
/* Makes a store of the n copies that have survived, one of each extent at least, and gives it that epoch, which is
 * greater than any before. The first of each extent becomes its primary. All extents are recovered together, since a
 * transaction is one decision for all that it changes. No client has access to them, and nothing that one has sent
 * can arrive any more. All that was acknowledged is there afterwards; what was not is made as a whole or not at all.
 * The places of all clients are free. It may end anywhere, with the process too, and be begun again with the same
 * copies, or fewer, and a greater epoch; until it has succeeded the store can't be opened. EINVAL: the store had a
 * later epoch. EMISMATCH: not all are copies of one store, or an extent has none. ECORRUPT: they contradict each
 * other. *failed is the copy that an error is about. */
int dsm_store_recover(dsm_remote *const *at, uint32_t n, uint64_t epoch, dsm_store_recovered *out, uint32_t *failed);

/* Makes a copy of an extent again at another node, while clients use the store. 'to' is formatted as a copy of it
 * that belongs to no epoch, and no other process has access to it. Rounds copy what has changed since the round
 * before. Then the clients are cut off, the copies that are left are recovered, the rest is copied, and
 * dsm_store_recover() of all copies, this one among them, begins the epoch in which it belongs to the store. Used by
 * one thread at a time. 'to' may have the number of 'from': then it replaces that one, which must not be among those
 * that begin the epoch with it. EMISMATCH: they are not two copies of one extent. EUNSUPPORTED: one is a file that is
 * mapped. */
typedef struct dsm_store_filler dsm_store_filler;
int dsm_store_fill_new(dsm_remote *from, dsm_remote *to, dsm_store_filler **out);
typedef struct {
    uint64_t copied;  /* pages, in this round */
    uint64_t left;    /* pages that the round has left to the next one: locked, or changed while they were read */
    uint64_t damaged; /* of those copied by dsm_store_fill_finish(): their bytes are not the ones that were written */
    uint64_t passed;  /* pages that the round has come past, of all */
    uint32_t done;    /* the round is */
} dsm_store_filled;
/* Goes on with the round, or begins another one, and ends with it or after most_bytes were copied. After an error it
 * may be called again. */
int dsm_store_fill_round(dsm_store_filler *f, uint64_t most_bytes, dsm_store_filled *out);
/* Copies all that is left from a copy that has been recovered, and to which no client has access. After an error it may
 * be called again, also with another such copy. ECORRUPT: it was not recovered. */
int dsm_store_fill_finish(dsm_store_filler *f, dsm_remote *from, dsm_store_filled *out);
void dsm_store_fill_drop(dsm_store_filler *f);

/* A transaction reads and changes several pages at one instant of its commit. Until then nothing of it is in the store,
 * so it may be dropped at any time. It is used by one thread, with one handle of a store. opaque: each read looks again
 * at the pages that were read before; where memory is mapped, all do. */
typedef struct dsm_transaction dsm_transaction;
dsm_transaction *dsm_transaction_new(int opaque);
void dsm_transaction_drop(dsm_transaction *t);
/* From then on (of CLOCK_MONOTONIC, in nanoseconds) its calls do not wait for other clients: they fail with EBUSY where
 * one has locked a page, and with ETIME where others replace it. */
void dsm_transaction_until(dsm_transaction *t, int64_t deadline);
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
enum { DSM_TRANSACTION_CHANGES = 160 };
/* After EUNKNOWN: the changes. out: room for DSM_TRANSACTION_CHANGES. Returns how many. */
uint32_t dsm_transaction_doubts(const dsm_transaction *t, dsm_store_doubt *out);
/* The page that the last ECONFLICT is about. */
uint64_t dsm_transaction_conflict(const dsm_transaction *t);

typedef struct {
    uint64_t free_pages;
    uint32_t clients; /* places taken, also by clients that are dead */
} dsm_store_counts;
/* How often a call of this handle has tried again, since another client had changed or locked a page when the call
 * wanted to change it, or while it looked at it. */
uint64_t dsm_store_retries(const dsm_store *s);
/* They change meanwhile. */
int dsm_store_count(dsm_store *s, dsm_store_counts *out);

enum { DSM_STORE_CHECKED = 64 };
typedef struct {
    uint64_t page;         /* its number, from 0 on */
    uint64_t id;           /* 0: it is free, or its id is not known, since no header of its frame is whole */
    uint8_t heads, frames; /* a bit for each copy whose head is not that of copy 0; whose frame is not whole */
    uint8_t changes;       /* others change it all the time, or a client has died in that: nothing is known */
    uint8_t unknown;       /* its head has a state that there is not */
} dsm_store_fault;
/* Looks at n pages from number 'first' on, at most DSM_STORE_CHECKED, at all copies. faults: room for n. */
int dsm_store_check(dsm_store *s, uint64_t first, uint32_t n, dsm_store_fault *faults, uint32_t *found);
/* Replaces the page of this number, whose frame is not whole at some copies, by what it is at another copy. *repaired
 * is 0 if nothing was wrong with it, or another client has replaced it. ECORRUPT: no copy is whole, or their heads
 * differ. EUNSUPPORTED: one copy. */
int dsm_store_repair(dsm_store *s, uint64_t page, int *repaired);

#ifdef __cplusplus
}
#endif
#endif
