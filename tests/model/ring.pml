/*
 * The lane with one producer and one consumer (csrc/objects/queue/ring.h, PLAIN), in words instead of bytes, and with
 * one message at a time; array.pml has several at once.
 *
 * Each may be killed before each of its steps. It is then followed by a successor, which begins with what is in memory.
 * The consumer checks what it reads against a log that is written at the instant of the commit: no message is lost,
 * doubled, reordered or torn, nothing stale is taken for a record, nothing unread is overwritten. The successor of a
 * consumer that was killed before it moved the tail sees the message once more. The model ends, so a message that is
 * never taken is an invalid end state.
 *
 * Mutations, each of which must fail: PUBLISH_FIRST NO_ZERO PADDING_FIRST NO_SPARE NO_WALK HEAD_ONLY TAIL_FIRST
 */
#ifndef L
#define L 6 /* words of the lane; the longest record has L / 2 */
#endif
#ifndef M
#define M 5 /* messages */
#endif
#ifndef PRODUCER_DEATHS
#define PRODUCER_DEATHS 2
#endif
#ifndef CONSUMER_DEATHS
#define CONSUMER_DEATHS 1
#endif

#define PADDING 3 /* as length; messages have 0 to 2 words */
#define header(length, p) (1 + (length) + 4 * ((p) / L))
#define length_of(h) (((h) - 1) % 4)
#define fits(h, p) ((h) != 0 && ((h) - 1) / 4 == (p) / L)

byte word[L]; /* the lane */
byte head, tail;
byte producer_deaths = PRODUCER_DEATHS, consumer_deaths = CONSUMER_DEATHS;

/* Not in memory: what has really happened. */
byte by[L];     /* the attempt to put that wrote the word last */
byte tries;
byte log[M];    /* the attempt that committed message i */
byte length[M]; /* and its length */
byte committed, taken;

#define COMMIT log[committed] = mine; length[committed] = size; committed++

active proctype producer()
{
    byte at, p, next, size, i, h, t, mine, look;
#define STEP(x) if :: x :: d_step { producer_deaths > 0 -> producer_deaths--; at = 0; p = 0; next = 0; size = 0; i = 0; h = 0; t = 0; mine = 0; look = 0 }; goto born fi

born: /* succeed_mapped */
    STEP(at = head);
    STEP(t = tail);
#ifdef HEAD_ONLY
    assert(at >= t); /* a message may be taken before its producer has stored the head */
#endif
#ifndef NO_WALK
    p = at + L;
    do
    :: at < p ->
        STEP(h = word[at % L]);
        if
        :: fits(h, at) && length_of(h) == PADDING -> at = at + L - at % L
        :: fits(h, at) && length_of(h) != PADDING -> at = at + 1 + length_of(h)
        :: else -> break
        fi
    :: else -> break
    od;
    assert(at >= t && at - t <= L); /* otherwise it is corrupt */
#endif
    STEP(head = at);
    do
    :: committed < M ->
        atomic {
            if :: size = 0 :: size = 1; look = 1 :: size = 1; look = 2 :: size = 2; look = 1 :: size = 2; look = 2 fi;
            p = (1 + size > L - at % L -> at + L - at % L : at);
            next = p + 1 + size
        }
#ifdef NO_SPARE
        next - tail <= L ->
#else
        next + 1 - tail <= L ->
#endif
        d_step { tries++; mine = tries }
#ifdef PUBLISH_FIRST
        if
        :: p == at -> STEP(d_step { word[p % L] = header(size, p); by[p % L] = mine; COMMIT })
        :: else
        fi;
#endif
        i = 0;
        do
        :: i < size ->
            STEP(d_step { word[(p + 1 + i) % L] = header(0, p + (look - 1) * L) /* like one of this lap or the next */; by[(p + 1 + i) % L] = mine });
            i++
        :: else -> i = 0; break
        od;
#ifndef NO_ZERO
        STEP(word[next % L] = 0);
#endif
        if
        :: p == at ->
#ifndef PUBLISH_FIRST
            STEP(d_step { word[p % L] = header(size, p); by[p % L] = mine; COMMIT })
#else
            skip
#endif
        :: else ->
#ifdef PADDING_FIRST
            STEP(word[at % L] = header(PADDING, at));
            STEP(d_step { word[p % L] = header(size, p); by[p % L] = mine; COMMIT })
#else
            STEP(d_step { word[p % L] = header(size, p); by[p % L] = mine });
            STEP(d_step { word[at % L] = header(PADDING, at); COMMIT })
#endif
        fi;
        at = next;
        STEP(d_step { head = at; p = 0; next = 0; size = 0; mine = 0; look = 0; h = 0; t = 0 })
    :: else -> break
    od
#undef STEP
}

active proctype consumer()
{
    byte p, next, h, i;
#define STEP(x) if :: x :: d_step { consumer_deaths > 0 -> consumer_deaths--; p = 0; next = 0; h = 0; i = 0 }; goto born fi

born:
    do
    :: taken < M ->
        STEP(p = tail);
        word[p % L] != 0;
        STEP(h = word[p % L]);
        assert(fits(h, p));
        if
        :: length_of(h) == PADDING ->
            p = p + L - p % L;
            STEP(h = word[p % L]);
            assert(fits(h, p) && length_of(h) != PADDING)
        :: else
        fi;
        next = p + 1 + length_of(h);
        assert(taken < committed && by[p % L] == log[taken] && length_of(h) == length[taken]);
#ifdef TAIL_FIRST
        STEP(tail = next);
#endif
        i = 0;
        do
        :: i < length_of(h) ->
            STEP(assert(by[(p + 1 + i) % L] == log[taken]));
            i++
        :: else -> i = 0; break
        od;
#ifdef TAIL_FIRST
        STEP(taken++)
#else
        STEP(d_step { tail = next; log[taken] = 0; length[taken] = 0; taken++; p = 0; next = 0; h = 0 })
#endif
    :: else -> break
    od
#undef STEP
}
