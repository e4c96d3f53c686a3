/*
 * The eventcount (csrc/objects/eventcount.h): no process stays asleep while there is something for it and no other
 * process is left that will wake it.
 *
 *   default   putters change the word and wake all, getters take one each time: items of a queue
 *   -DLOCK    every process takes the word, gives it back and wakes one: a lock
 *
 * Without deaths no sleep needs a bound. With DEATHS a process may be killed between the change and the notify, and a
 * waiter at any step before it has what it waits for. Then the bound on a sleep is needed (-DRECHECK), and it suffices.
 * It is modelled as SPIN's timeout: a sleeper rechecks by itself only when nothing else in the system can happen. The
 * model ends, so a sleeper that is stuck is an invalid end state.
 *
 * Mutations, each of which must fail: WORD_FIRST SEEN_LATE CLEAR_LATE RING_FIRST ONE_BEHIND (with LOCK); DEATHS without
 * RECHECK
 */
#ifndef DEATHS
#define DEATHS 0
#endif
#define N 4
#ifdef LOCK
#define HOW_MANY 1
#define PUTTERS 1
#define ROUNDS 1
#else
#define HOW_MANY N
#define PUTTERS 2
#define ROUNDS 2
#endif

byte sequence, sleepers;
byte deaths = DEATHS;
bool asleep[N]; /* in the kernel */
byte word;       /* items; with LOCK 1: free, held by process 0 at first */

/* FUTEX_WAKE of one (the kernel chooses which) or of all. */
inline futex_wake(how_many)
{
    atomic {
        woken = 0;
        if
        :: how_many == 1 && asleep[0] -> asleep[0] = false; woken = 1
        :: how_many == 1 && asleep[1] -> asleep[1] = false; woken = 1
        :: how_many == 1 && asleep[2] -> asleep[2] = false; woken = 1
        :: how_many == 1 && asleep[3] -> asleep[3] = false; woken = 1
        :: how_many != 1 -> asleep[0] = false; asleep[1] = false; asleep[2] = false; asleep[3] = false; woken = N
        :: else
        fi
    }
}

inline eventcount_notify(how_many)
{
    if
    :: sleepers != 0 ->
        if
        :: how_many != 1 ->
#ifdef CLEAR_LATE
            sequence++;
            sleepers = 0;
#else
            sleepers = 0;
            sequence++;
#endif
            futex_wake(N)
        :: else ->
            sequence++;
            futex_wake(1);
            if
            :: woken < 1 ->
#ifdef CLEAR_LATE
                sequence++;
                sleepers = 0;
#else
                sleepers = 0;
                sequence++;
#endif
#ifdef ONE_BEHIND
                futex_wake(1)
#else
                futex_wake(N)
#endif
            :: else
            fi
        fi
    :: else
    fi;
    woken = 0
}

#define DIE d_step { deaths > 0 -> deaths-- }; goto dead

proctype process(byte me)
{
    byte round, seen, woken;
    do
    :: round < ROUNDS ->
        if
        :: me < PUTTERS -> goto change
        :: else
        fi;
        do
        :: atomic { word > 0 -> word--; break } /* by compare-swap */
        :: atomic { word == 0 -> skip };
#ifdef SEEN_LATE
            sleepers = 1;
#elif defined(WORD_FIRST)
            seen = sequence;
            sleepers = 1;
            goto sleep;
#else
            seen = sequence;
            sleepers = 1;
#endif
            if
            :: atomic { word > 0 -> word--; break }
            :: word == 0
            :: DIE
            fi;
#ifdef SEEN_LATE
            seen = sequence;
#endif
sleep:
            skip;
            d_step { if :: sequence == seen -> asleep[me] = true :: else fi }; /* FUTEX_WAIT */
            if
            :: atomic { !asleep[me] -> seen = 0 }
#ifdef RECHECK
            :: timeout -> asleep[me] = false
#endif
            :: d_step { deaths > 0 -> deaths--; asleep[me] = false }; goto dead
            fi;
            if
            :: true
            :: DIE /* woken, and it has not rechecked */
            fi
        od;
#ifndef LOCK
        goto done;
#endif
change:
#ifdef RING_FIRST
        eventcount_notify(HOW_MANY);
#endif
        word++;
        if
        :: true
#ifdef LOCK
        :: DIE
#else
        :: d_step { deaths > 0 -> deaths-- }; goto done /* its successor goes on */
#endif
        fi;
#ifndef RING_FIRST
        eventcount_notify(HOW_MANY);
#endif
done:
        round++
    :: else -> break
    od;
dead:
    skip
}

init {
    byte i;
    atomic {
        for (i : 0 .. N - 1) { run process(i) }
    }
}
