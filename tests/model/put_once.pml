/*
 * A put with several copies (docs/protocols/pages.md; csrc/store/put.c, resolve.c, recover.c; docs/decisions/0034). A
 * client locks the head at each copy, all in one posting, with the frame and the intent ahead of each lock: which head
 * it was, and which one it is to be. When all copies have said yes the put is acknowledged, and the unlocks are due. A
 * client that does not get the primary takes its locks back at the backups, and tries again. One that has it waits for
 * a backup until the lock of such a loser is gone; a lock of the put before, whose unlock is late, it replaces.
 *
 * A client may be killed before each of its steps; what it has posted may be executed afterwards, until it is fenced.
 * A connection may break: then what was not executed never will be, and the client looks over a new one. Recoverers
 * resolve locks of the dead: forward if all copies have the lock, or one has what it stands for; else back. The
 * primary may die: then an epoch begins with the backups, which are closed first. A copy may have what it has, or what
 * its lock stands for; and what was there before, which the lock, or the intent of the change that was made, says. All
 * get the latest that all may have. With RETURNS a change of epoch was begun before with one copy alone, and has opened
 * none: what that copy has since may have been at no other one. A client whose put was under way asks the page then. A
 * newcomer takes over the frame of client 1 when that is dead.
 *
 * Checked: a version has one value, and the value of a put one version; a reader never goes back, never misses what was
 * acknowledged, and finds the frame at all copies; in the end the page is unlocked at the primary, and each backup has
 * its head, or a lock that was due to become it or to go.
 *
 * With PUTS=2 a client begins its next put while the unlocks of the one before are under way. They go ahead of it, on
 * the same connections: so its next intent is written at a copy when the lock that needs the last one is gone. Then a
 * copy may have the lock of a put whose base another one still has as a lock: that proves that the first put was made.
 *
 * With TX client 2 has a transaction instead, which locks at the primary alone, with the frame and a record at all
 * copies. When all have said yes the record is committed at all, and the transaction acknowledged. It is not undone any
 * more, so no head comes back: it replaces what losers have left at the backups, and unlocks the primary at the end. A
 * recovery goes forward if any record says committed.
 *
 * COPIES is 2 or 3; CLIENTS is 2, or 3 with the newcomer (PUTS=1). DEATHS and EVICTIONS of clients, LOSSES of answers,
 * CHANGES of epoch, RECOVERERS.
 *
 * Mutations, each of which must fail:
 *   HEADS          a backup gets the new head at once, and not a lock; what is there is replaced (COPIES=3)
 *   OVERWRITE      a client that has the primary replaces the locks of losers (COPIES=3)
 *   NO_UNDO        a loser keeps its locks
 *   ACK_EARLY      the lock at the primary is enough
 *   LOST_IS_YES    a lost answer is taken for yes
 *   LOST_IS_NO     it is taken for no
 *   ANY            a recoverer goes forward, whatever the backups have
 *   BACK           it goes back
 *   NO_FENCE       it does not fence the client (EVICTIONS)
 *   HALF_FENCE     it fences it at the primary only (EVICTIONS)
 *   OUT_OF_ORDER   the next intent is written before the unlock (PUTS=2)
 *   EXACT          a recoverer looks for the lock and what it stands for, and not for what followed (PUTS=2)
 *   NOT_AGAIN      an unlock whose connection broke is not sent again (PUTS=2, LOSSES)
 *   LOCKS_STAY     a transaction takes a backup with a lock for done (TX)
 *   HEADS_EARLY    it replaces what is at backups before it is committed (TX)
 *   HEADS_LATE     it unlocks the primary before the backups have the head (TX)
 *   UNRECORDED     an epoch change does not look at the records (TX, CHANGES)
 *   BASES          all get the latest version that is complete at any copy, unless they have one lock (RETURNS)
 *   REUSE          a newcomer takes the frame while a lock of its dead client stands at a backup (COPIES=3, CHANGES=1)
 */
#ifndef COPIES
#define COPIES 2
#endif
#ifndef CLIENTS
#define CLIENTS 2
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef LOSSES
#define LOSSES 0
#endif
#ifndef RECOVERERS
#define RECOVERERS 1
#endif
#ifndef EVICTIONS
#define EVICTIONS 0
#endif
#ifndef CHANGES /* of epoch: the primary dies */
#define CHANGES 0
#endif
#ifndef PUTS
#define PUTS 1
#endif
#define ALL ((1 << COPIES) - 1)
#define FRAMES (1 + CLIENTS * PUTS)

/* A head: owner (client, 0: none) << 6 | version << 3 | frame; of a lock: mark, which is the client's number. */
#define word(owner, version, low) ((owner) << 6 | (version) << 3 | (low))
#define owner_of(h) ((h) >> 6)
#define version_of(h) ((h) >> 3 & 7)
#define low_of(h) ((h) & 7)
#define AT(n) ((n) * CLIENTS + me - 1)
#define OF(n, c) ((n) * CLIENTS + (c) - 1)
#define WIRES (COPIES * CLIENTS)
#define NEVER 255

byte head[COPIES];
byte content[COPIES * FRAMES];     /* of each frame: the value that is there */
#define in_frame(n, f) content[(n) * FRAMES + (f)]
byte from[WIRES], to[WIRES];       /* the intent of each client at each node */
byte old_of[CLIENTS + 1], new_of[CLIENTS + 1]; /* the intent that goes with what is posted */
byte fenced[CLIENTS + 1];          /* nodes, a bit each */
bool dead[CLIENTS + 1];
bool gone, opened, closed[COPIES]; /* the primary is gone; the next epoch is open; nodes are closed for it */
byte evicted;                      /* a client */
byte busy;                         /* recoverers at work */
byte deaths = DEATHS, losses = LOSSES, changes = CHANGES;

#if PUTS > 1
/* Of the put before: what is due at a node, ahead of what is under way to it. */
mtype = { settled, ahead, broken };
mtype unlock_of[WIRES];
byte lock_before[CLIENTS + 1], new_before[CLIENTS + 1];
#define IDLE(w) (!IS_OP(wire[w]) && unlock_of[w] != ahead)
#define VALUE(w) low_of(to[w])
#else
#define IDLE(w) (!IS_OP(wire[w]))
#define VALUE(w) client_of(w)
#endif
#if WIRES == 4
#define QUIET (IDLE(0) && IDLE(1) && IDLE(2) && IDLE(3))
#elif WIRES == 6
#define QUIET (IDLE(0) && IDLE(1) && IDLE(2) && IDLE(3) && IDLE(4) && IDLE(5))
#else
#define QUIET (IDLE(0) && IDLE(1) && IDLE(2) && IDLE(3) && IDLE(4) && IDLE(5) && IDLE(6) && IDLE(7) && IDLE(8))
#endif

/* What is under way from a client to a node: one op, and its answer. */
mtype = { none, locks, swaps, yes, no, lost };
#ifdef TX
mtype = { prepares, commits };
#define IS_OP(x) ((x) == locks || (x) == swaps || (x) == prepares || (x) == commits)
byte record[COPIES]; /* of the transaction: prepared, committed */
#define OF_TX(w) \
    :: d_step { wire[w] == prepares -> \
        if \
        :: is_cut(client_of(w), node_of(w)) -> wire[w] = lost \
        :: else -> \
            from[w] = old_of[client_of(w)]; to[w] = new_of[client_of(w)]; record[node_of(w)] = 1; \
            in_frame(node_of(w), low_of(to[w])) = VALUE(w); \
            if \
            :: node_of(w) != 0 -> wire[w] = yes \
            :: node_of(w) == 0 && head[0] == expects[w] -> head[0] = desires[w]; wire[w] = yes \
            :: else -> wire[w] = no \
            fi \
        fi } \
    :: d_step { wire[w] == commits -> \
        if \
        :: is_cut(client_of(w), node_of(w)) -> wire[w] = lost \
        :: else -> record[node_of(w)] = 2; wire[w] = yes \
        fi }
#else
#define IS_OP(x) ((x) == locks || (x) == swaps)
#define OF_TX(w)
#endif
mtype wire[WIRES];
byte expects[WIRES], desires[WIRES];

/* Not in memory: what has really happened. */
byte value_at[8] = NEVER, version_at[8] = NEVER;
byte acknowledged;
byte putting = CLIENTS;

#define is_cut(c, n) ((fenced[c] >> (n) & 1) || closed[n] || (gone && (n) == 0))
#define client_of(w) ((w) % CLIENTS + 1)
#define node_of(w) ((w) / CLIENTS)

inline visible(version, value)
{
    assert(value_at[version] == NEVER || value_at[version] == value);
    assert(version_at[value] == NEVER || version_at[value] == version);
    value_at[version] = value;
    version_at[value] = version
}

/* ---- nodes ---- */

#if PUTS > 1
#ifdef OUT_OF_ORDER
#define MAY_WRITE(w) true
#else
#define MAY_WRITE(w) (unlock_of[w] != ahead)
#endif
#define EXECUTES(w) \
    :: d_step { unlock_of[w] == ahead -> \
        if \
        :: is_cut(client_of(w), node_of(w)) -> unlock_of[w] = settled \
        :: else -> \
            unlock_of[w] = settled; \
            if \
            :: head[node_of(w)] == lock_before[client_of(w)] -> head[node_of(w)] = new_before[client_of(w)] \
            :: else \
            fi \
        fi } \
    :: d_step { wire[w] == locks && MAY_WRITE(w) -> \
        if \
        :: is_cut(client_of(w), node_of(w)) -> wire[w] = lost \
        :: else -> \
            from[w] = old_of[client_of(w)]; to[w] = new_of[client_of(w)]; \
            in_frame(node_of(w), low_of(to[w])) = VALUE(w); wire[w] = swaps \
        fi } \
    :: d_step { wire[w] == swaps && unlock_of[w] != ahead -> \
        if \
        :: is_cut(client_of(w), node_of(w)) -> wire[w] = lost \
        :: else -> \
            if \
            :: head[node_of(w)] == expects[w] -> head[node_of(w)] = desires[w]; wire[w] = yes \
            :: else -> wire[w] = no \
            fi \
        fi }
#define BREAKS(w) \
    :: d_step { losses > 0 && (wire[w] != none && wire[w] != lost || unlock_of[w] == ahead) -> \
        losses--; \
        if :: wire[w] != none -> wire[w] = lost :: else fi; \
        if :: unlock_of[w] == ahead -> unlock_of[w] = broken :: else fi }
#else
#define EXECUTES(w) \
    :: d_step { (wire[w] == locks || wire[w] == swaps) -> \
        if \
        :: is_cut(client_of(w), node_of(w)) -> wire[w] = lost \
        :: else -> \
            if \
            :: wire[w] == locks -> \
                from[w] = old_of[client_of(w)]; to[w] = new_of[client_of(w)]; \
                in_frame(node_of(w), low_of(to[w])) = client_of(w) \
            :: else \
            fi; \
            if \
            :: head[node_of(w)] == expects[w] -> head[node_of(w)] = desires[w]; wire[w] = yes \
            :: else -> wire[w] = no \
            fi \
        fi }
#define BREAKS(w) \
    :: d_step { losses > 0 && wire[w] != none && wire[w] != lost -> losses--; wire[w] = lost }
#endif

proctype nodes()
{
end:
    do
    OF_TX(1) OF_TX(3)
#if COPIES == 3
    OF_TX(5)
#endif
    EXECUTES(0) EXECUTES(1) EXECUTES(2) EXECUTES(3)
    BREAKS(0) BREAKS(1) BREAKS(2) BREAKS(3)
#if WIRES >= 6
    EXECUTES(4) EXECUTES(5) BREAKS(4) BREAKS(5)
#endif
#if WIRES == 9
    EXECUTES(6) EXECUTES(7) EXECUTES(8) BREAKS(6) BREAKS(7) BREAKS(8)
#endif
    od
}

/* ---- recovery of locks whose clients are dead ---- */

inline compare_swap(node, was, then)
{
    d_step {
        if
        :: !closed[node] && !(gone && node == 0) && head[node] == was -> head[node] = then
        :: else
        fi
    }
}

#ifdef HEADS
#define there new /* what a backup has at once */
#define swap_there(k, n) if :: n == back -> compare_swap(k, next, back) :: else fi
#else
#define there lock
#define swap_there(k, n) compare_swap(k, lock, n)
#endif

/* What the page had, and is to have, as a copy says it. */
#define base(k) (owner_of(head[k]) -> from[OF(k, owner_of(head[k]))] : head[k])
#define goal(k) (owner_of(head[k]) -> to[OF(k, owner_of(head[k]))] : head[k])

/* Whether all backups have the lock of the primary, or any has what it stands for, or a lock of what followed: the put
 * may be acknowledged. */
inline look(k)
{
    d_step {
        if
#ifdef HEADS
        :: head[k] == next
#elif defined(EXACT)
        :: head[k] == lock
        :: head[k] == next -> some = true
#else
        :: head[k] == lock
        :: head[k] != lock && version_of(base(k)) >= version_of(next) -> some = true
#endif
        :: else -> all = false
        fi
    }
}

/* By what the transaction has made of the page: what is there is of the version before, and of no use. */
inline replaced(k)
{
    d_step {
        if
        :: !closed[k] && version_of(head[k]) < version_of(next) -> head[k] = next
        :: else
        fi
    }
}

/* Dead; or evicted, taken for dead and fenced, though it lives. */
#define is_gone(c) (dead[c] || evicted == (c) || (evicted == 0 && EVICTIONS))
#define evicts(c) if :: !dead[c] -> evicted = c :: else fi
#define LEFT(k) \
    (!gone && owner_of(head[k]) != 0 && is_gone(owner_of(head[k])) && owner_of(head[0]) != owner_of(head[k]))

proctype recoverer()
{
    byte lock, back, next, c, n, k;
    bool all, some;
again:
end:
    do
#ifndef HEADS
    /* a lock at a backup whose client is dead: of a put that has lost, or that was made */
    :: atomic { LEFT(1) -> busy++; c = owner_of(head[1]); k = 1; evicts(c) }
        goto sweep
#if COPIES == 3
    :: atomic { LEFT(2) -> busy++; c = owner_of(head[2]); k = 2; evicts(c) }
        goto sweep
#endif
#endif
    :: atomic { !gone && owner_of(head[0]) != 0 && is_gone(owner_of(head[0])) ->
        busy++;
        lock = head[0]; c = owner_of(lock); back = from[OF(0, c)]; next = to[OF(0, c)]; all = true; some = false;
        evicts(c);
#ifdef NO_FENCE
        }
#else
        fenced[c] = fenced[c] | 1 }
#ifndef HALF_FENCE
        fenced[c] = fenced[c] | 2;
#if COPIES == 3
        fenced[c] = fenced[c] | 4;
#endif
#endif
#endif
#ifdef TX
        if
        :: c == 2 ->
            if
            :: record[0] == 2 || record[1] == 2 || record[COPIES - 1] == 2 ->
                replaced(1);
#if COPIES == 3
                replaced(2);
#endif
                compare_swap(0, lock, next)
            :: else -> compare_swap(0, lock, back)
            fi;
            goto over
        :: else
        fi;
#endif
        look(1);
#if COPIES == 3
        look(2);
#endif
        if
#ifdef ANY
        :: true -> n = next
#elif defined(BACK)
        :: true -> n = back
#else
        :: all || some -> n = next
        :: !all && !some -> n = back
#endif
        fi;
#if COPIES == 3
        swap_there(2, n);
#endif
        swap_there(1, n);
        compare_swap(0, lock, n);
        goto over
    od;
sweep:
    fenced[c] = ALL;
    d_step { lock = head[k]; back = from[OF(k, c)]; next = to[OF(k, c)]; all = owner_of(head[0]) != c; n = base(0) };
    if
    :: owner_of(lock) == c && all ->
        if :: n == next -> skip :: else -> n = back fi;
        compare_swap(k, lock, n)
    :: else
    fi;
over:
    atomic { busy--; lock = 0; back = 0; next = 0; c = 0; n = 0; k = 0; all = false; some = false; goto again }
}

/* ---- the primary dies, and an epoch begins with the others ---- */

/* What a copy may have: what it has, or is to have; and what was there before, as it says itself, or an intent. */
inline offers(k, after, before)
{
    after = goal(k); before = base(k);
    if
    :: owner_of(head[k]) == 0 && to[OF(k, 1)] == head[k] -> before = from[OF(k, 1)]
    :: owner_of(head[k]) == 0 && to[OF(k, 1)] != head[k] && to[OF(k, 2)] == head[k] -> before = from[OF(k, 2)]
    :: else
    fi
}

#ifdef TX
/* A transaction is committed, and a copy has what was before. */
#define is_due(k) ((record[1] == 2 || record[COPIES - 1] == 2) && version_of(head[k]) < version_of(new_of[2]))
#define alone(k) (record[k] == 2 && version_of(head[k]) < version_of(new_of[2]) -> new_of[2] : goal(k))
#else
#define alone(k) goal(k)
#endif

proctype change()
{
    byte best, after, before, other, former;
end:
    if
    :: d_step { changes > 0 -> changes--; gone = true }
    fi;
#ifdef RETURNS
    /* one that opened no epoch, with one copy alone */
    if
    :: closed[1] = true; head[1] = alone(1)
    :: closed[2] = true; head[2] = alone(2)
    :: skip
    fi;
#endif
    closed[1] = true;
#if COPIES == 3
    closed[2] = true;
#endif
    d_step {
#ifdef BASES
        best = base(1);
        if :: version_of(base(2)) > version_of(best) -> best = base(2) :: else fi;
        if
        :: owner_of(head[1]) && head[1] == head[2] && base(1) == best -> best = goal(1)
        :: else
        fi;
#else
        offers(1, after, before);
        best = after;
#if COPIES == 3
        offers(2, other, former); /* the latest that both may have */
        if
        :: after == other || after == former -> best = after
        :: after != other && after != former && before == other -> best = before
#if defined(TX) && !defined(UNRECORDED)
        :: else -> assert(before == former || is_due(1) || is_due(2)); best = before
#else
        :: else -> assert(before == former); best = before
#endif
        fi;
#endif
#endif
#if defined(TX) && !defined(UNRECORDED)
        if
        :: is_due(1) || is_due(COPIES - 1) -> best = new_of[2]
        :: else
        fi;
#endif
        head[1] = best;
#if COPIES == 3
        assert(in_frame(1, low_of(best)) == in_frame(2, low_of(best)));
        head[2] = best;
#endif
        opened = true; best = 0; after = 0; before = 0; other = 0; former = 0
    }
}

/* ---- clients ---- */

#define DIE d_step { deaths > 0 -> deaths--; dead[me] = true }; goto left
#define under_way(n) IS_OP(wire[AT(n)])
#if COPIES == 3
#define all_answered (!under_way(0) && !under_way(1) && !under_way(2))
#else
#define all_answered (!under_way(0) && !under_way(1))
#endif

#if PUTS > 1
inline resends(n)
{
#ifndef NOT_AGAIN
    if :: unlock_of[AT(n)] == broken -> unlock_of[AT(n)] = ahead :: else fi
#else
    skip
#endif
}
#define is_own(n) (owner_of(head[n]) == me && head[n] == lock_before[me])
#define found(n) (is_own(n) -> new_before[me] : head[n])
inline posts(n, what, a, b) { resends(n); wire[AT(n)] = what; expects[AT(n)] = a; desires[AT(n)] = b }
#else
#define found(n) head[n]
inline posts(n, what, a, b) { wire[AT(n)] = what; expects[AT(n)] = a; desires[AT(n)] = b }
#endif

/* What is known of a node now: has, a bit each. A lost answer is asked for over a new connection. */
inline heard(n)
{
    if
    :: wire[AT(n)] == yes -> has = has | 1 << n
#ifdef LOST_IS_YES
    :: wire[AT(n)] == lost -> has = has | 1 << n
#elif defined(LOST_IS_NO)
    :: wire[AT(n)] == lost -> has = has & ~(1 << n)
#else
    :: wire[AT(n)] == lost && head[n] == (n -> there : lock) -> has = has | 1 << n
#endif
    :: wire[AT(n)] == lost && head[n] != (n -> there : lock) -> has = has & ~(1 << n)
    :: wire[AT(n)] == no -> has = has & ~(1 << n)
    :: else
    fi;
    wire[AT(n)] = none
}

#define cut(n) is_cut(me, n)
/* What it can't find out. */
#define lost_for_good(n) (wire[AT(n)] == lost && cut(n))
#if COPIES == 3
#define LOST_FOR_GOOD (lost_for_good(0) || lost_for_good(1) || lost_for_good(2))
#define READY ((has & 2 || is_free(1)) && (has & 4 || is_free(2)))
#else
#define LOST_FOR_GOOD (lost_for_good(0) || lost_for_good(1))
#define READY (has & 2 || is_free(1))
#endif
/* A lock at a backup is of the put before, whose unlock is late; or of one that has lost, and must go. */
#if defined(OVERWRITE) || defined(HEADS)
#define is_free(n) true
#else
#define is_free(n) (cut(n) || owner_of(head[n]) == 0 || version_of(head[n]) < version_of(lock))
#endif

#if PUTS > 1
#define HERE low_of(new)
#else
#define HERE me
#endif

proctype client(byte me; byte use)
{
    byte old, new, lock, has, met;
#if PUTS > 1
    byte put;
#endif

begin:
    if
#if PUTS > 1
    :: atomic { !cut(0) && put == 1 && unlock_of[AT(0)] == broken -> resends(0) }
        goto begin
    :: atomic { !cut(0) && (owner_of(head[0]) == 0 || put == 1 && is_own(0)) ->
        old = found(0); new = word(0, version_of(old) + 1, use + put * 2); lock = word(me, version_of(old), me);
#else
    :: atomic { !cut(0) && owner_of(head[0]) == 0 ->
        old = head[0]; new = word(0, version_of(old) + 1, use); lock = word(me, version_of(old), me);
#endif
        old_of[me] = old; new_of[me] = new; has = 0;
        posts(0, locks, old, lock); posts(1, locks, old, there);
#if COPIES == 3
        posts(2, locks, old, there);
#endif
        }
    :: cut(0) -> goto settle
    :: DIE
    fi;

locking:
    if
    :: atomic { all_answered ->
        if
        :: LOST_FOR_GOOD -> goto settle
        :: else
        fi;
        d_step { heard(0); heard(1);
#if COPIES == 3
        heard(2)
#endif
        };
        if
#ifdef ACK_EARLY
        :: has & 1 -> goto made
#endif
        :: has == ALL -> goto made
        :: !(has & 1) -> goto undo
        :: has & 1 && has != ALL
        fi }
    :: DIE
    fi;

waits: /* it has the primary */
    if
    :: atomic { READY ->
        if :: !(has & 2) -> met = found(1); posts(1, locks, met, there) :: else fi;
#if COPIES == 3
        if :: !(has & 4) -> met = found(2); posts(2, locks, met, there) :: else fi;
#endif
        met = 0;
        goto locking }
    :: DIE
    fi;

undo:
    if
    :: atomic { true ->
#ifndef NO_UNDO
        if :: has & 2 -> posts(1, swaps, there, old) :: else fi;
#if COPIES == 3
        if :: has & 4 -> posts(2, swaps, there, old) :: else fi
#endif
#endif
        }
    :: DIE
    fi;
undone:
    if
    :: atomic { all_answered ->
        if
        :: LOST_FOR_GOOD -> goto settle
        :: else
        fi;
        d_step {
            if :: wire[AT(1)] == lost && head[1] == there -> has = has | 2 :: else -> has = has & ~2 fi;
            wire[AT(1)] = none;
#if COPIES == 3
            if :: wire[AT(2)] == lost && head[2] == there -> has = has | 4 :: else -> has = has & ~4 fi;
            wire[AT(2)] = none;
#endif
        };
        if
        :: has & 6 -> goto undo
        :: else -> goto begin
        fi }
    :: DIE
    fi;

made:
    if
    :: atomic { true ->
        visible(version_of(new), HERE);
        if :: acknowledged < version_of(new) -> acknowledged = version_of(new) :: else fi;
#if PUTS > 1
        assert(unlock_of[AT(0)] == settled && unlock_of[AT(1)] == settled && unlock_of[AT(COPIES - 1)] == settled);
        lock_before[me] = lock; new_before[me] = new;
        unlock_of[AT(0)] = ahead; unlock_of[AT(1)] = ahead; unlock_of[AT(COPIES - 1)] = ahead;
        wire[AT(0)] = none; wire[AT(1)] = none; wire[AT(COPIES - 1)] = none;
        put++;
        if :: put < PUTS -> goto begin :: else -> goto unlocking fi }
    :: DIE
    fi;
unlocking:
    if
    :: atomic { unlock_of[AT(0)] != ahead && unlock_of[AT(1)] != ahead && unlock_of[AT(COPIES - 1)] != ahead ->
        if
        :: unlock_of[AT(0)] == broken && !cut(0) -> resends(0); goto unlocking
        :: else -> goto left
        fi }
    :: DIE
    fi;
#else
unlock: posts(0, swaps, lock, new);
#ifndef HEADS
        posts(1, swaps, lock, new);
#if COPIES == 3
        posts(2, swaps, lock, new);
#endif
#endif
        goto unlocking }
    :: DIE
    fi;
unlocking:
    if
    :: atomic { all_answered ->
        if
        :: wire[AT(0)] == lost && !cut(0) && head[0] == lock -> goto unlock
        :: else -> goto left
        fi }
    :: DIE
    fi;
#endif

settle: /* what has become of it is decided when the epoch opens */
    if
    :: d_step { opened ->
        if
        :: in_frame(1, low_of(head[1])) == HERE ->
            visible(version_of(head[1]), HERE);
            if :: acknowledged < version_of(head[1]) -> acknowledged = version_of(head[1]) :: else fi
        :: else -> assert(version_at[HERE] == NEVER || version_of(head[1]) > version_at[HERE])
        fi }
    :: !gone && fenced[me] /* unknown */
    fi;
left:
    putting--
}

#ifdef TX
#include "put_once_tx.inc"
#endif

#ifdef REUSE
#define NOTHING_LEFT true
#else
#define NOTHING_LEFT (owner_of(head[1]) != 1 && owner_of(head[COPIES - 1]) != 1)
#endif

/* Takes over the frame of client 1, when that is dead and none of its locks is left. */
proctype newcomer()
{
    if
    :: atomic { dead[1] && fenced[1] == ALL && !gone && owner_of(head[0]) == 0 && low_of(head[0]) != 1 &&
        NOTHING_LEFT -> run client(3, 1) }
    :: atomic { putting == 1 -> putting-- }
    fi
}

/* It would learn nothing. */
#define is_known(n) \
    (version_of(head[n]) == acknowledged && value_at[version_of(head[n])] == in_frame(n, low_of(head[n])))

inline reads(n)
{
    assert(version_of(h) >= acknowledged);
    visible(version_of(h), in_frame(n, low_of(h)));
    acknowledged = version_of(h);
    h = 0
}

proctype reader()
{
    byte h;
end:
    do
    :: d_step { !gone && owner_of(head[0]) == 0 && version_of(head[0]) != 0 && !is_known(0) ->
        h = head[0];
        assert(in_frame(0, low_of(h)) == in_frame(1, low_of(h)));
        assert(in_frame(0, low_of(h)) == in_frame(COPIES - 1, low_of(h)));
        reads(0) }
    :: d_step { opened && !(version_of(head[1]) == 0 && acknowledged == 0) && !is_known(1) ->
        h = head[1];
        reads(1) }
    od
}

init {
    byte i;
    atomic {
        for (i : 0 .. WIRES - 1) { wire[i] = none }
#if PUTS > 1
        for (i : 0 .. WIRES - 1) { unlock_of[i] = settled }
#endif
        run nodes(); run change(); run reader();
#ifdef TX
        run client(1, 1); run transaction(2);
#else
        run client(1, 1); run client(2, 2);
#endif
#if CLIENTS == 3
        run newcomer();
#endif
        for (i : 1 .. RECOVERERS) { run recoverer() }
        i = 0
    }
    atomic { putting == 0 && busy == 0 && QUIET && (gone && opened || !gone && (owner_of(head[0]) == 0)) ->
        if
        :: gone
        :: else ->
            for (i : 1 .. COPIES - 1) {
                assert(in_frame(i, low_of(head[0])) == in_frame(0, low_of(head[0])));
                if
                :: owner_of(head[i]) == 0 -> assert(head[i] == head[0])
                :: else -> assert(base(i) == head[0] || goal(i) == head[0])
                fi
            }
        fi
    }
}
