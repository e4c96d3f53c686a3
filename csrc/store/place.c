/*
 * How a client takes its slots and gives them back. The primary decides which client has a slot: only that one touches
 * the slot of this number at a backup. So backups are taken after the primary and left before it, and a slot that is
 * free at the primary is free everywhere. Where a backup is out of reach, what this client has sent there may still
 * arrive: then it leaves no slot, and others take the place over once its death is proven at each copy.
 */
#include "place.h"

#include "../core/remote.h"
#include "../objects/member.h"
#include "../objects/object.h"
#include "../objects/sure.h"
#include "posting.h"

#include <string.h>

/* ---- chunks ---- */

/* Closed by another one that sweeps it, too, is closed. */
static int close_chunk(const dsm_store *s, uint64_t chunk, uint64_t word)
{
    return sure_swap_away(s->at[0], chunk_at(&s->shape, chunk), word, chunk_next(word, 0, CHUNK_CLOSED));
}

/* The word says whether the client has it open; reading it settles what was in doubt. Its frames are not used from now
 * on, also where the answer is lost. */
static int close_own_chunk(dsm_store *s)
{
    uint64_t word;
    int rc = sure_words(s->at[0], chunk_at(&s->shape, s->frames.chunk), &word, 1);
    s->frames = (struct store_frames){.chunk = s->frames.chunk};
    if (rc || chunk_state(word) != CHUNK_OPEN || chunk_owner(word) != s->env.slot + 1)
        return rc;
    return close_chunk(s, s->frames.chunk, word);
}

/* Closes what the dead client has left open, before another one gets its slot: chunk words name owners by slot. Until
 * then its frames are not used; the store has 64 for each slot. */
static int close_chunks(const dsm_store *s, uint32_t slot, uint64_t dead)
{
    uint64_t words[PER_CHUNK];
    int rc = 0;
    for (uint64_t i = 0; i < s->shape.chunks && !rc; i++) {
        uint64_t left = s->shape.chunks - i, word;
        if (i % PER_CHUNK == 0)
            rc = sure_read(s->at[0], chunk_at(&s->shape, i), words, 8 * (left < PER_CHUNK ? left : PER_CHUNK));
        word = words[i % PER_CHUNK];
        if (rc || chunk_state(word) != CHUNK_OPEN || chunk_owner(word) != slot + 1)
            continue;
        int is = member_is(s->at[0], STORE_SLOTS, slot, dead);
        rc = is > 0 ? close_chunk(s, i, word) : is;
    }
    return rc;
}

/* ---- headers ---- */

int place_look(dsm_remote *r, struct store_shape *shape, uint64_t *state)
{
    uint8_t bytes[STORE_SLOTS];
    struct object_header approved;
    int rc = object_check(r, DSM_STORE, &approved);
    if (!rc && dsm_remote_nbytes(r) < STORE_SLOTS)
        rc = err_set(DSM_ECORRUPT, 0, "%llu bytes are too few for a store", (unsigned long long)approved.nbytes);
    if (!rc)
        rc = sure_read(r, 0, bytes, sizeof bytes);
    if (!rc && memcmp(bytes, &approved, sizeof approved))
        rc = err_set(DSM_ECORRUPT, 0, "the header of the store changes");
    if (!rc)
        rc = store_parse(bytes, shape);
    if (!rc && state)
        memcpy(state, bytes + STORE_COMPLETE, sizeof *state);
    return rc;
}

static bool same_store(const struct store_shape *a, const struct store_shape *b)
{
    return a->id == b->id && a->copies == b->copies && a->page_bytes == b->page_bytes && a->slots == b->slots &&
           a->pages == b->pages;
}

static int check_primary(dsm_store *s)
{
    uint64_t state;
    int rc = place_look(s->at[0], &s->shape, &state);
    if (rc)
        return rc;
    if (s->shape.index || s->shape.copies != s->env.copies)
        return err_set(DSM_EMISMATCH, 0, "it is copy %u of %u, and copy 0 of %u is wanted", s->shape.index,
                       s->shape.copies, s->env.copies);
    return state == DSM_STORE_WHOLE ? 0 : err_set(DSM_EMISMATCH, 0, "not all copies of the store have been made");
}

static int check_copies(dsm_store *s)
{
    int rc = check_primary(s);
    for (uint32_t k = 1; k < s->env.copies && !rc; k++) {
        struct store_shape other;
        rc = place_look(s->at[k], &other, NULL);
        if (!rc && (other.index != k || !same_store(&other, &s->shape)))
            rc = err_set(DSM_EMISMATCH, 0, "copy %u of the store is another one's", k);
        if (rc)
            posting_blame(s, k);
    }
    for (uint32_t k = 0; k < s->env.copies && s->env.copies > 1 && !rc; k++)
        if (remote_is_mapped(s->at[k])) /* the handles of a process would have one identity there, and equal locks */
            rc = err_set(DSM_EUNSUPPORTED, 0, "copies of a store in memory that is mapped; open it with tcp alone");
    return rc;
}

/* ---- taking ---- */

/* 1: no client can be using slot 'slot' of the backup, and *word is what is there. 0: one may. */
static int is_left(const dsm_store *s, uint32_t k, uint32_t slot, uint64_t *word)
{
    int rc = sure_words(s->at[k], slot_at(slot), word, 1);
    return rc ? rc : !*word || member_ended(s->at[k], *word);
}

/* Before another client gets the slot, at which a dead one is. 1: it may be alive at a backup. */
static int resolve_left(void *arg, uint32_t slot, uint64_t dead)
{
    dsm_store *s = arg;
    for (uint32_t k = 1; k < s->env.copies; k++) {
        uint64_t word;
        int left = is_left(s, k, slot, &word);
        if (left <= 0)
            return left < 0 ? left : 1;
    }
    int rc = posting_sweep(s, slot, store_mark(dead));
    return rc ? rc : close_chunks(s, slot, dead);
}

/* sent: its slot may become this client's from now on, whatever the result is. */
static int take_backup(dsm_store *s, uint32_t k, bool *sent)
{
    uint64_t word, found, own = s->identities[k];
    int left = is_left(s, k, s->env.slot, &word);
    *sent = left > 0;
    if (left < 0)
        return left;
    if (word == own)
        return 0;
    if (!left)
        return err_set(DSM_EBUSY, 0, "copy %u of the store: another client is at slot %u", k, s->env.slot);
    int rc = sure_swap_away(s->at[k], slot_at(s->env.slot), word, own);
    if (!rc)
        rc = sure_words(s->at[k], slot_at(s->env.slot), &found, 1);
    return rc || found == own ? rc : err_set(DSM_ECORRUPT, 0, "copy %u of the store: slot %u", k, s->env.slot);
}

static int leave_slot(const dsm_store *s, uint32_t k)
{
    return member_leave(s->at[k], STORE_SLOTS, s->env.slot, s->identities[k]);
}

/* The slot at the primary is kept if one of a backup may be this client's yet. */
static void give_back(const dsm_store *s, uint32_t taken)
{
    dsm_failure why = *dsm_last_error();
    while (taken && !leave_slot(s, taken - 1))
        taken--;
    err_again(&why);
}

static int take_backups(dsm_store *s)
{
    int rc = 0;
    for (uint32_t k = 1; k < s->env.copies && !rc; k++) {
        bool sent = false;
        rc = take_backup(s, k, &sent);
        if (rc) {
            give_back(s, k + sent);
            posting_blame(s, k);
        }
    }
    return rc;
}

/* A transaction of a client before that was given up may have left its word prepared, and another client that has met
 * one of its locks may be about to say so. Afterwards only this client changes the word. */
static int settle_word(const dsm_store *s, uint32_t k, uint64_t *word)
{
    uint64_t at = word_at(&s->shape, s->env.slot);
    int rc = sure_words(s->at[k], at, word, 1);
    if (rc || tx_state(*word) != TX_PREPARED)
        return rc;
    rc = sure_swap_away(s->at[k], at, *word, tx_word(tx_seq(*word), TX_ABORTED));
    return rc ? rc : sure_words(s->at[k], at, word, 1);
}

/* The transactions of this client have greater numbers than any before in this slot. */
static int read_words(dsm_store *s)
{
    int rc = 0;
    for (uint32_t k = 0; k < s->env.copies && !rc; k++) {
        rc = settle_word(s, k, &s->words.at[k]);
        if (tx_seq(s->words.at[k]) > s->words.seq)
            s->words.seq = tx_seq(s->words.at[k]);
    }
    return rc;
}

int place_take(dsm_store *s)
{
    int rc = check_copies(s);
    for (uint32_t k = 0; k < s->env.copies && !rc; k++) {
        rc = member_identity(s->at[k], &s->identities[k]);
        if (rc)
            posting_blame(s, k);
    }
    s->env.mark = store_mark(s->identities[0]);
    if (!rc)
        rc = member_join(s->at[0], STORE_SLOTS, s->shape.slots, s->identities[0], resolve_left, s, &s->env.slot);
    if (!rc)
        rc = take_backups(s);
    if (!rc && (rc = read_words(s)))
        give_back(s, s->env.copies);
    return rc;
}

/* ---- leaving ---- */

int place_leave(dsm_store *s)
{
    int rc = posting_settle(s);
    if (!rc)
        rc = posting_close_held(s);
    for (uint32_t k = 1; k < s->env.copies && !rc; k++) {
        rc = leave_slot(s, k);
        if (rc)
            posting_blame(s, k);
    }
    if (!rc)
        rc = close_own_chunk(s); /* no WRITE to one of its frames is under way to a backup any more */
    return rc ? rc : leave_slot(s, 0);
}

void place_abandon(dsm_store *s)
{
    for (uint32_t k = 1; k < s->env.copies; k++)
        leave_slot(s, k);
}
