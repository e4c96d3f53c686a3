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
 *
 * A process can claim further numbers on behalf of participants of other hosts, and end them: decision 0023.
 */
#ifndef DSM_BASE_IDENTITY_H
#define DSM_BASE_IDENTITY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Set in every identity that is not that of a process of this host. The other bits are a number that the memory's owner
 * has claimed for it, or they are random. */
#define IDENTITY_ELSEWHERE (1ull << 63)

/* Stores the identity of this process and returns 0. It is not 0, its bit 63 is clear, and every call stores the same
 * one; a child of fork() gets its own. Returns -1 with errno if no proof is possible here (no shared memory directory,
 * no space, no file descriptor, no thread, or no support for such locks). A later call tries again. */
int identity_claim(uint64_t *out);
/* True only if it is proven that the process has ended or has called exec; or, of a participant of another host, that
 * the process that has claimed its number has ended the number, or has itself ended. Costs a few system calls, and a
 * short-lived thread before it says so. */
bool identity_ended(uint64_t identity);
/* The pid of the process in the pid namespace of this one; 0 if it is unknown or in another namespace. */
int identity_pid(uint64_t identity);

/* Identities from 'first' on, for participants of other hosts. They live until identity_end_range(), or until this
 * process ends. */
struct identity_range {
    uint64_t first, count;
    void *keep; /* the mapping that keeps the kernel's lock */
};
/* Returns 0, or -1 with errno as identity_claim() does. A participant that has had earlier ones gets a larger one. */
int identity_claim_range(struct identity_range *out, size_t earlier);
void identity_end_range(struct identity_range *r);
/* An identity of which nothing can be proven, as little as of the 2^45 behind it. Returns -1 with errno. */
int identity_random(uint64_t *out);

#endif
