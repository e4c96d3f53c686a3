/*
 * Arrays of records that are put at once (push_batch in csrc/objects/queue/producer.c) and taken at once
 * (dsm_queue_pop_records in csrc/objects/queue/consumer.c), on a plain lane, in words instead of bytes. ring.pml has
 * single messages, and more about them.
 *
 * Payloads and the headers behind the first one are streamed: a streamed word becomes visible to others at any time
 * until the fence, in any order. The word behind the last record and the header of the first one are ordinary stores,
 * in order. Producer and consumer may be killed before each of their steps, as in ring.pml. A kill goes through the
 * kernel, so what was streamed is visible to the successor. The consumer takes one record, or two with one move of the
 * tail.
 *
 * An array is there whole or not at all: every record that the consumer finds was logged at the instant of the commit.
 * The model ends, so a record that is never taken is an invalid end state.
 *
 * Mutations, each of which must fail: FIRST_FIRST NO_FENCE FENCE_LATE NO_ZERO PADDING_FIRST TAIL_FIRST
 */
#define L 6 /* words of the lane; the longest record has L / 2 */
#ifndef M
#define M 4 /* records */
#endif
#ifndef PRODUCER_DEATHS
#define PRODUCER_DEATHS 1
#endif
#ifndef CONSUMER_DEATHS
#define CONSUMER_DEATHS 1
#endif

#define PADDING 3 /* as length; records have 0 to 2 words */
#define header(length, p) (1 + (length) + 4 * ((p) / L))
#define length_of(h) (((h) - 1) % 4)
#define fits(h, p) ((h) != 0 && ((h) - 1) / 4 == (p) / L)
#define place(at, size) (1 + (size) > L - (at) % L -> (at) + L - (at) % L : (at))

byte word[L]; /* the lane, as all processes see it */
byte head, tail;
byte producer_deaths = PRODUCER_DEATHS, consumer_deaths = CONSUMER_DEATHS;

bool late[L]; /* streamed, and not yet visible */
byte late_word[L], late_by[L];

/* Not in memory: what has really happened. */
byte by[L]; /* the attempt to put that wrote the word last */
byte tries;
byte log[M], length[M]; /* the attempt that committed record i, and its length */
byte committed, taken;

#define LAND(i) late[i] -> word[i] = late_word[i]; by[i] = late_by[i]; late[i] = false; late_word[i] = 0; late_by[i] = 0
#define ALL_LANDED !late[0] && !late[1] && !late[2] && !late[3] && !late[4] && !late[5]
#define STORE(p, value) word[(p) % L] = value; by[(p) % L] = mine
#define STREAM(p, value) late[(p) % L] = true; late_word[(p) % L] = value; late_by[(p) % L] = mine

active proctype memory()
{
end:
    do
    :: d_step { LAND(0) }
    :: d_step { LAND(1) }
    :: d_step { LAND(2) }
    :: d_step { LAND(3) }
    :: d_step { LAND(4) }
    :: d_step { LAND(5) }
    od
}

inline land_all()
{
    i = 0;
    do
    :: i < L ->
        if
        :: LAND(i)
        :: else
        fi;
        i++
    :: else -> i = 0; break
    od
}

/* The records of the array, whose attempts have consecutive numbers. */
inline commit(n)
{
    log[committed] = first_try; length[committed] = size; committed++;
    if
    :: n == 2 -> log[committed] = first_try + 1; length[committed] = size; committed++
    :: else
    fi
}

active proctype producer()
{
    byte at, from, p, first, first_try, size, n, k, i, h, t, mine, look;
#define STEP(x) if :: x :: d_step { producer_deaths > 0 -> producer_deaths--; land_all(); at = 0; from = 0; p = 0; first = 0; first_try = 0; size = 0; n = 0; k = 0; h = 0; t = 0; mine = 0; look = 0 }; goto born fi

born: /* succeed_mapped */
    STEP(at = head);
    STEP(t = tail);
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
    STEP(head = at);
    do
    :: committed < M ->
        atomic {
            if :: size = 0 :: size = 1; look = 1 :: size = 1; look = 2 :: size = 2; look = 2 fi;
            if :: n = 1 :: committed + 2 <= M -> n = 2 fi;
            from = at; k = 0; p = place(at, size)
        }
        p + 1 + size + 1 - tail <= L ->
        do
        :: k < n && p + 1 + size + 1 - tail <= L ->
            d_step { tries++; mine = tries; if :: k == 0 -> first = p; first_try = mine :: else fi }
            i = 0;
            do
            :: i < size ->
                STEP(d_step { STREAM(p + 1 + i, header(0, p + (look - 1) * L)) }); /* like a header of this lap or the next */
                i++
            :: else -> i = 0; break
            od;
            if
            :: k > 0 ->
                STEP(d_step { STREAM(p, header(size, p)) });
                if
                :: p != at -> STEP(word[at % L] = header(PADDING, at))
                :: else
                fi
#ifdef FIRST_FIRST
            :: k == 0 && p == at -> STEP(d_step { STORE(p, header(size, p)) })
            :: k == 0 && p != at
#else
            :: k == 0
#endif
            fi;
            atomic { at = p + 1 + size; k++; p = place(at, size) }
        :: else -> break
        od;
#ifndef NO_ZERO
        STEP(word[at % L] = 0);
#endif
#if !defined(NO_FENCE) && !defined(FENCE_LATE)
        (ALL_LANDED);
#endif
        mine = first_try;
        if
        :: first == from -> STEP(d_step { STORE(first, header(size, first)); commit(k) })
        :: first != from ->
#ifdef PADDING_FIRST
            STEP(word[from % L] = header(PADDING, from));
            STEP(d_step { STORE(first, header(size, first)); commit(k) })
#else
            STEP(d_step { STORE(first, header(size, first)) });
            STEP(d_step { word[from % L] = header(PADDING, from); commit(k) })
#endif
        fi;
#ifdef FENCE_LATE
        (ALL_LANDED);
#endif
        STEP(d_step { head = at; from = 0; p = 0; first = 0; first_try = 0; size = 0; n = 0; k = 0; mine = 0; look = 0; h = 0; t = 0 })
    :: else -> break
    od
#undef STEP
}

active proctype consumer()
{
    byte t, p, h, i, k;
#define STEP(x) if :: x :: d_step { consumer_deaths > 0 -> consumer_deaths--; t = 0; p = 0; h = 0; i = 0; k = 0 }; goto born fi

born:
    do
    :: taken < M ->
        STEP(t = tail);
        p = t;
        word[p % L] != 0;
another:
        STEP(h = word[p % L]);
        assert(fits(h, p));
        if
        :: length_of(h) == PADDING ->
            p = p + L - p % L;
            STEP(h = word[p % L]);
            assert(fits(h, p) && length_of(h) != PADDING)
        :: else
        fi;
        assert(taken + k < committed && by[p % L] == log[taken + k] && length_of(h) == length[taken + k]);
#ifdef TAIL_FIRST
        STEP(tail = p + 1 + length_of(h));
#endif
        i = 0;
        do
        :: i < length_of(h) ->
            STEP(assert(by[(p + 1 + i) % L] == log[taken + k]));
            i++
        :: else -> i = 0; break
        od;
        atomic { p = p + 1 + length_of(h); k++ }
        if
        :: k < 2 && word[p % L] != 0 -> goto another
        :: true
        fi;
        STEP(d_step {
            tail = p;
            log[taken] = 0; length[taken] = 0; taken++;
            if
            :: k == 2 -> log[taken] = 0; length[taken] = 0; taken++
            :: else
            fi;
            t = 0; p = 0; h = 0; k = 0
        })
    :: else -> break
    od
#undef STEP
}
