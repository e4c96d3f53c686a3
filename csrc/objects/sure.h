/*
 * Ops on words of another process's memory whose outcome does not stay unknown because the transport failed once.
 *
 * Repeating a READ does no harm, nor does repeating a WRITE of bytes that only the caller writes: both are repeated. A
 * compare-swap is not repeated blindly: the word is read first, over a new connection. The owner's agent has closed the
 * old endpoint before it opens the new one, so what was on its way has arrived by then or never will.
 *
 * All are bounded by SURE_TRIES, and each op by remote_timeout(). Since the outcome is found out here, an op whose
 * answer was lost counts by the cause alone (err_known). A cancelled op failed because another one on its connection
 * did. For its caller that is a transport failure too, so it is reported as EIO.
 */
#ifndef DSM_OBJECTS_SURE_H
#define DSM_OBJECTS_SURE_H

#include "../core/remote.h"

enum { SURE_TRIES = 8 };

/* Whether an op that ended with rc is to be tried again. *tries starts at 0. Two timeouts end the tries. */
bool sure_again(int rc, int *tries);
/* rc as it is reported to the caller: ECANCELED becomes EIO. */
int sure_error(int rc);
/* For an op that gives something back: the memory is out of reach. A process that closes its handle leaves what the
 * handle holds. If the memory is gone, so is that; if only the path was cut, others can take it by choice (break). */
static inline bool sure_lost(int rc)
{
    return rc == -DSM_EPEER || rc == -DSM_ESTALE || rc == -DSM_EFORK || rc == -DSM_EFENCED;
}
/* The memory is certainly gone, and the caller no longer holds anything. On a network a silent owner may be alive, and
 * what is held there stays held: a caller that failed to give it back still holds it, and may try again. */
static inline bool sure_gone(const dsm_remote *r, int rc)
{
    return sure_lost(rc) && !(rc == -DSM_EPEER && r->ctx && r->peer->dev->connected);
}

int sure_read(dsm_remote *r, uint64_t offset, void *out, uint64_t nbytes);
/* Reads n words, at most SURE_WORDS, that only atomics of the region's domain change: each is a value that it had, also
 * where a READ may mix an old value with a new one. One round trip; others only for a caller without the right to
 * atomics while the words change. */
enum { SURE_WORDS = 4 };
int sure_words(dsm_remote *r, uint64_t offset, uint64_t *out, uint32_t n);
/* For bytes that no atomic changes and that only the caller writes. */
int sure_write(dsm_remote *r, uint64_t offset, const void *data, uint64_t nbytes);

/*   SWAP_DONE      it took effect
 *   SWAP_REFUSED   it did not; *found is the value of the word
 *   SWAP_UNKNOWN   the transport failed, and the word is now *found, which is not 'desired'. The swap did not take
 *                  effect, or it did and others have changed the word since. If *found is 'expected', it did not
 *   -DSM_E…        the transport failed, and so did reading the word
 * For words where 'desired' is a value that no other process writes and that never comes twice. Then sending the same
 * compare-swap again after a failure is not a second update: its 'expected' is gone once it has taken effect. */
enum { SWAP_REFUSED = 0, SWAP_DONE = 1, SWAP_UNKNOWN = 2 };
int sure_swap(dsm_remote *r, uint64_t offset, uint64_t expected, uint64_t desired, uint64_t *found);
/* The same. If the answer was lost and the word can't be read either, *lost is true: the error does not say then that
 * the swap had no effect. */
int sure_swap_lost(dsm_remote *r, uint64_t offset, uint64_t expected, uint64_t desired, uint64_t *found, bool *lost);

/* The same, tried again as long as the transport fails and the word is 'expected': 0 once it is not. */
int sure_swap_away(dsm_remote *r, uint64_t offset, uint64_t expected, uint64_t desired);

/* For the only writer of the word: changes it from 'from', its known value, to 'to'. If an attempt fails and the word
 * is then 'to', the attempt took effect. from == to is a success without an op. Returns 0, ECORRUPT if another process
 * changed the word, or the error of the transport. */
int sure_move(dsm_remote *r, uint64_t offset, uint64_t from, uint64_t to);

#endif
