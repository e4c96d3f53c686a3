/*
 * Identities of processes, and the proof that one of them has ended: docs/protocols/objects.md, decision 0009.
 *
 * An identity is a number that its user's file hands out once. Its process holds a lock on the byte of that file that
 * the number names. The lock belongs to an open file description, of which only a mapping of the process is left: the
 * descriptor is closed at once, and MADV_DONTFORK keeps the mapping from children. So the kernel drops the lock when
 * the last thread of the process is gone, or at exec, and at nothing else, in whatever namespace. Others ask whether
 * the lock is held; a number that their file has not handed out belongs to another file, of which they can say nothing.
 */
#ifndef DSM_BASE_IDENTITY_H
#define DSM_BASE_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

/* The identity of this process: bit 63 is clear, never 0, the same at every call; a child gets its own. -1: no proof is
 * possible here (errno says why: no directory of shared memory, no room, no descriptor, no such locks), and a later
 * call tries again. */
int identity_claim(uint64_t *out);
/* Proven: its process has ended or called exec. No fast path: a few system calls. */
bool identity_ended(uint64_t identity);
/* Its process as this one's pid namespace numbers it; 0: not known, or of another namespace. */
int identity_pid(uint64_t identity);

#endif
