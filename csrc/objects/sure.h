/*
 * Ops on words of another process's memory that do not leave their outcome unknown because the transport failed once.
 *
 * A READ harms nobody, and neither does a WRITE of what the caller alone writes: they are repeated. A compare-swap is
 * not repeated blindly: the word is read, over a new connection. The owner's agent has closed the old endpoint before
 * it opens the new one, so what was on its way has arrived by then or never will.
 *
 * All are bounded: by SURE_TRIES, and each op by remote_timeout(). A cancelled op fell with another one on its
 * connection; to who called it that is a failure of the transport, too, so it comes out as EIO.
 */
#ifndef DSM_OBJECTS_SURE_H
#define DSM_OBJECTS_SURE_H

#include "../core/remote.h"

enum { SURE_TRIES = 8 };

/* Whether an op that ended with rc is worth another try. *tries: 0 first. Two ops that ran out of time are enough. */
bool sure_again(int rc, int *tries);
/* rc, as it is told to the caller. */
int sure_error(int rc);
/* Of an op that gives something back: the memory is out of reach. Who closes its handle leaves there what it holds:
 * with the memory that is gone, too; where only the path was cut, others can take it by choice (break). */
static inline bool sure_lost(int rc) { return rc == -DSM_EPEER || rc == -DSM_ESTALE || rc == -DSM_EFORK; }
/* The memory is gone for certain, and the caller holds nothing any more. On a network a silent owner may live and what
 * is held there stay held: who gave it back in vain holds it, and may repeat that. */
static inline bool sure_gone(const dsm_remote *r, int rc)
{
    return sure_lost(rc) && !(rc == -DSM_EPEER && r->ctx && r->ctx->dev->connected);
}

int sure_read(dsm_remote *r, uint64_t offset, void *out, uint64_t nbytes);
/* Of bytes that no atomic changes and the caller alone writes. */
int sure_write(dsm_remote *r, uint64_t offset, const void *data, uint64_t nbytes);

/*   SWAP_DONE      it took effect
 *   SWAP_REFUSED   it did not; *found is what the word was
 *   SWAP_UNKNOWN   the transport failed, and the word is now *found, which is not 'desired': it did not take effect, or
 *   it did
 *                  and others have changed the word since. If *found is 'expected' it has not
 *   -DSM_E…        the transport failed, and reading the word did too
 * For words where 'desired' is a value that nobody else writes and that never comes twice. Then sending the same
 * compare-swap again after a failure is no second update: its 'expected' is gone as soon as it has taken effect
 * once. */
enum { SWAP_REFUSED = 0, SWAP_DONE = 1, SWAP_UNKNOWN = 2 };
int sure_swap(dsm_remote *r, uint64_t offset, uint64_t expected, uint64_t desired, uint64_t *found);

/* By the only one who changes the word: from what he knows it to be to 'to', which it may be already after a failure of
 * his. 0, or ECORRUPT where it was changed by another. */
int sure_move(dsm_remote *r, uint64_t offset, uint64_t from, uint64_t to);

#endif
