/*
 * Logical clocks: one 8-byte word that only grows, by compare-swap, in this process's memory or in a named object.
 *
 *   Lamport (Lamport 1978)       send:    word := word + 1
 *                                receive: word := max(word, stamp) + 1
 *   hybrid (Kulkarni et al. 2014, "Logical Physical Clocks"): milliseconds since 1970 << 16 | counter
 *                                send:    word := max(word + 1, now << 16)
 *                                receive: word := max(word + 1, stamp + 1, now << 16)
 * The stamp is the word's new value. So all stamps of one clock are different and grow, a stamp is greater than every
 * one that its clock had received before, and a hybrid stamp is never behind the wall clock of the node that made it.
 * The counter of Kulkarni et al. restarts when the wall clock overtakes it. Here the counter is the word's low bits,
 * and more than 65536 stamps in a millisecond run into the next one, as if the wall clock were ahead.
 *
 * A hybrid stamp that would be ahead of the wall clock by more than the drift allowed is refused and changes nothing:
 * a node with a wrong clock can't push the others into the future. If the wall clock is set back further than that,
 * send is refused until the wall clock has caught up.
 *
 * The stamps that the clock makes itself may go one millisecond beyond that limit, so that it can send after it has
 * received the latest stamp allowed.
 *
 * A Lamport stamp that is more than 2^48 ahead of the word is refused, so one wrong message can't exhaust the clock.
 * Even at ten million stamps a second, a clock takes 325 days to get so far ahead of another.
 *
 * A process that dies leaves the word as it was, or with a stamp that no caller received.
 *
 * Object, type 11, 192 bytes:
 *   offset  bytes  what
 *        0     64  header of all objects
 *       64      8  hybrid word
 *      128      8  Lamport word
 */
#ifndef DSM_OBJECTS_CLOCK_LOGICAL_CLOCK_H
#define DSM_OBJECTS_CLOCK_LOGICAL_CLOCK_H

#include "../object.h"

enum { CLOCK_HYBRID = 64, CLOCK_LAMPORT = 128, CLOCK_BYTES = 192, STAMP_COUNTER_BITS = 16 };
#define LAMPORT_JUMP (1ull << 48)

#endif
