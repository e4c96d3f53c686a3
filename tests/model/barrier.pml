/*
 * The barrier (csrc/proto/barrier.c): parties that come, wait, run out of time and come again, one who aborts or resets, and any may be killed
 * at any step. The lock under which they arrive is one step (lock.pml): who takes it from the dead has the news.
 *
 * Checked: who is told that the parties met was one of a generation to which all have come and which the last of them ended; who
 * is told that it broke is not, unless there was a later reset; with TIMEOUTS everybody comes to an end whatever the others do; without, too,
 * as long as nobody dies but between taking the lock and the end of its generation.
 *
 * Mutations, each of which must fail: STORE_ROUND NO_GENERATION NO_AGE NO_NEWS LOCK_UNSEEN
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
#define ENDERS 0 /* who abort or reset */
#endif
#define MOST 16

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
byte who[PARTIES];
byte holder;
bool news;
bool dead[PROCESSES + ENDERS + 1];
byte deaths = DEATHS;

/* Not in memory: what is true. */
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

/* What the waiter finds within 50 ms. */
#define came_dead(i) (gen(arrived) == g && i < (arrived & 15) && dead[who[i]])
#if PARTIES == 2
#define one_died (came_dead(0) || came_dead(1))
#else
#define one_died (came_dead(0) || came_dead(1) || came_dead(2))
#endif
#ifdef LOCK_UNSEEN
#define holder_died false
#else
#define holder_died dead[holder]
#endif

inline acquire()
{
    if
    :: d_step { holder == 0 -> holder = me }
    :: d_step {
        holder != 0 && dead[holder] -> holder = me;
#ifndef NO_NEWS
        news = true
#endif
       }
    OR_LATE
    OR_DIE
    fi
}

inline release()
{
    STEP(d_step { assert(holder == me); holder = 0; news = false })
}

/* Breaks the generation g, or with any the one that there is. */
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
    byte rounds, g, n, i;
    short mine, seen;
    bool all, lately;

again:
    do
    :: rounds == ROUNDS -> goto gone
    :: else ->
        lately = false;
        acquire();
        if :: news -> break_off(true) :: else fi;
        STEP(mine = round);
        g = gen(mine);
        STEP(n = counted(arrived, mine));
        if
        :: mine & BROKEN -> release(); goto gone
        :: !(mine & BROKEN) && n == PARTIES -> release(); lately = true /* until the last has ended it */
        :: else ->
            if
            :: n + 1 == PARTIES && one_died -> break_off(false); release(); goto gone
            :: true /* it has looked not long ago */
            fi;
            STEP(who[n] = me);
            STEP(d_step { arrived = g << 4 | (n + 1); came[g]++ });
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
    byte n, g;
    if
    :: break_off(true) /* abort */
    :: true ->
        do
        :: true ->
            STEP(seen = round);
            STEP(n = counted(arrived, seen));
            if
            :: n == 0 && !(seen & BROKEN) -> break
            :: else ->
                STEP(d_step {
                    if
                    :: round == seen -> round = next(seen, 1); resets = gen(seen) + 1; seen = -1
                    :: else
                    fi
                });
                if :: seen == -1 -> break :: else fi
            fi
        od;
        /* forget the dead */
        if
        :: d_step { holder == 0 -> holder = me }
        :: d_step { holder != 0 && dead[holder] -> holder = me }
        :: holder != 0 && !dead[holder] -> goto gone
        fi;
        STEP(d_step { holder = 0; news = false })
    fi;
gone:
    skip
}

init {
    byte i;
    atomic {
        for (i : 1 .. PROCESSES) { run party(i) }
        for (i : PROCESSES + 1 .. PROCESSES + ENDERS) { run ender(i) }
    }
}
