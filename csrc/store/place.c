/*
 * How a client takes its slots and gives them back. Place 0, the primary of the first extent, decides which client has
 * a slot: only that one touches the slot of this number at another place. So the others are taken after place 0 and
 * left before it, and a slot that is free there is free everywhere. Where one is out of reach, what this client has
 * sent there may still arrive: then it leaves no slot, and others take it over once its death is proven at each place.
 */
#include "place.h"

#include "../core/remote.h"
#include "../objects/member.h"
#include "../objects/object.h"
#include "../objects/sure.h"
#include "posting.h"

#include <string.h>

/* ---- chunks ---- */

enum { WORDS = 1024 }; /* of chunks, that are read at a time */

/* The primary of an extent has its chunk words. */
static dsm_remote *primary_of(const dsm_store *s, uint32_t extent) { return s->at[first_of(&s->env, extent)]; }

/* Closed by another one that sweeps it, too, is closed. */
static int close_chunk(const dsm_store *s, uint32_t extent, uint64_t chunk, uint64_t word)
{
    return sure_swap_away(primary_of(s, extent), chunk_at(&s->shape, chunk), word, chunk_next(word, 0, CHUNK_CLOSED));
}

/* The word says whether the client has it open; reading it settles what was in doubt. Its frames are not used from now
 * on, also where the answer is lost. */
static int close_own_chunk(dsm_store *s, uint32_t extent)
{
    struct store_frames *f = &s->frames[extent];
    uint64_t word;
    int rc = sure_words(primary_of(s, extent), chunk_at(&s->shape, f->chunk), &word, 1);
    *f = (struct store_frames){.chunk = f->chunk};
    if (rc || chunk_state(word) != CHUNK_OPEN || chunk_owner(word) != s->env.slot + 1)
        return rc;
    return close_chunk(s, extent, f->chunk, word);
}

/* Closes what the dead client has left open, before another one gets its slot: chunk words name owners by slot. Until
 * then its frames are not used. */
static int close_chunks(const dsm_store *s, uint32_t extent, uint32_t slot, uint64_t dead)
{
    uint64_t words[WORDS];
    int rc = 0;
    for (uint64_t i = 0; i < s->shape.chunks && !rc; i++) {
        uint64_t left = s->shape.chunks - i, word;
        if (i % WORDS == 0)
            rc = sure_read(primary_of(s, extent), chunk_at(&s->shape, i), words, 8 * (left < WORDS ? left : WORDS));
        word = words[i % WORDS];
        if (rc || chunk_state(word) != CHUNK_OPEN || chunk_owner(word) != slot + 1)
            continue;
        int is = member_is(s->at[0], STORE_SLOTS, slot, dead);
        rc = is > 0 ? close_chunk(s, extent, i, word) : is;
    }
    return rc;
}

static int note_owners(const dsm_store *s, uint32_t extent, uint64_t owners[MEMBERS_MAX / 64])
{
    uint64_t words[WORDS];
    int rc = 0;
    for (uint64_t at = 0; at < s->shape.chunks && !rc; at += WORDS) {
        uint64_t left = s->shape.chunks - at, n = left < WORDS ? left : WORDS;
        rc = sure_read(primary_of(s, extent), chunk_at(&s->shape, at), words, 8 * n);
        for (uint64_t i = 0; i < n && !rc; i++) {
            uint64_t owner = chunk_owner(words[i]);
            if (chunk_state(words[i]) == CHUNK_OPEN && owner && owner <= s->shape.slots)
                owners[(owner - 1) / 64] |= 1ull << (owner - 1) % 64;
        }
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
    if (!rc) {
        memcpy(&shape->nodes, bytes + STORE_NODES, sizeof shape->nodes);
        memcpy(&shape->epoch, bytes + STORE_EPOCH, sizeof shape->epoch);
        memcpy(&shape->members, bytes + STORE_MEMBERS, sizeof shape->members);
    }
    return rc;
}

bool store_same(const struct store_shape *a, const struct store_shape *b)
{
    return a->id == b->id && a->copies == b->copies && a->extents == b->extents && a->page_bytes == b->page_bytes &&
           a->slots == b->slots && a->pages == b->pages;
}

/* *all: how many extents its header says. Until it is certain that all their copies are there it has one. */
static int check_primary(dsm_store *s, uint32_t *all)
{
    uint64_t state;
    int rc = place_look(s->at[0], &s->shape, &state);
    uint32_t n = s->env.copies, extents = s->shape.extents;
    s->shape.extents = 1;
    *all = extents;
    if (rc || s->shape.epoch)
        return rc;
    if (s->shape.index || s->shape.extent || s->shape.copies * extents != n) {
        return err_set(DSM_EMISMATCH, 0,
                       "it is copy %u of %u in extent %u of %u, and copy 0 of extent 0 is wanted, with %u in all",
                       s->shape.index, s->shape.copies, s->shape.extent, extents, n);
    }
    s->env.copies = n / extents;
    s->shape.extents = extents;
    return state == DSM_STORE_WHOLE ? 0 : err_set(DSM_EMISMATCH, 0, "not all copies of the store have been made");
}

/* Those of a store without an epoch are in the order of their numbers. */
static int check_others(dsm_store *s)
{
    int rc = 0;
    for (uint32_t k = 1; k < store_places(&s->env) && !rc; k++) {
        struct store_shape other;
        char name[PLACE_TEXT];
        rc = place_look(s->at[k], &other, NULL);
        if (!rc && (other.extent * s->env.copies + other.index != k || !store_same(&other, &s->shape)))
            rc = err_set(DSM_EMISMATCH, 0, "%s of the store is another one's", posting_name(s, k, name));
        if (!rc && other.epoch)
            rc = err_set(DSM_EMISMATCH, 0, "%s of the store is of epoch %llu, and copy 0 has none",
                         posting_name(s, k, name), (unsigned long long)other.epoch);
        if (rc)
            posting_blame(s, k);
    }
    return rc;
}

/* Place k is one of the same store and epoch. */
static int look_in_epoch(dsm_store *s, uint32_t k, uint32_t extents, struct store_shape *one)
{
    struct store_shape whole = s->shape;
    whole.extents = extents;
    int rc = place_look(s->at[k], one, NULL);
    if (!rc && !store_same(one, &whole))
        rc = err_set(DSM_EMISMATCH, 0, "copy %u of the store is another one's", k);
    if (!rc && one->epoch != whole.epoch)
        rc = err_set(DSM_EMISMATCH, 0, "copy %u of the store is of epoch %llu, and another one of %llu", one->index,
                     (unsigned long long)one->epoch, (unsigned long long)whole.epoch);
    if (rc)
        posting_blame(s, k);
    return rc;
}

static int others_belong(const dsm_store *s, uint32_t extent)
{
    return err_set(DSM_EMISMATCH, 0,
                   "other copies of extent %u of the store belong to its epoch %llu, or another is its primary", extent,
                   (unsigned long long)s->shape.epoch);
}

/* In an epoch each extent has copies of its own, the primary first, one extent behind the other. What belongs to it
 * each of them says. */
static int check_epoch(dsm_store *s, uint32_t extents)
{
    uint32_t n = s->env.copies, x = 0, most = 0;
    uint64_t has = 0, wanted = 0;
    for (uint32_t k = 0; k < n; k++) {
        struct store_shape one;
        int rc = look_in_epoch(s, k, extents, &one);
        if (rc)
            return rc;
        bool begins = has == wanted && one.extent == (k ? x + 1 : 0);
        if (begins) {
            x = one.extent;
            s->first[x] = (uint8_t)k;
            has = store_members(0, one.index);
            wanted = one.members;
        }
        if ((!begins && (one.extent != x || has >> one.index & 1)) || one.members != wanted)
            return others_belong(s, x);
        has |= 1ull << one.index;
        most = k + 1u - s->first[x] > most ? k + 1u - s->first[x] : most;
    }
    if (has != wanted || x + 1 != extents)
        return others_belong(s, has != wanted ? x : x + 1);
    s->first[extents] = (uint8_t)n;
    s->env.first = extents > 1 ? s->first : NULL;
    s->env.copies = most;
    s->shape.extents = extents;
    return 0;
}

static int check_copies(dsm_store *s)
{
    uint32_t extents;
    int rc = check_primary(s, &extents);
    if (!rc)
        rc = s->shape.epoch ? check_epoch(s, extents) : check_others(s);
    for (uint32_t k = 0; k < store_places(&s->env) && store_places(&s->env) > 1 && !rc; k++)
        if (remote_is_mapped(s->at[k])) /* the handles of a process would have one identity there, and equal locks */
            rc = err_set(DSM_EUNSUPPORTED, 0, "%s of a store in memory that is mapped; open it with tcp or verbs alone",
                         s->shape.extents == 1 ? "copies" : "extents");
    return rc;
}

/* ---- taking ---- */

/* 1: no client can be using slot 'slot' of place k, and *word is what is there. 0: one may. */
static int is_left(const dsm_store *s, uint32_t k, uint32_t slot, uint64_t *word)
{
    int rc = sure_words(s->at[k], slot_at(slot), word, 1);
    return rc ? rc : !*word || member_ended(s->at[k], *word);
}

/* Before another client gets the slot, at which a dead one is. 1: it may be alive at another place. */
static int resolve_left(void *arg, uint32_t slot, uint64_t dead)
{
    dsm_store *s = arg;
    for (uint32_t k = 1; k < store_places(&s->env); k++) {
        uint64_t word;
        int left = is_left(s, k, slot, &word);
        if (left <= 0)
            return left < 0 ? left : 1;
    }
    int rc = posting_sweep(s, slot, store_mark(dead));
    for (uint32_t x = 0; x < s->shape.extents && !rc; x++)
        rc = close_chunks(s, x, slot, dead);
    return rc;
}

/* 1: the client in the slot was dead, and has no chunk any more; the slot stays taken. 0: it may be alive. */
static int reap(dsm_store *s, uint32_t slot)
{
    uint64_t word;
    int rc = sure_words(s->at[0], slot_at(slot), &word, 1);
    if (rc || !word || !member_ended(s->at[0], word))
        return rc;
    rc = resolve_left(s, slot, word);
    return rc < 0 ? rc : !rc;
}

int place_reap(dsm_store *s)
{
    uint64_t owners[MEMBERS_MAX / 64] = {0};
    int rc = 0, found = 0;
    for (uint32_t x = 0; x < s->shape.extents && !rc; x++)
        rc = note_owners(s, x, owners);
    for (uint32_t slot = 0; slot < s->shape.slots && rc >= 0; slot++)
        if (owners[slot / 64] >> slot % 64 & 1 && slot != s->env.slot)
            found |= (rc = reap(s, slot)) > 0;
    return rc < 0 ? rc : found;
}

/* sent: its slot may become this client's from now on, whatever the result is. */
static int take_other(dsm_store *s, uint32_t k, bool *sent)
{
    char name[PLACE_TEXT];
    uint64_t word, found, own = s->identities[k];
    int left = is_left(s, k, s->env.slot, &word);
    *sent = left > 0;
    if (left < 0)
        return left;
    if (word == own)
        return 0;
    if (!left)
        return err_set(DSM_EBUSY, 0, "%s of the store: another client is at slot %u", posting_name(s, k, name),
                       s->env.slot);
    int rc = sure_swap_away(s->at[k], slot_at(s->env.slot), word, own);
    if (!rc)
        rc = sure_words(s->at[k], slot_at(s->env.slot), &found, 1);
    return rc || found == own
               ? rc
               : err_set(DSM_ECORRUPT, 0, "%s of the store: slot %u", posting_name(s, k, name), s->env.slot);
}

static int leave_slot(const dsm_store *s, uint32_t k)
{
    return member_leave(s->at[k], STORE_SLOTS, s->env.slot, s->identities[k]);
}

/* The slot at place 0 is kept if one of another place may be this client's yet. */
static void give_back(const dsm_store *s, uint32_t taken)
{
    dsm_failure why = *dsm_last_error();
    while (taken && !leave_slot(s, taken - 1))
        taken--;
    err_again(&why);
}

static int take_others(dsm_store *s)
{
    int rc = 0;
    for (uint32_t k = 1; k < store_places(&s->env) && !rc; k++) {
        bool sent = false;
        rc = take_other(s, k, &sent);
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
    for (uint32_t k = 0; k < store_places(&s->env) && !rc; k++) {
        rc = settle_word(s, k, &s->words.at[k]);
        if (tx_seq(s->words.at[k]) > s->words.seq)
            s->words.seq = tx_seq(s->words.at[k]);
    }
    return rc;
}

int place_take(dsm_store *s)
{
    int rc = check_copies(s);
    for (uint32_t k = 0; k < store_places(&s->env) && !rc; k++) {
        rc = member_identity(s->at[k], &s->identities[k]);
        if (rc)
            posting_blame(s, k);
    }
    s->env.mark = store_mark(s->identities[0]);
    if (!rc)
        rc = member_join(s->at[0], STORE_SLOTS, s->shape.slots, s->identities[0], resolve_left, s, &s->env.slot);
    if (!rc)
        rc = take_others(s);
    if (!rc && (rc = read_words(s)))
        give_back(s, store_places(&s->env));
    return rc;
}

/* ---- leaving ---- */

int place_leave(dsm_store *s)
{
    int rc = posting_settle(s);
    if (!rc)
        rc = posting_close_held(s);
    for (uint32_t k = 1; k < store_places(&s->env) && !rc; k++) {
        rc = leave_slot(s, k);
        if (rc)
            posting_blame(s, k);
    }
    for (uint32_t x = 0; x < s->shape.extents && !rc; x++)
        rc = close_own_chunk(s, x); /* no WRITE to one of its frames is under way to a backup any more */
    return rc ? rc : leave_slot(s, 0);
}

void place_abandon(dsm_store *s)
{
    for (uint32_t k = 1; k < store_places(&s->env); k++)
        leave_slot(s, k);
}
