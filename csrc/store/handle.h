/* What a client of a store is made of. */
#ifndef DSM_STORE_HANDLE_H
#define DSM_STORE_HANDLE_H

#include "machine.h"

struct store_window;
struct store_posting;

struct dsm_store {
    struct store_env env; /* as the store was opened; it does not change */
    dsm_remote *at[STORE_PLACES_MOST];
    uint8_t first[STORE_PLACES_MOST + 1]; /* env.first, if extents have copies of their own */
    struct store_shape shape;
    struct store_frames frames[STORE_PLACES_MOST]; /* of each extent */
    struct store_heads heads;
    struct store_dues dues;
    struct store_intents intents;
    struct store_words words;
    struct store_held held;
    uint64_t identities[STORE_PLACES_MOST]; /* in the slot of each place */
    uint64_t user;                          /* of memory that is not mapped: the thread that is in a call */
    dsm_store_doubt doubt;                  /* of the last change */
    uint64_t retries;                       /* store_count_retry() */
    uint32_t fewest, demanded;   /* copies: of the extent with the fewest; without which nothing is changed */
    bool leaving;                /* its place may be another one's */
    struct store_window *window; /* of memory that is not mapped */
    struct store_posting *posting;
};

/* Op k of a machine was certainly not executed, since its connection ended while the owner lives, and all before it at
 * this copy were. It is posted again, but not more often in a row than this. */
enum { STORE_CANCELED_MOST = 8 };
bool store_was_canceled(const dsm_op *ops, uint32_t n, uint32_t k);
/* Fills in time and chance. */
void store_ask(struct store_env *e);

#endif
