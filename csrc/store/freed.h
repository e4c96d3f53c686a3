/*
 * Where a client looks for free frames.
 *
 * It knows of some in chunks that it has closed itself: those that it has freed since, as long as the chunk's word is
 * the one that it has left there. And it guesses: a frame that it has freed, or that no head named when it has read all
 * of them, is free if no other client was faster. A guess is proven when the chunk is opened.
 */
#ifndef DSM_STORE_FREED_H
#define DSM_STORE_FREED_H

#include "machine.h"

enum { NO_CHUNK = UINT32_MAX };

/* The frame is free. */
void freed_note(struct store_freed *g, uint32_t frame);
/* Frames of the chunk that are known to be free, if this is its word. */
uint64_t freed_known(const struct store_freed *g, uint32_t chunk, uint64_t word);
/* It has been opened, or can't be. */
void freed_forget(struct store_freed *g, uint32_t chunk);
/* A chunk that is better looked at than the next one in the order, which is 'from'. NO_CHUNK: there is none. vain: a
 * chunk without any free frame was just looked through, or all heads were read, so that any guess is better. */
uint32_t freed_next(struct store_freed *g, uint32_t chunks, uint32_t from, bool vain);
/* A chunk was opened, in which so many frames are free. in_turn: it was the next one in the order. */
void freed_found(struct store_freed *g, uint32_t frames, bool in_turn);
/* So many chunks with few free frames, or none, were opened that a survey is worth while. survey_costs: chunks that are
 * looked through in vain in the time that it takes. */
bool freed_is_poor(const struct store_freed *g, uint32_t survey_costs);
/* Chunks of dead clients were closed: a survey is worth while. */
void freed_all_changed(struct store_freed *g);
/* It is open, so no guess is worth anything. */
void freed_is_open(struct store_freed *g, uint32_t chunk);

/* A survey: all heads are read, and then the words of chunks say which of them are open. There is no next one before it
 * has ended. whole: otherwise the guesses are then what this client has freed itself. */
void freed_survey(struct store_freed *g, uint32_t chunks);
void freed_is_named(struct store_freed *g, uint32_t chunks, uint64_t head);
void freed_surveyed(struct store_freed *g, uint32_t chunks, bool whole);

#endif
