/* Unlocks that are due go along with what is posted, and locks that others have left are resolved. */
#ifndef DSM_STORE_POSTING_H
#define DSM_STORE_POSTING_H

#include "handle.h"

struct store_posting *posting_new(void);
/* Nothing of it may be under way. */
void posting_free(struct store_posting *p);
/* A call begins: what was noted for the last one is forgotten. Locks that this client has kept are resolved, if that is
 * possible by now. */
void posting_begin(dsm_store *s);
/* As dsm_execute(): in order, and behind an op that is refused none is executed. Each has its status. */
void posting_execute(dsm_store *s, dsm_op *ops, uint32_t n);
/* As store_insist(), of one machine. */
void posting_insist(dsm_store *s, dsm_op *ops, uint32_t n);
/* Starts the unlocks that are due. It does not wait for them, but for a connection. */
void posting_unlock(dsm_store *s);
/* Waits for what was started. */
void posting_collect(dsm_store *s);
/* Room for the ops of a commit. */
dsm_op *posting_ops(const dsm_store *s);
/* Closes the chunks that transactions have held. What can't be closed now is closed another time. */
int posting_close_held(dsm_store *s);
/* Resolves locks that are kept, as far as their copies answer. */
void posting_try_kept(dsm_store *s, uint64_t extents);
/* Afterwards no lock of this client is left. */
int posting_settle(dsm_store *s);
/* Resolves all locks of the slot with this mark. */
int posting_sweep(dsm_store *s, uint32_t slot, uint32_t mark);
/* Resolves the lock at this copy if it is this client's, or its holder is proven dead; else it remembers that client.
 * Both are 0. */
int posting_recover(dsm_store *s, uint64_t number, uint64_t lock, uint32_t copy);
/* The failure is about this place. Where there is one, nothing is noted. */
void posting_blame(dsm_store *s, uint32_t place);
/* How messages call a place. */
enum { PLACE_TEXT = 48 };
const char *posting_name(const dsm_store *s, uint32_t place, char text[PLACE_TEXT]);
/* The place that the last failure is about. */
uint32_t posting_failed(const dsm_store *s);
/* What the failure of a call says beside its cause: which copy, and which client holds the lock. Returns rc. */
int posting_explain(dsm_store *s, int rc);
/* Where memory is mapped, adds to the failure which process holds the lock, unless it has gone meanwhile. That takes
 * 0.1 ms, so it is for calls that have waited. Returns rc. */
int posting_name_client(const dsm_store *s, int rc, uint64_t lock);
/* The same of the change that has made this head of the page: by its number, if it was a transaction, and the slot of
 * its client. That takes no system call. */
int posting_name_change(const dsm_store *s, int rc, uint64_t pid, uint64_t head);

#endif
