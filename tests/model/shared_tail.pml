/*
 * Lanes whose tail several processes move (csrc/objects/queue/ring.h, TAKING, many consumers; dropping the oldest), in
 * words instead of bytes.
 *
 * A consumer copies the record at the tail and then moves the tail by compare-swap; with DROP the producer does the
 * same if it has no room. Every consumer but one (that with number 0) may be killed, or stopped forever, before each of
 * its steps. So may each producer, which is then followed by a successor (killed) or by none (STOPS). What a successful
 * compare-swap has taken is compared with the log of commits: no message is lost, doubled, reordered within its lane,
 * or torn. No invalid word is ever found at the tail. A get that reports 'empty' has seen each lane empty during the
 * call.
 *
 * The model ends, so a message that no process can take is an invalid end state. It has no cycle, so a process tries
 * again only because another one has made progress: this is checked as the absence of any cycle (-DNP -l).
 *
 * Mutations, each of which must fail: SWAP_FIRST BLIND_STORE EMPTY_ONCE STALE_IS_CORRUPT NO_ZERO; and
 * OLD_TAIL, which tries again with the tail as it was, forever
 */
#ifndef L
#define L 4 /* words of a lane; the longest record has L / 2 */
#endif
#ifndef LANES
#define LANES 1
#endif
#ifndef M
#define M 4 /* messages of a lane */
#endif
#ifndef CONSUMERS
#define CONSUMERS 2
#endif
#ifndef DEATHS
#define DEATHS 1
#endif

#define PADDING 3
#define header(length, p) (1 + (length) + 4 * ((p) / L))
#define length_of(h) (((h) - 1) % 4)
#define fits(h, p) ((h) != 0 && ((h) - 1) / 4 == (p) / L)
#define at(lane, p) ((lane) * L + (p) % L)

byte word[LANES * L];
byte head[LANES], tail[LANES];
byte deaths = DEATHS, alive = LANES; /* producers that may still put */

/* Not in memory: what has really happened. */
byte by[LANES * L];
byte tries;
byte log[LANES * M];
byte committed[LANES], out[LANES]; /* out: taken or dropped */
bool was_empty[LANES * CONSUMERS]; /* since the consumer's call began */

#define index(lane, i) ((lane) * M + (i))
#define left(lane) (committed[lane] - out[lane])

/* One more message is out of the lane, and it was this one. */
inline is_out(lane, copy)
{
    assert(out[lane] < committed[lane] && copy == log[index(lane, out[lane])]);
    log[index(lane, out[lane])] = 0;
    out[lane]++;
    if
    :: left(lane) == 0 ->
        was_empty[lane * CONSUMERS] = true;
        was_empty[lane * CONSUMERS + 1] = true;
        was_empty[lane * CONSUMERS + CONSUMERS - 1] = true
    :: else
    fi
}

proctype producer(byte lane)
{
    byte pos, p, next, size, i, h, t, mine, k;
#ifdef STOPS
#define STEP(x) if :: x :: d_step { deaths > 0 -> deaths-- }; goto dead fi
#else
#define STEP(x) if :: x :: d_step { deaths > 0 -> deaths--; pos = 0; p = 0; next = 0; size = 0; i = 0; h = 0; t = 0; mine = 0 }; goto born fi
#endif

born:
    STEP(pos = head[lane]);
    STEP(t = tail[lane]);
    p = pos + L;
    do
    :: pos < p ->
        STEP(h = word[at(lane, pos)]);
        if
        :: fits(h, pos) && length_of(h) == PADDING -> pos = pos + L - pos % L
        :: fits(h, pos) && length_of(h) != PADDING -> pos = pos + 1 + length_of(h)
        :: else -> break
        fi
    :: else -> break
    od;
    assert(pos >= t && pos - t <= L); /* otherwise it is corrupt */
    STEP(head[lane] = pos);
    do
    :: committed[lane] < M ->
        atomic {
            if :: size = 0 :: size = 1 fi;
            p = (1 + size > L - pos % L -> pos + L - pos % L : pos);
            next = p + 1 + size;
            h = 0;
            t = 0
        }
#ifdef DROP
        do
        :: true ->
            STEP(t = tail[lane]);
            if :: next + 1 - t <= L -> break :: else fi;
            STEP(h = word[at(lane, t)]); /* of its own lane: it is valid */
            assert(fits(h, t));
            if
            :: length_of(h) == PADDING ->
                i = t + L - t % L;
                STEP(h = word[at(lane, i)]);
                assert(fits(h, i) && length_of(h) != PADDING)
            :: else -> i = t
            fi;
            STEP(d_step {
                if
                :: tail[lane] == t -> tail[lane] = i + 1 + length_of(h); is_out(lane, by[at(lane, i)])
                :: else
                fi;
                i = 0; h = 0
            })
        od;
#else
        next + 1 - tail[lane] <= L ->
#endif
        atomic { tries++; mine = tries }
        if
        :: size == 1 -> STEP(d_step { word[at(lane, p + 1)] = header(0, p); by[at(lane, p + 1)] = mine })
        :: else
        fi;
#ifndef NO_ZERO
        STEP(word[at(lane, next)] = 0);
#endif
        if
        :: p == pos ->
            STEP(d_step {
                word[at(lane, p)] = header(size, p); by[at(lane, p)] = mine;
                log[index(lane, committed[lane])] = mine; committed[lane]++
            })
        :: else ->
            STEP(d_step { word[at(lane, p)] = header(size, p); by[at(lane, p)] = mine });
            STEP(d_step { word[at(lane, pos)] = header(PADDING, pos); log[index(lane, committed[lane])] = mine; committed[lane]++ })
        fi;
        pos = next;
        STEP(d_step { head[lane] = pos; p = 0; next = 0; size = 0; h = 0; t = 0; mine = 0 })
    :: else -> break
    od;
dead:
    alive--
#undef STEP
}

#if LANES == 1
#define nothing_left (left(0) == 0)
#else
#define nothing_left (left(0) == 0 && left(1) == 0)
#endif

proctype consumer(byte me)
{
    byte lane, t, p, h, copy, more, k;
#define STEP(x) if :: x :: d_step { me > 0 && deaths > 0 -> deaths-- }; goto dead fi

again: /* a get begins */
    atomic {
        t = 0; p = 0; h = 0; copy = 0; more = 0; lane = 0;
        if
        :: !nothing_left /* stands for the sleep on an eventcount, eventcount.pml */
        :: nothing_left && alive == 0 -> goto dead
        fi;
        d_step {
            do
            :: k < LANES -> was_empty[k * CONSUMERS + me] = (left(k) == 0); k++
            :: else -> k = 0; break
            od
        }
    }
look:
    STEP(t = tail[lane]);
look_again:
    p = t;
    STEP(h = word[at(lane, p)]);
    if
    :: fits(h, p) && length_of(h) == PADDING ->
        p = p + L - p % L;
        STEP(h = word[at(lane, p)])
    :: else
    fi;
    if
    :: !fits(h, p) || length_of(h) == PADDING -> goto absent
    :: else
    fi;
#ifdef SWAP_FIRST
    STEP(d_step { if :: tail[lane] == t -> tail[lane] = p + 1 + length_of(h) :: else -> t = 255 fi });
    if :: t == 255 -> goto look :: else fi;
#endif
    STEP(copy = by[at(lane, p)]);
    if
    :: length_of(h) == 1 ->
        STEP(more = by[at(lane, p + 1)])
    :: else -> more = copy
    fi;
    /* the swap; a copy that was torn must not be taken */
    STEP(d_step {
        if
#ifdef SWAP_FIRST
        :: true ->
#elif defined(BLIND_STORE)
        :: true -> tail[lane] = p + 1 + length_of(h);
#else
        :: tail[lane] == t -> tail[lane] = p + 1 + length_of(h);
#endif
            assert(copy == more);
            is_out(lane, copy);
            t = 255 /* taken */
        :: else
        fi
    });
    if
    :: t == 255 -> goto again
#ifdef OLD_TAIL
    :: else -> goto look_again
#else
    :: else -> goto look
#endif
    fi;

absent: /* no record: is the position still the tail? */
#ifdef EMPTY_ONCE
    if
    :: h == 0 -> goto next_lane
    :: else
    fi;
#endif
#ifdef STALE_IS_CORRUPT
    assert(h == 0);
#endif
    STEP(d_step { if :: tail[lane] == t -> t = 255 :: else -> t = 254 fi });
    if
    :: t == 254 -> goto look
    :: else -> assert(h == 0) /* otherwise it is corrupt */
    fi;
next_lane:
    assert(was_empty[lane * CONSUMERS + me]);
    lane++;
    if
    :: lane < LANES -> goto look
    :: else -> goto again /* 'empty' is reported; the next get begins */
    fi;
dead:
    skip
#undef STEP
}

init {
    byte i;
    atomic {
        for (i : 0 .. LANES - 1) { run producer(i) }
        for (i : 0 .. CONSUMERS - 1) { run consumer(i) }
    }
}
