/*
 * Identities of processes, and the proof that a process has ended: docs/protocols/objects.md, decision 0009.
 *
 * An identity is a number. Each user has one file that allocates such numbers, each of them once. A process holds a
 * lock on the byte of its user's file whose offset is its identity. The lock belongs to an open file description to
 * which only a mapping of the process refers: the descriptor is closed at once, and MADV_DONTFORK keeps the mapping out
 * of children. So the kernel drops the lock when the last thread of the process has ended, or at exec, and at no other
 * time, in every namespace. Other processes test whether the lock is held. Neither depends on what the program does
 * with the descriptors of its process meanwhile. A number that the file at hand has not allocated belongs to another
 * file, and nothing is known about its process.
 */
#ifndef DSM_BASE_IDENTITY_H
#define DSM_BASE_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

/* Stores the identity of this process and returns 0. It is not 0, its bit 63 is clear, and every call stores the same
 * one; a child of fork() gets its own. Returns -1 with errno if no proof is possible here (no shared memory directory,
 * no space, no file descriptor, no thread, or no support for such locks). A later call tries again. */
int identity_claim(uint64_t *out);
/* True only if it is proven that the process has ended or has called exec. Costs a few system calls, and
 * a short-lived thread before it says so. */
bool identity_ended(uint64_t identity);
/* The pid of the process in the pid namespace of this one; 0 if it is unknown or in another namespace. */
int identity_pid(uint64_t identity);

#endif
