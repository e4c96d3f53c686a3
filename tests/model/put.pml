/*
 * The put with several copies as it was, in two round trips (put_once.pml is the one that is): one page, a primary and
 * its backups. A client locks the head at the primary, changes the backups, acknowledges, and then the unlock is due. It
 * may be killed before each of its steps; what it has posted may be executed afterwards, until it is fenced. A
 * connection may break: then what was not executed never will be, answers are lost, and the client finds out over a new
 * connection; or it can't, and gives up. Recoverers resolve locks of the dead, late and several at once. A newcomer
 * takes over the slot of a dead client, and its frames. A lock has the mark of its client, so it never comes twice.
 *
 * Checked: a version has one value, and the value of a put one version; a reader never goes back, never misses what was
 * acknowledged, and finds the frame that the head names; in the end the page is unlocked, and all copies are equal. A
 * client that is not killed finishes. So puts are linearisable, an acknowledged one is never lost, no value is written
 * twice, and every lock ends.
 *
 * COPIES is 2 or 3. EVICTIONS: clients that live, and are fenced all the same. TWICE: the client of slot 2 puts twice,
 * and the frame of the first version is of its chunk.
 *
 * Mutations, each of which must fail:
 *   NO_MARK        a lock has the frame of the old head instead of the mark
 *   ACK_EARLY      acknowledges with the lock, before the backups have changed
 *   UNLOCK_FIRST   unlocks the primary before the backups have changed
 *   FRAME_ONCE     a frame whose answer was lost is not written again
 *   DOUBT_IS_YES   takes a lost answer to the lock for 'executed', and does not look
 *   DOUBT_IS_NO    does not note that the lock may stand
 *   BACKUP_IS_YES  takes a lost answer of a backup for 'executed'
 *   BACKUP_IS_NO   takes it for 'not executed', and unlocks
 *   RETRY          writes the value again after an unknown outcome
 *   KEEP_DUE       an unlock that was due is posted although the same lock has been taken again
 *   READ_LOCKED    a reader returns the old value under a lock
 *   PASS_LOCK      a client takes the lock from its holder
 *   NO_PROOF       a recoverer resolves the lock of a client that may be alive
 *   NO_FENCE       it does not fence the dead
 *   HALF_FENCE     it fences at the primary only
 *   STORE          a recoverer unlocks with a WRITE
 *   BACK           a recoverer goes back although a backup has changed (COPIES=3)
 *   HALF_FORWARD   it goes forward, and does not change the other backups (COPIES=3)
 *   NO_SWEEP       a slot is taken over before its locks are resolved
 *   BEHIND_LOCK    a newcomer takes a frame for free that may be behind a lock
 *   OLD_AT_LOCK    a client uses the old frame as soon as it has the lock (TWICE)
 */
#ifndef COPIES
#define COPIES 2
#endif
#ifndef LOSSES
#define LOSSES 1
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef EVICTIONS
#define EVICTIONS 0
#endif
#ifndef CLIENTS /* the third is a newcomer */
#define CLIENTS 2
#endif
#ifndef RECOVERERS
#define RECOVERERS 2
#endif
#ifdef TWICE
#define PUTS 2
#else
#define PUTS 1
#endif
#define BACKUPS ((1 << COPIES) - 2) /* as bits */
#define ALL ((1 << COPIES) - 1)

/* A head: owner (slot, 0: none) << 6 | version << 3 | frame; of a lock: mark. The mark is the client's number. */
#define word(owner, version, low) ((owner) << 6 | (version) << 3 | (low))
#define owner_of(h) ((h) >> 6)
#define version_of(h) ((h) >> 3 & 7)
#define low_of(h) ((h) & 7)
#ifdef NO_MARK
#define lock_on(h) word(slot, version_of(h), low_of(h))
#define is_of(h, slot, mark) (owner_of(h) == (slot))
#else
#define lock_on(h) word(slot, version_of(h), me)
#define is_of(h, slot, mark) (owner_of(h) == (slot) && low_of(h) == (mark))
#endif

byte head[COPIES];
byte frame[COPIES * 5];  /* the value that is in it */
byte fenced[CLIENTS + 1]; /* nodes, a bit each */
bool dead[CLIENTS + 1];   /* or evicted */
byte here[3];             /* at [slot]: the client */
byte deaths = DEATHS, losses = LOSSES, evictions = EVICTIONS;
#define NOTHING 7 /* in a frame */
#define SECOND 4  /* the value of a second put, and the frame that it has for it */

/* The connection of a client to a node: what is under way, in order, and what is known of the last op there. */
#define WIRES (COPIES * CLIENTS)
#define FRAME 255
mtype = { none, under_way, done, refused, lost };
chan wire[WIRES] = [3] of { byte, byte }; /* of a compare-swap: expected, desired; of a frame: FRAME, number and value */
mtype answer[WIRES];

/* Not in memory: what has really happened. */
byte value_at[8] = 255, version_at[8] = 255; /* of each version its value, of each put its version */
byte acknowledged;                           /* highest version, that of a reader included */
byte putting = CLIENTS, resolving = RECOVERERS;

inline visible(version, value)
{
    assert(value_at[version] == 255 || value_at[version] == value);
    assert(version_at[value] == 255 || version_at[value] == version);
    value_at[version] = value;
    version_at[value] = version
}

/* ---- nodes ---- */

#define client_of(c) ((c) % CLIENTS + 1)
#define node_of(c) ((c) / CLIENTS)
#define names(h, f) (owner_of(h) == 0 && low_of(h) == (f))
#define is_cut(c) (fenced[client_of(c)] >> node_of(c) & 1)

/* A node executes what comes through a connection, in order. The connection may break whenever something is under way,
 * or its answer is; what has not been executed then never will be. A frame is not seen before the compare-swap
 * behind it, so these are one step. */
#define EXECUTES(c) \
    atomic { nempty(wire[c]) -> \
        do \
        :: wire[c] ? a, b; \
            if \
            :: is_cut(c) -> answer[c] = lost; break \
            :: !is_cut(c) && a == FRAME -> \
                assert(!names(head[node_of(c)], b >> 3) || frame[node_of(c) * 5 + (b >> 3)] == (b & 7)); \
                frame[node_of(c) * 5 + (b >> 3)] = b & 7; answer[c] = done \
            :: !is_cut(c) && a != FRAME && head[node_of(c)] == a -> head[node_of(c)] = b; answer[c] = done; break \
            :: !is_cut(c) && a != FRAME && head[node_of(c)] != a -> answer[c] = refused; break \
            fi \
        :: empty(wire[c]) -> break \
        od; \
        if :: nempty(wire[c]) && answer[c] != lost -> answer[c] = under_way :: empty(wire[c]) || answer[c] == lost fi; \
        a = 0; b = 0 \
       }
#define BREAKS(c) \
    atomic { losses > 0 && answer[c] != none && answer[c] != lost -> \
        losses--; \
        answer[c] = lost; \
        do :: nempty(wire[c]) -> wire[c] ? _, _ :: empty(wire[c]) -> break od \
       }

proctype nodes()
{
    byte a, b;
end:
    do
    :: EXECUTES(0) :: EXECUTES(1) :: EXECUTES(2) :: EXECUTES(3) :: BREAKS(0) :: BREAKS(1) :: BREAKS(2) :: BREAKS(3)
#if COPIES * CLIENTS >= 6
    :: EXECUTES(4) :: EXECUTES(5) :: BREAKS(4) :: BREAKS(5)
#endif
#if COPIES * CLIENTS == 9
    :: EXECUTES(6) :: EXECUTES(7) :: EXECUTES(8) :: BREAKS(6) :: BREAKS(7) :: BREAKS(8)
#endif
    od
}

/* ---- resolving ---- */

inline compare_swap(node, from, to)
{
    d_step {
        if
        :: head[node] == from -> head[node] = to
        :: else
        fi
    }
}

/* The backups say what happened. Each of them has h or h', unless the lock is gone. */
inline read_backups(lock)
{
    one = head[1];
    assert((version_of(one) - version_of(lock) <= 1 && owner_of(one) == 0) || head[0] != lock);
    to = one
#if COPIES == 3
    ;
    two = head[2];
#ifdef BACK
    if :: version_of(two) < version_of(one) -> to = two :: else fi
#else
    if :: version_of(two) > version_of(one) -> to = two :: else fi
#endif
#endif
}

inline change_them(lock)
{
#if COPIES == 3 && !defined(HALF_FORWARD)
    if :: one != to -> compare_swap(1, one, to) :: else fi;
    if :: two != to -> compare_swap(2, two, to) :: else fi;
#endif
#ifdef STORE
    head[0] = to;
#else
    compare_swap(0, lock, to);
#endif
    d_step { one = 0; two = 0; to = 0 }
}

/* Its ops are executed no more. Before the proof is whole nothing is read. */
inline fence(client, node)
{
#if !defined(NO_FENCE) && !defined(NO_PROOF)
#ifdef HALF_FENCE
    if :: node == 0 -> fenced[client] = 1 :: else fi
#else
    fenced[client] = fenced[client] | 1 << (node)
#endif
#else
    skip
#endif
}

#define may_be_fenced(client) (client != 0 && (dead[client] || evictions > 0))
#define holder here[owner_of(head[0])]
#ifdef NO_PROOF
#define left_behind (owner_of(head[0]) != 0)
#else
#define left_behind (owner_of(head[0]) != 0 && is_of(head[0], owner_of(head[0]), holder) && may_be_fenced(holder))
#endif
#if CLIENTS == 3
#define nothing_under_way (empty(wire[0]) && empty(wire[1]) && empty(wire[2]))
#else
#define nothing_under_way (empty(wire[0]) && empty(wire[1]))
#endif

inline evict(client)
{
    if :: !dead[client] -> evictions--; dead[client] = true :: else fi
}

proctype recoverer()
{
    byte lock, client, one, two, to;
    do
    :: atomic { left_behind ->
        lock = head[0];
        client = holder;
#ifndef NO_PROOF
        evict(client);
#endif
        fence(client, 0) }
        atomic {
            fence(client, 1);
#if COPIES == 3
            fence(client, 2);
#endif
            client = 0
        }
        atomic { read_backups(lock) }
        atomic { change_them(lock); lock = 0 }
    :: putting == 0 && owner_of(head[0]) == 0 && nothing_under_way -> break
    od;
    resolving--
}

/* ---- clients ---- */

#define DIE d_step { deaths > 0 -> deaths--; dead[me] = true }; goto gone
#define AT(n) ((n) * CLIENTS + me - 1)
#define posts(n, a, b) wire[AT(n)] ! a, b; answer[AT(n)] = under_way
#define writes(n) posts(n, FRAME, (use << 3 | value))
#if COPIES == 3
#define all_answered (answer[AT(0)] != under_way && answer[AT(1)] != under_way && answer[AT(2)] != under_way)
#define was_lost(n) (answer[AT(n)] == lost)
#define lost_bits (was_lost(0) | was_lost(1) << 1 | was_lost(2) << 2)
#define heard answer[AT(0)] = none; answer[AT(1)] = none; answer[AT(2)] = none
#else
#define all_answered (answer[AT(0)] != under_way && answer[AT(1)] != under_way)
#define was_lost(n) (answer[AT(n)] == lost)
#define lost_bits (was_lost(0) | was_lost(1) << 1)
#define heard answer[AT(0)] = none; answer[AT(1)] = none
#endif

/* What one backup has answered. */
inline heard_of(k)
{
    if
    :: answer[AT(k)] == done -> copied = copied | 1 << k
    :: answer[AT(k)] == refused -> assert(head[k] == new); copied = copied | 1 << k
    :: answer[AT(k)] == lost -> unsure = unsure | 1 << k
    :: else
    fi
}

/* Over a new connection. */
inline ask(k)
{
    if
    :: unsure >> k & 1 ->
        unsure = unsure & ~(1 << k);
        if
        :: head[k] == new -> copied = copied | 1 << k
        :: else -> assert(head[k] == old)
        fi
    :: else
    fi;
    if
    :: !(copied >> k & 1) -> posts(k, old, new)
    :: else
    fi
}

inline unlock_is_due(to)
{
    due = true; due_lock = lock; due_next = to
}
inline forget_due()
{
    due = false; due_lock = 0; due_next = 0
}

/* Each atomic sequence begins with an answer, and ends with what is posted then, or with what is waited for. */
proctype client(byte me; byte slot; byte use)
{
    byte old, new, lock, one, two, to;
    byte value = me, puts = (me == 2 -> PUTS : 1);
    byte unwritten, copied, unsure; /* nodes, a bit each */
    byte due_lock, due_next;
    bool locked, due, kept, frees, leaves;

begin:
    if
    :: atomic { true ->
        d_step { new = 0; lock = 0; locked = false; copied = 0; unsure = 0; unwritten = 0; old = 0 }
#ifdef TWICE
        if :: frees && me == 2 -> use = 0 :: else fi;
#endif
        if
        :: fenced[me] -> goto gone
        :: !fenced[me] -> old = head[0]
        fi;
        if
        :: leaves && !kept && due -> goto post_due
        :: leaves && !kept && !due -> here[slot] = 0; goto gone
        :: leaves && kept && !is_of(old, slot, me) -> kept = false; goto begin
        :: (!leaves || kept) && is_of(old, slot, me) && due && due_lock == old -> goto post_due
        :: (!leaves || kept) && is_of(old, slot, me) && !(due && due_lock == old) -> read_backups(old); goto own
#ifdef PASS_LOCK
        :: !leaves && !is_of(old, slot, me) -> goto try
#else
        :: !leaves && owner_of(old) && !is_of(old, slot, me) -> goto wait
        :: !leaves && owner_of(old) == 0 -> goto try
#endif
        fi;

        /* Frames and lock; an unlock that is due goes ahead, unless it was sent before. */
try:    new = word(0, version_of(old) + 1, use);
        lock = lock_on(old);
        if :: due -> posts(0, due_lock, due_next) :: true fi;
        writes(0); posts(0, old, lock); writes(1);
#if COPIES == 3
        writes(2);
#endif
#ifdef PASS_LOCK
        old = word(0, version_of(old), low_of(old));
#endif
        goto locks }
    :: DIE
    fi;

wait: /* for another client's lock */
    if
    :: head[0] != old || fenced[me] -> goto begin
    :: DIE
    fi;

own: /* a lock of this client, of which it does not know what came of it */
    if
    :: atomic { true -> change_them(old); goto begin }
    :: DIE
    fi;

post_due:
    atomic { posts(0, due_lock, due_next) }
    if
    :: atomic { all_answered ->
        if :: answer[AT(0)] != lost -> forget_due() :: else fi;
        heard;
        goto begin }
    :: DIE
    fi;

locks:
    if
    :: atomic { all_answered ->
        locked = answer[AT(0)] == done;
        unwritten = lost_bits;
        heard;
        if
        :: fenced[me] -> goto gone
        :: !fenced[me] && unwritten & 1 -> goto doubts
        :: !fenced[me] && !(unwritten & 1) && !locked -> goto begin
        :: !fenced[me] && !(unwritten & 1) && locked
        fi;
has_lock:
#ifdef OLD_AT_LOCK
        if :: low_of(old) == 0 -> frees = true :: else fi;
#endif
#ifdef ACK_EARLY
        visible(version_of(new), value); acknowledged = version_of(new);
#endif
#ifdef UNLOCK_FIRST
        head[0] = new;
#endif
#ifdef KEEP_DUE
        if :: due -> posts(0, due_lock, due_next); due = false :: else fi;
#else
        forget_due();
#endif
#ifdef FRAME_ONCE
        unwritten = 0;
#endif
        if :: unwritten -> goto post_frames :: !unwritten -> goto post_swaps fi;
post_frames:
        if :: unwritten & 1 -> writes(0) :: else fi;
        if :: unwritten & 2 -> writes(1) :: else fi;
#if COPIES == 3
        if :: unwritten & 4 -> writes(2) :: else fi;
#endif
        goto frames }
    :: DIE
    fi;

doubts:
    if
#ifdef DOUBT_IS_YES
    :: atomic { true -> goto has_lock }
#else
    :: atomic { !fenced[me] && head[0] == lock && !(due && due_lock == lock) && !kept -> goto has_lock }
    :: !fenced[me] && !(head[0] == lock && !(due && due_lock == lock) && !kept) -> goto begin
#endif
    :: atomic { true -> /* the head can't be read; but the put was not made */
#ifndef DOUBT_IS_NO
        if
        :: (due && due_lock == lock) || kept -> kept = true /* an older lock may stand */
        :: else -> unlock_is_due(old)
        fi;
#endif
        if :: true -> leaves = true :: true fi;
        goto begin }
    :: DIE
    fi;

frames:
    if
    :: atomic { all_answered ->
        unwritten = lost_bits;
        heard;
        if
        :: fenced[me] -> goto gone
        :: !fenced[me] && unwritten -> goto post_frames
        :: !fenced[me] && unwritten -> unlock_is_due(old); goto give_up /* and back, since no backup has changed */
        :: !fenced[me] && !unwritten
        fi;
post_swaps:
        ask(1);
#if COPIES == 3
        ask(2);
#endif
        goto swaps }
    :: DIE
    fi;

swaps:
    if
    :: atomic { all_answered ->
        heard_of(1);
#if COPIES == 3
        heard_of(2);
#endif
        heard;
        if
        :: fenced[me] -> goto gone
        :: !fenced[me] && copied != BACKUPS -> goto post_swaps
#ifdef BACKUP_IS_YES
        :: !fenced[me] && unsure -> copied = BACKUPS
#elif defined(RETRY)
        :: !fenced[me] && unsure -> goto begin
#endif
#ifdef BACKUP_IS_NO
        :: !fenced[me] && unsure -> unlock_is_due(old); goto give_up
#else
        :: !fenced[me] && copied != BACKUPS -> kept = true; leaves = true; goto begin /* unknown */
#endif
        :: !fenced[me] && copied == BACKUPS
        fi;
        visible(version_of(new), value);
        if :: acknowledged < version_of(new) -> acknowledged = version_of(new) :: else fi;
        unlock_is_due(new);
        if :: low_of(old) == 0 -> frees = true :: else fi;
        puts--;
        if :: puts == 0 -> leaves = true :: puts > 0 -> use = SECOND; value = SECOND fi;
        goto begin;
give_up: /* it was certainly not made */
        if :: true -> leaves = true :: true fi;
        goto begin }
    :: DIE
    fi;

gone:
    putting--
}

/* Takes over slot 1, if its client dies. Then all that the dead had under way is decided, and a frame is free if the
 * head does not name it. */
proctype newcomer()
{
    byte lock, one, two, to;
    byte use = 3;
    if
    :: atomic { dead[1] && here[1] == 1 -> fence(1, 0) }
        atomic {
            fence(1, 1);
#if COPIES == 3
            fence(1, 2);
#endif
#ifndef NO_SWEEP
            lock = head[0];
            if
            :: is_of(lock, 1, 1) -> read_backups(lock)
            :: else -> lock = 0
            fi
#endif
        }
        if :: atomic { lock -> change_them(lock); lock = 0 } :: !lock fi;
        atomic {
            here[1] = 3;
            if
            :: true
#ifdef BEHIND_LOCK
            :: low_of(head[0]) != 1 -> use = 1
            :: low_of(head[0]) != 0 -> use = 0
#else
            :: owner_of(head[0]) == 0 && low_of(head[0]) != 1 -> use = 1
#ifndef TWICE
            :: owner_of(head[0]) == 0 && low_of(head[0]) != 0 -> use = 0
#endif
#endif
            fi;
            run client(3, 1, use)
        }
    :: here[1] == 0 || (here[1] == 1 && putting == 1) -> putting--
    fi
}

#ifdef READ_LOCKED
#define shown (owner_of(head[0]) -> last : head[0])
#else
#define shown head[0]
#endif
/* It would learn nothing. */
#define is_known(h) \
    (version_of(h) == acknowledged && frame[low_of(h)] != NOTHING && value_at[version_of(h)] == frame[low_of(h)])

proctype reader()
{
    byte h;
#ifdef READ_LOCKED
    byte last;
#endif
end:
    do
    :: d_step { owner_of(shown) == 0 && !is_known(shown) ->
        h = shown;
#ifdef READ_LOCKED
        last = h;
#endif
        assert(version_of(h) >= acknowledged);
        assert(frame[low_of(h)] != NOTHING);
        visible(version_of(h), frame[low_of(h)]);
        acknowledged = version_of(h);
        h = 0
       }
    od
}

init {
    byte i;
    atomic {
        for (i : 0 .. COPIES * 5 - 1) { frame[i] = (i % 5 -> NOTHING : 0) }
        for (i : 0 .. WIRES - 1) { answer[i] = none }
        here[1] = 1;
        here[2] = 2;
        run nodes();
        run client(1, 1, 1);
        run client(2, 2, 2);
#if CLIENTS == 3
        run newcomer();
#endif
        run reader();
        for (i : 1 .. RECOVERERS) { run recoverer() }
        i = 0
    }
    putting == 0 && resolving == 0;
    assert(owner_of(head[0]) == 0);
    for (i : 1 .. COPIES - 1) {
        assert(head[i] == head[0]);
        assert(frame[i * 5 + low_of(head[0])] == frame[low_of(head[0])])
    }
}
