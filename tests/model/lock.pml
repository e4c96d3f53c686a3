/*
 * The lock and its member table (csrc/objects/sync/lock.h, csrc/objects/member.h): processes join, take, release and
 * leave, and may be killed at any step.
 *
 * There are fewer entries than processes, so entries are used again: after their owner left, or after it died and a
 * newcomer has undone what it left. An identity is never used by another process.
 *
 * Checked: at most one living process holds the lock; tokens grow by one; a holder gets owner_died exactly if
 * a holder before it died with the lock and no process has got owner_died since; every process that is not killed
 * finishes (the model ends, so a stuck one is an invalid end state, and the model has no cycle). The sleep of a waiter
 * is a wait until the word changes or its holder is dead; for the sleep itself see eventcount.pml.
 *
 * Mutations, each of which must fail: NO_SWEEP BLIND_SWEEP TAKE_FROM_ANY LOOK_FIRST NO_TOKEN NO_OWNER_DIED
 */
#ifndef PROCESSES
#define PROCESSES 3
#endif
#ifndef ENTRIES
#define ENTRIES 2
#endif
#ifndef DEATHS
#define DEATHS 2
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif

/* word = owner (2 bits) | held 4 | owner_died 8 | token << 4 */
#define HELD 4
#define OWNER_DIED 8
#define owner_of(w) ((w) & 3)
#define token_of(w) ((w) >> 4)
#define held(w) ((w) & HELD)
#ifdef NO_TOKEN
#define grant(w, me) (HELD | me)
#else
#define grant(w, me) ((token_of(w) + 1) << 4 | HELD | me)
#endif
#define freed(w) (token_of(w) << 4)

short word;
byte entry[ENTRIES];       /* identity, 0: no process */
bool dead[PROCESSES + 1];  /* by identity */
byte deaths = DEATHS;

/* Not in memory: what has really happened. */
byte holder; /* identity of the process that has the lock, dead or alive */
byte token;
bool owner_died; /* a holder has died with the lock, and no process was told */

#define DIE d_step { deaths > 0 -> deaths--; dead[me] = true; if :: holder == me -> owner_died = true :: else fi }; goto gone
#define STEP(x) if :: x :: DIE fi

inline granted()
{
    assert(holder == 0 || dead[holder]);
    assert(token_of(mine) == token + 1);
    assert(((mine & OWNER_DIED) != 0) == owner_died);
    holder = me;
    token = token_of(mine);
    owner_died = false
}

proctype process(byte me)
{
    byte i, round, other;
    short seen, mine;

    /* member_join */
    do
    :: i < ENTRIES && entry[i] == 0 -> /* as the process has read it */
        STEP(d_step { if :: entry[i] == 0 -> entry[i] = me :: else fi });
        if :: entry[i] == me -> break :: else -> i = 0 fi
    :: i < ENTRIES && entry[i] != 0 && dead[entry[i]] ->
        STEP(other = entry[i]);
        if :: other == 0 || !dead[other] -> i = 0; goto again :: else fi;
#ifndef NO_SWEEP
        STEP(seen = word);
        if
        :: held(seen) && owner_of(seen) == i ->
#ifndef BLIND_SWEEP
            STEP(d_step { if :: entry[i] == other :: else -> seen = -1 fi });
#endif
            if
            :: seen != -1 ->
                STEP(d_step {
                    if
                    :: word == seen -> word = freed(seen) | OWNER_DIED; assert(dead[holder]); holder = 0
                    :: else
                    fi
                })
            :: else
            fi
        :: else
        fi;
#endif
        STEP(d_step { if :: entry[i] == other -> entry[i] = me :: else fi; seen = 0; other = 0 });
        if :: entry[i] == me -> break :: else -> i = 0 fi
    :: i < ENTRIES && entry[i] != 0 && !dead[entry[i]] -> i++
    :: i == ENTRIES -> /* all taken: waits for one that is free or whose member is dead */
        entry[0] == 0 || entry[1] == 0 || dead[entry[0]] || dead[entry[1]] -> i = 0
again:
        skip
    od;

    do
    :: round < ROUNDS ->
        /* take */
        do
        :: true ->
#ifdef LOOK_FIRST
            STEP(other = dead[entry[owner_of(word)]]);
#endif
            STEP(seen = word);
            if
            :: !held(seen) ->
#ifdef NO_OWNER_DIED
                mine = grant(seen, i);
#else
                mine = grant(seen, i) | (seen & OWNER_DIED);
#endif
                STEP(d_step { if :: word == seen -> word = mine; granted() :: else -> mine = 0 fi })
            :: else -> /* take_over */
#if defined(TAKE_FROM_ANY)
                other = 1;
#elif !defined(LOOK_FIRST)
                STEP(other = dead[entry[owner_of(seen)]]);
#endif
                if
                :: other ->
                    mine = grant(seen, i) | OWNER_DIED;
                    STEP(d_step { if :: word == seen -> word = mine; granted() :: else -> mine = 0 fi })
                :: else ->
                    mine = 0;
                    if /* sleeps */
                    :: word != seen || dead[entry[owner_of(seen)]]
                    :: DIE
                    fi
                fi;
                other = 0
            fi;
            if :: mine != 0 -> break :: else fi
        od;
        seen = 0;
        /* has the lock */
        STEP(assert(holder == me));
        /* release */
        STEP(d_step { assert(word == mine); word = freed(mine); holder = 0; mine = 0 });
        round++
    :: else -> break
    od;
    /* member_leave */
    STEP(d_step { if :: entry[i] == me -> entry[i] = 0 :: else fi });
gone:
    skip
}

init {
    byte i;
    atomic {
        for (i : 1 .. PROCESSES) { run process(i) }
    }
}
