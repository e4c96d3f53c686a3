/* The place of a client: a slot, of the same number at each copy of the store. */
#ifndef DSM_STORE_PLACE_H
#define DSM_STORE_PLACE_H

#include "handle.h"

/* Reads the header of one copy. state: NULL, or for the word that says whether all copies exist. */
int place_look(dsm_remote *r, struct store_shape *shape, uint64_t *state);
/* Checks that s->at are the copies of one store, and takes a slot at each. A dead client's is taken over after what it
 * has left has been resolved. */
int place_take(dsm_store *s);
/* Gives back chunk and slots. After an error it may be called again. */
int place_leave(dsm_store *s);
/* Instead, where a copy is out of reach. What this client has sent to the others has ended, so it leaves them. */
void place_abandon(dsm_store *s);

#endif
