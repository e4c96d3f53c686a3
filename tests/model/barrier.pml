/*
 * The barrier (csrc/objects/sync/barrier.c): parties arrive, wait, time out and arrive again, and another process
 * aborts or resets. Each of them may be killed at any step. The lock under which they arrive is one step (lock.pml). A
 * process that takes it from a dead holder gets owner_died. If a newcomer has taken over the dead holder's
 * entry (NEWCOMER), or the lock of a living holder was broken (BREAKER) and that holder then goes on, the next holder
 * gets owner_died, and waiters see it.
 *
 * Checked:
 *   a process that is told that the parties met was one of a generation in which all arrived and which the last one
 *     ended;
 *   a process that is told that the barrier broke was not in such a generation, unless there was a later reset;
 *   with TIMEOUTS every process finishes, whatever the others do;
 *   without TIMEOUTS too, as long as no process dies except between taking the lock and the end of its generation;
 *   a broken holder overwrites no party of a later generation.
 *
 * Mutations, each of which must fail: STORE_ROUND NO_GENERATION NO_AGE NO_OWNER_DIED LOCK_UNSEEN OWNER_DIED_UNSEEN
 * STORE_ENTRY NO_LAST_LOOK
 */
#ifndef PARTIES
#define PARTIES 2
#endif
#ifndef PROCESSES
#define PROCESSES PARTIES
#endif
#ifndef ROUNDS
#define ROUNDS 1
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef ENDERS
#define ENDERS 0 /* processes that abort or reset */
#endif
#define MOST 16
#if ENDERS > 0
#define GRANT token++ /* in the lock's word: a reset takes the lock from the grant that it has seen */
#else
#define GRANT skip
#endif

/* round = broken | age << 1 (3 bits) | generation << 4; arrived = how many | generation << 4 */
#define BROKEN 1
#define gen(w) ((w) >> 4)
#define age(w) (((w) >> 1) & 7)
#define next(w, a) ((gen(w) + 1) << 4 | (a) << 1)
#ifdef NO_AGE
#define was_met(w, g) true
#else
#define was_met(w, g) (age(w) == 0 || gen(w) - age(w) < g)
#endif
#ifdef NO_GENERATION
#define counted(a, w) ((a) & 15)
#else
#define counted(a, w) ((gen(a) == gen(w) && !((w) & BROKEN)) -> (a) & 15 : 0)
#endif

short round, arrived;
short entry[PARTIES]; /* process | generation << 4 */
byte holder;
byte token;
bool owner_died;
bool dead[PROCESSES + ENDERS + 2];
byte deaths = DEATHS;

/* Not in memory: what has really happened. */
byte came[MOST];
bool met[MOST];
byte resets; /* 1 + the last generation that ended by a reset */

#define DIE_IF(x) d_step { deaths > 0 && (x) -> deaths--; dead[me] = true }; goto gone
#define DIE DIE_IF(true)
#define STEP(x) if :: x :: DIE fi
#ifdef TIMEOUTS
#define OR_LATE :: goto late
#define OR_DIE :: DIE
#else
#define OR_LATE
#define OR_DIE
#endif

/* What a waiter notices within 50 ms. */
#define came_dead(i) (gen(arrived) == g && i < (arrived & 15) && dead[entry[i] & 15])
#if PARTIES == 2
#define one_died (came_dead(0) || came_dead(1))
#else
#define one_died (came_dead(0) || came_dead(1) || came_dead(2))
#endif
#ifdef LOCK_UNSEEN
#define holder_died false
#else
#ifdef OWNER_DIED_UNSEEN
#define holder_died dead[holder]
#else
#define holder_died (dead[holder] || (holder == 0 && owner_died))
#endif
#endif

inline acquire()
{
    if
    :: d_step { holder == 0 -> holder = me; recovered = owner_died; GRANT }
    :: d_step {
        holder != 0 && dead[holder] -> holder = me;
        GRANT;
#ifndef NO_OWNER_DIED
        owner_died = true;
        recovered = true
#endif
       }
    OR_LATE
    OR_DIE
    fi
}

inline release()
{
    recovered = false;
    STEP(d_step { if :: holder == me -> holder = 0; owner_died = false :: else fi })
}

/* Breaks the generation g, or if 'any' is set the current one. */
inline break_off(any)
{
    do
    :: true ->
        STEP(seen = round);
        if
        :: !(any) && gen(seen) != g -> break
        :: else ->
            if
            :: seen & BROKEN -> break
            :: else ->
                STEP(d_step { if :: round == seen -> round = seen | BROKEN; seen = -1 :: else fi });
                if :: seen == -1 -> break :: else fi
            fi
        fi
    od;
    seen = 0
}

inline was_broken()
{
    assert(!met[g] || resets > g + 1)
}

proctype party(byte me)
{
    byte rounds, g, n;
    short mine, seen, word, slot;
    bool all, lately, recovered;

again:
    do
    :: rounds == ROUNDS -> goto gone
    :: else ->
        lately = false;
        acquire();
        if :: recovered -> break_off(true) :: else fi;
read:
        STEP(mine = round);
        g = gen(mine);
        STEP(d_step {
            word = arrived;
            n = counted(word, mine);
            if :: n < PARTIES -> slot = entry[n] :: else fi
        });
#ifndef NO_LAST_LOOK
        STEP(all = holder == me); /* then all that was read is as this holder found it */
        if :: all -> all = false :: else -> goto gone fi;
#endif
        if
        :: mine & BROKEN -> release(); goto gone
        :: !(mine & BROKEN) && n == PARTIES -> release(); lately = true /* until the last party has ended it */
        :: else ->
            if
            :: n + 1 == PARTIES && one_died -> break_off(false); release(); goto gone
            :: true /* it has checked not long ago */
            fi;
            STEP(d_step {
#ifdef STORE_ENTRY
                if
                :: true ->
#else
                if
                :: entry[n] != slot -> all = true
                :: else ->
#endif
                    assert(round & BROKEN || gen(arrived) != gen(round) || n >= (arrived & 15));
                    entry[n] = g << 4 | me
                fi
            });
            if :: all -> all = false; goto read :: else fi;
            STEP(d_step {
                if
                :: arrived != word -> all = true
                :: else -> arrived = g << 4 | (n + 1); came[g]++
                fi
            });
            if :: all -> all = false; goto read :: else fi;
            word = 0;
            slot = 0;
            all = n + 1 == PARTIES;
            if
            :: all ->
#ifdef STORE_ROUND
                STEP(d_step { round = next(mine, (age(mine) == 0 -> 0 : age(mine) + 1)); met[g] = true; seen = 1 });
#else
                STEP(d_step {
                    if
                    :: round == mine -> round = next(mine, (age(mine) == 0 -> 0 : age(mine) + 1)); met[g] = true; seen = 1
                    :: else -> seen = 0
                    fi
                });
#endif
                release();
                if
                :: seen == 1 -> seen = 0; mine = 0; n = 0; all = false; assert(came[g] == PARTIES); rounds++; goto again
                :: else -> was_broken(); goto gone
                fi
            :: else -> release()
            fi
        fi;
        mine = 0;
        n = 0;
        /* wait for the end */
        do
        :: true ->
            seen = round;
            if
            :: gen(seen) != g || seen & BROKEN -> break
            :: else ->
                if
                :: round != seen
                :: one_died || holder_died ->
                    break_off(false)
                OR_LATE
                :: DIE_IF(gen(round) == g && !(round & BROKEN))
                fi
            fi
        od;
told:
        if
        :: gen(seen) == g -> assert(seen & BROKEN); seen = 0; was_broken(); goto gone
        :: gen(seen) != g && was_met(seen, g) ->
            assert(met[g] && came[g] == PARTIES);
            seen = 0;
            if :: lately :: else -> rounds++ fi
        :: else -> seen = 0; was_broken(); goto gone
        fi
    od;
late:
#ifdef TIMEOUTS
    if
    :: came[g] > 0 && !lately -> break_off(false); STEP(seen = round); goto told
    :: else -> break_off(true)
    fi;
#endif
gone:
    skip
}

proctype ender(byte me)
{
    short seen;
    byte n, g, from, grant;
    bool recovered, held;
    if
    :: break_off(true) /* abort */
    :: true -> /* reset */
        if
        :: d_step { holder == 0 -> holder = me; recovered = owner_died; held = true; GRANT }
        :: d_step { holder != 0 && dead[holder] -> holder = me; owner_died = true; recovered = true; held = true; GRANT }
        :: holder != 0 && !dead[holder]
        fi;
        do
        :: true ->
            STEP(d_step { from = holder; grant = token });
            STEP(seen = round);
            STEP(n = counted(arrived, seen));
            if
            :: n == 0 && !(seen & BROKEN) && !recovered -> break
            :: else ->
                if
                :: !held && n < PARTIES ->
                    STEP(d_step {
                        if
                        :: holder == from && token == grant ->
                            if :: holder != 0 -> owner_died = true :: else fi;
                            holder = me;
                            held = true;
                            GRANT
                        :: else
                        fi
                    })
                :: else
                fi;
                STEP(d_step {
                    if
                    :: round == seen -> round = next(seen, 1); resets = gen(seen) + 1; seen = -1
                    :: else
                    fi
                });
                if :: seen == -1 -> break :: else fi
            fi
        od;
        release()
    fi;
gone:
    skip
}

#ifdef NEWCOMER
proctype newcomer()
{
    if
    :: d_step { holder != 0 && dead[holder] -> holder = 0; owner_died = true }
    :: true
    fi
}
#endif

#ifdef BREAKER
proctype breaker(byte me)
{
    short seen;
    byte g;
    STEP(g = gen(round));
    if
    :: d_step { holder != 0 -> holder = 0; owner_died = true }
    :: true -> goto gone
    fi;
    break_off(false);
gone:
    skip
}
#endif

init {
    byte i;
    atomic {
        for (i : 1 .. PROCESSES) { run party(i) }
        for (i : PROCESSES + 1 .. PROCESSES + ENDERS) { run ender(i) }
#ifdef NEWCOMER
        run newcomer();
#endif
#ifdef BREAKER
        run breaker(PROCESSES + ENDERS + 1);
#endif
    }
}
