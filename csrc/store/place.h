/* The slot of a client, which has the same number at each copy of each extent. */
#ifndef DSM_STORE_PLACE_H
#define DSM_STORE_PLACE_H

#include "handle.h"

/* Reads the header of one copy. state: NULL, or for the word that says whether all copies exist. */
int place_look(dsm_remote *r, struct store_shape *shape, uint64_t *state);
/* Whether two copies are of one store. */
bool store_same(const struct store_shape *a, const struct store_shape *b);
/* Checks that s->at are the places of one store, and takes a slot at each. A dead client's is taken over after what it
 * has left has been resolved. */
int place_take(dsm_store *s);
/* Gives back chunk and slots. After an error it may be called again. */
int place_leave(dsm_store *s);
/* Instead, where a place is out of reach. What this client has sent to the others has ended, so it leaves them. */
void place_abandon(dsm_store *s);
/* Where a client finds no chunk: closes those of others that are proven dead, after their locks have been resolved. 1:
 * there were some. */
int place_reap(dsm_store *s);

#endif
