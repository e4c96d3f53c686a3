/*
 * A change of epoch of a store of two extents (docs/protocols/epochs.md, pages.md): a page in each, two copies of each,
 * and one transaction that changes both pages. Memory nodes die, with their memory, or are left out though they live,
 * and may count again before the next epoch is open. A coordinator decides on the places that count, fences them,
 * recovers all extents together and opens the epoch. It may crash at each step and begin again. epoch.pml has single
 * changes and the leases of readers, extents.pml the transactions of several clients; their steps are the same.
 *
 * Place 2x + k is copy k of extent x. SPREAD: memory nodes, on which these are: 2: (A0, B1), (A1, B0). 3: A0, (A1, B0),
 * B1. 4: each alone. So one node has copies of both extents, of one of them the primary.
 *
 * A record is there with its word here. One without a word may be of an older client with the same number; the
 * simulation (tests/c/test_store_sim.c) has that.
 *
 * The client may be stopped at each step: then nothing of it happens before the fence. What it has posted lands in any
 * order of the places. When its epoch has ended it asks one page in the next one what has become of the transaction.
 *
 * Checked: when an epoch opens all copies of a page are equal and unlocked, and both pages have changed or neither;
 * what the client was told, or any reader has seen, is so in each epoch; a reader of one page as changed reads the
 * other one so, too. An extent without a copy that counts: the store is lost, and the run ends.
 *
 * Mutations, each of which must fail:
 *   PER_EXTENT   what becomes of the transaction is decided for each extent, by its own words
 *   ONE_EXTENT   for both, by the words of the first
 *   PAGES_FIRST  pages change before the words agree
 *   OPEN_EACH    each extent is opened when its own pages are recovered
 *   MISSED       a copy counts again that has missed an epoch which was opened
 *   FENCE_ONE    the places of the first extent alone are fenced
 *   FENCE_LATE   places are fenced after their words were read
 *   ACK_EARLY    the caller is told 'committed' when one copy says so
 *   UNPREPARED   the words become committed though a place is not prepared
 */
#ifndef SPREAD
#define SPREAD 3
#endif
#ifndef DEATHS
#define DEATHS 2
#endif
#ifndef EVICTIONS
#define EVICTIONS 1
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef EPOCHS
#define EPOCHS 5
#endif
#define ALL 15

#if SPREAD == 2
#define NODE_MASK(n) ((n) == 0 -> 9 : 6)
#elif SPREAD == 3
#define NODE_MASK(n) ((n) == 0 -> 1 : ((n) == 1 -> 6 : 8))
#else
#define NODE_MASK(n) (1 << (n))
#endif

/* Heads, and words of the transaction. */
#define OLD 0
#define LOCK 1
#define NEW 2
#define NONE 0
#define PREPARED 1
#define COMMITTED 2
#define GIVEN_UP 3

byte head[4], word[4];
byte fence[4] = 1; /* the epoch that the place knows: clients of others are cut off */
byte gone;         /* places, a bit each */
byte members[EPOCHS + 1];
byte decided = 1, opened = 1;
byte deaths = DEATHS, evictions = EVICTIONS, crashes = CRASHES;
#ifdef OPEN_EACH
byte open_of[2] = 1; /* of each extent: the last epoch that was opened */
byte closed;         /* places that were left out of one that their extent was in, a bit each */
#endif

#define has(set, p) ((set) >> (p) & 1)
#define extent(p) ((p) >> 1)
#define first_of(set, x) (has(set, 2 * (x)) -> 2 * (x) : 2 * (x) + 1)
#define is_whole(set) (((set) & 3) && ((set) & 12))

/* The client: what it has posted, and at which places that has landed. */
#define C1 1
#define C3 2
#define C4 3
#define UNLOCKS 4
#define UNDOES 5
byte stage;
byte done;   /* of this stage, a bit for each place */
byte worded; /* the place is prepared, or was */

/* Not in memory: what has been told, and seen. */
bool acknowledged, failed, made, unmade; /* unmade: an epoch was opened without it */

inline is_made()
{
    assert(!failed && !unmade);
    made = true
}
inline is_not_made()
{
    assert(!acknowledged && !made)
}

/* ---- places ---- */

#define serves(p) (!has(gone, p) && fence[p] == 1)
#define lands(p, s) (stage == (s) && !has(done, p) && serves(p))
#define LANDS(p) \
    :: d_step { (stage == C1 || stage == UNDOES) && !has(worded, p) && serves(p) -> \
        worded = worded | 1 << p; \
        if :: word[p] == NONE -> word[p] = PREPARED :: else fi } \
    :: d_step { lands(p, C1) && has(worded, p) -> \
        done = done | 1 << p; \
        if :: (p & 1) == 0 && head[p] == OLD -> head[p] = LOCK :: else fi } \
    :: d_step { lands(p, C3) -> \
        done = done | 1 << p; \
        if :: word[p] == PREPARED -> word[p] = COMMITTED :: else fi } \
    :: d_step { lands(p, C4) && (p & 1) -> \
        done = done | 1 << p; \
        if :: head[p] == OLD -> head[p] = NEW :: else fi } \
    :: d_step { lands(p, UNLOCKS) && (p & 1) == 0 -> \
        done = done | 1 << p; \
        if :: head[p] == LOCK -> head[p] = NEW :: else fi } \
    :: d_step { lands(p, UNDOES) && (p & 1) == 0 -> \
        done = done | 1 << p; \
        if :: head[p] == LOCK -> head[p] = OLD :: else fi }

#define DIES(n) \
    :: d_step { deaths > 0 && !(gone & NODE_MASK(n)) -> deaths--; gone = gone | NODE_MASK(n) }

proctype places()
{
end:
    do
    LANDS(0) LANDS(1) LANDS(2) LANDS(3)
    DIES(0) DIES(1)
#if SPREAD > 2
    DIES(2)
#endif
#if SPREAD > 3
    DIES(3)
#endif
    od
}

/* ---- the client ---- */

proctype client()
{
    stage = C1;
end_c1:
    if
    :: d_step { done == ALL -> stage = C3; done = 0 }
    :: d_step { true -> stage = UNDOES; done = 0 }
#ifdef UNPREPARED
    :: d_step { (done & 5) == 5 -> stage = C3; done = 0 }
#endif
    :: opened > 1 -> goto doubt
    fi;
    if
    :: stage == UNDOES -> goto undoes
    :: else
    fi;
end_c3:
    if
#ifdef ACK_EARLY
    :: d_step { done != 0 -> is_made(); acknowledged = true }
#endif
    :: d_step { done == ALL -> is_made(); acknowledged = true; stage = C4; done = 0 }
    :: opened > 1 -> goto doubt
    fi;
end_c4:
    if
    :: d_step { done == 10 -> stage = UNLOCKS; done = 0 }
    :: opened > 1
    fi;
    goto over;
undoes:
end_undoes:
    if
    :: atomic { done == 5 -> is_not_made(); failed = true; goto over }
    :: opened > 1
    fi;
doubt: /* what the page of either extent has in the epoch that is open now */
    if
    :: d_step { head[first_of(members[opened], 0)] == NEW && fence[first_of(members[opened], 0)] == opened ->
        is_made(); acknowledged = true }
    :: d_step { head[first_of(members[opened], 0)] == OLD && fence[first_of(members[opened], 0)] == opened ->
        is_not_made(); failed = true }
    :: d_step { head[first_of(members[opened], 1)] == NEW && fence[first_of(members[opened], 1)] == opened ->
        is_made(); acknowledged = true }
    :: d_step { head[first_of(members[opened], 1)] == OLD && fence[first_of(members[opened], 1)] == opened ->
        is_not_made(); failed = true }
    :: true
    fi;
over:
    skip
}

/* What is read counts if the epoch is open that it was read in. */
#ifdef OPEN_EACH
#define view(x) open_of[x]
#else
#define view(x) opened
#endif
#define is_read(x) (!has(gone, first_of(members[view(x)], x)) && fence[first_of(members[view(x)], x)] == view(x))
proctype reader()
{
end:
    do
    :: d_step { is_read(0) && head[first_of(members[view(0)], 0)] == NEW && !made -> is_made() }
    :: d_step { is_read(1) && head[first_of(members[view(1)], 1)] == NEW && !made -> is_made() }
    :: d_step { is_read(0) && head[first_of(members[view(0)], 0)] == OLD && (made || acknowledged) -> assert(false) }
    :: d_step { is_read(1) && head[first_of(members[view(1)], 1)] == OLD && (made || acknowledged) -> assert(false) }
    od
}

/* ---- the coordinator ---- */

#define lost_one ((in & gone) != 0)
#define CRASH d_step { crashes > 0 && decided < EPOCHS -> crashes-- }; goto again
#define STEP(what) \
    if \
    :: d_step { !lost_one -> what } \
    :: lost_one -> goto again \
    :: CRASH \
    fi

#ifdef MISSED
#define may_count (ALL & ~gone)
#elif defined(OPEN_EACH)
#define may_count (members[opened] & ~closed & ~gone)
#else
#define may_count (members[opened] & ~gone)
#endif
#define BEGINS(n) \
    :: d_step { decided < EPOCHS && evictions > 0 && is_whole(may_count & ~NODE_MASK(n)) && (may_count & NODE_MASK(n)) -> \
        evictions--; in = may_count & ~NODE_MASK(n); decided++; members[decided] = in }

#ifdef FENCE_ONE
#define is_fenced(p) (has(in, p) && extent(p) == 0)
#else
#define is_fenced(p) has(in, p)
#endif
inline fence_off(p)
{
    if :: is_fenced(p) && fence[p] < decided -> fence[p] = decided :: else fi
}
/* In a place that is not fenced the client's op is executed before or after, so it is a compare-swap. */
inline agree(p)
{
    if
    :: has(in, p) && found[p] != NONE && word[p] == found[p] -> word[p] = (forward[extent(p)] -> COMMITTED : GIVEN_UP)
    :: else
    fi
}
inline set_page(p)
{
    if
    :: has(in, p) && head[p] == LOCK -> head[p] = (forward[extent(p)] -> NEW : OLD)
    :: has(in, p) && head[p] == OLD && forward[extent(p)] -> head[p] = NEW
    :: else
    fi
}
/* Of heads that differ the earlier one wins. */
inline make_equal(x)
{
    if
    :: (has(in, 2 * (x)) && head[2 * (x)] == OLD) || (has(in, 2 * (x) + 1) && head[2 * (x) + 1] == OLD) ->
        if :: has(in, 2 * (x)) -> head[2 * (x)] = OLD :: else fi;
        if :: has(in, 2 * (x) + 1) -> head[2 * (x) + 1] = OLD :: else fi
    :: else
    fi
}

#define says_committed(p) (has(in, p) && found[p] == COMMITTED)
inline decide()
{
    for (p : 0 .. 3) { found[p] = (has(in, p) -> word[p] : NONE) }
    p = 0;
#if defined(PER_EXTENT)
    forward[0] = says_committed(0) || says_committed(1);
    forward[1] = says_committed(2) || says_committed(3)
#elif defined(ONE_EXTENT)
    forward[0] = says_committed(0) || says_committed(1);
    forward[1] = forward[0]
#else
    forward[0] = says_committed(0) || says_committed(1) || says_committed(2) || says_committed(3);
    forward[1] = forward[0]
#endif
}

#define page(x) head[first_of(in, x)]
inline check_open()
{
    assert(!(has(in, 0) && has(in, 1)) || head[0] == head[1]);
    assert(!(has(in, 2) && has(in, 3)) || head[2] == head[3]);
    assert(page(0) != LOCK && page(0) == page(1));
    if
    :: page(0) == NEW -> is_made()
    :: else -> is_not_made(); unmade = true
    fi
}
#ifdef OPEN_EACH
inline open_extent(x)
{
    open_of[x] = decided;
    closed = closed | (ALL & ~in & (3 << 2 * (x)));
    if :: page(x) == NEW -> is_made() :: else -> is_not_made(); unmade = true fi
}
#endif

proctype coordinator()
{
    byte in, p, found[4];
    bool forward[2];
again:
    atomic { in = 0; p = 0; found[0] = 0; found[1] = 0; found[2] = 0; found[3] = 0; forward[0] = false; forward[1] = false }
end_idle:
    if
    :: d_step { decided < EPOCHS && is_whole(may_count) && ((members[decided] & gone) || decided > opened) ->
        in = may_count; decided++; members[decided] = in }
    :: (gone & members[opened]) && !is_whole(may_count) -> goto lost /* and said so */
    BEGINS(0) BEGINS(1)
#if SPREAD > 2
    BEGINS(2)
#endif
#if SPREAD > 3
    BEGINS(3)
#endif
    fi;
#ifndef FENCE_LATE
    STEP(fence_off(0));
    STEP(fence_off(1));
    STEP(fence_off(2));
    STEP(fence_off(3));
    STEP(decide());
#else
    STEP(decide());
    STEP(fence_off(0); fence_off(1); fence_off(2); fence_off(3));
#endif
#ifdef PAGES_FIRST
    STEP(set_page(0));
    STEP(set_page(1));
    STEP(set_page(2));
    STEP(set_page(3));
#endif
    STEP(agree(0));
    STEP(agree(1));
    STEP(agree(2));
    STEP(agree(3));
    STEP(set_page(0));
    STEP(set_page(1));
#ifdef OPEN_EACH
    STEP(make_equal(0); open_extent(0));
#endif
    STEP(set_page(2));
    STEP(set_page(3));
    STEP(make_equal(0));
    STEP(make_equal(1));
    STEP(check_open(); opened = decided);
    goto again;
lost:
    skip
}

init {
    atomic {
        members[1] = ALL;
        run places();
        run client();
        run coordinator();
        run reader()
    }
}
