/*
 * A change of epoch of a store with several copies (docs/protocols/pages.md): one page, 2 or 3 copies. A memory node
 * dies, with its memory, or it is evicted though it lives, and goes on to serve clients of the old epoch. A coordinator
 * decides on the next epoch, fences the nodes that stay, waits for the leases of readers, makes their copies equal, and
 * opens the epoch. It may crash at each step and begin again; a node may die at each step of it.
 *
 * Client 1 lives: when an epoch has ended it goes on in the next one, and settles what is in doubt by a look at the
 * page there. Client 2 may die at each step. An op may be executed late, after its client has given it up. Within an
 * epoch no client resolves the lock of another: that is put.pml. A value is a frame, or a page that is free: value 2,
 * with FREE. The reader sleeps wherever it likes.
 *
 * Checked: what was acknowledged or read is never lost; a value appears once, and never if its writer was told that it
 * failed; a reader returns nothing older than what was acknowledged before its call; when an epoch opens all its copies
 * are equal, unlocked, and have the frame.
 *
 * COPIES is 2 or 3. DEATHS of nodes, EVICTIONS of nodes that may live, CHANGES of epoch that evict no node, CRASHES of
 * the coordinator, LOSSES of answers; RETURNS: copies that were left out count again, since no epoch was opened without
 * them. TWICE: client 1 puts twice. REUSE: in a later epoch client 2, which puts twice, has the frame that client 1
 * has used, if no head names it, so that it may make the same head; a frame says who wrote it, and which head it was to
 * replace.
 *
 * MOVE: a copy that was fenced and recovered with the others belongs to the epoch no more when that opens, as if one
 * that is equal had come for it.
 *
 * Where backups differ the change was not acknowledged, so either version may win as long as no copy returns: LATER
 * takes the later one, and must hold, too. So must UNLOCK_FIRST: recovery changes the primary before the backups.
 *
 * Mutations, each of which must fail:
 *   NO_LEASE      the coordinator does not wait for leases
 *   LEASE_FIRST   a reader looks at its lease before it reads
 *   NO_FENCE      nodes that stay are not fenced
 *   FENCE_LATE    they are fenced after recovery has read their heads
 *   HALF_FENCE    one of them is not (COPIES=3)
 *   STALE         a node takes a fence of an epoch before the one that it knows
 *   BACK          without a backup recovery goes back, whatever the intent says
 *   FAIL_EARLY    a client is told 'failed' while its lock stands
 *   INTENT_FIRST  an unlock that is due does not go ahead of the next intent (TWICE)
 *   NO_INTENT     the intent is written with the first change only (TWICE)
 *   FORGET        recovery changes the new primary only (COPIES=3)
 *   AT_PRIMARY    a lock goes back, whatever a backup says (COPIES=3)
 *   OPEN_EARLY    the epoch opens when recovery has read, not when it has written
 *   RETRY         a client in doubt writes again, and does not look
 *   FRAME_LATE    a backup's head changes before the frame is at all copies (COPIES=3)
 *   RETURN        an evicted node is taken back as it is (CHANGES=1)
 *   MISSED        a copy counts again that has missed an epoch which was opened (RETURNS=1, CHANGES=1)
 *   LATER         of heads that differ the later one wins, though a copy returns (RETURNS=1)
 *   HEAD_TELLS    a client takes its head for its own change, also if another one has written the frame (REUSE)
 *   ONE_LOOK      of a frame that is another one's, without another look at the head (REUSE)
 *   BEFORE_TELLS  and so the head before the present one (REUSE)
 *   SERVES_ON     the copy that moves is not fenced (MOVE)
 */
#ifndef COPIES
#define COPIES 2
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef EVICTIONS
#define EVICTIONS 1
#endif
#ifndef CHANGES
#define CHANGES 0
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef LOSSES
#define LOSSES 1
#endif
#ifndef CLIENTS
#define CLIENTS 2
#endif
#ifndef RETURNS
#define RETURNS 0
#endif
#ifdef TWICE
#define PUTS 2
#else
#define PUTS 1
#endif
#ifndef EPOCHS /* the last one */
#define EPOCHS 4
#endif
#define ALL ((1 << COPIES) - 1)

/* A head: owner (client, 0: none) << 6 | version << 3 | value; of a lock: mark, which is the client's number. */
#define word(owner, version, low) ((owner) << 6 | (version) << 3 | (low))
#define owner_of(h) ((h) >> 6)
#define version_of(h) ((h) >> 3 & 7)
#define low_of(h) ((h) & 7)
#define SECOND 3 /* the value of a second put */
#define NEVER 255

/* ---- nodes ---- */

byte head[COPIES];
byte frames[COPIES]; /* the values that are in frames there, a bit each */
byte fence[COPIES];  /* the epoch that it knows: clients of earlier ones are cut off */
bool gone[COPIES];
#define AT(n, c) ((n) * CLIENTS + (c) - 1)
byte intent_from[COPIES * CLIENTS], intent_to[COPIES * CLIENTS];
/* What a client has sent to a node and given up: it is executed late, or never. From, to, and the head that the change
 * will make if 'to' is its lock; and the unlock that goes ahead. */
byte late_from[COPIES * CLIENTS], late_to[COPIES * CLIENTS] = NEVER, late_epoch[COPIES * CLIENTS];
byte late_next[CLIENTS], late_due[CLIENTS], late_due_to[CLIENTS];

/* ---- the coordinator's disk, and its clock ---- */

byte decided = 1, opened = 1;
byte members[EPOCHS + 1]; /* of each epoch, a bit each */
bool expired[EPOCHS + 1]; /* all leases of the epoch have run out */
byte stale;               /* a fence that is under way, of a coordinator that has crashed */
byte deaths = DEATHS, evictions = EVICTIONS, changes = CHANGES, crashes = CRASHES, losses = LOSSES, returns = RETURNS;

#define has(set, n) ((set) >> (n) & 1)
#define first_of(set) (has(set, 0) -> 0 : (has(set, 1) -> 1 : 2))
#define lease_of(e) (!expired[e]) /* or it is renewed, before there is a later epoch */

/* Not in memory: what has really happened. */
byte value_at[6] = NEVER, version_at[4] = NEVER; /* of each version its value, of each put its version */
bool failed[4];                                  /* the writer of the value was told so */
byte acknowledged;                               /* highest version, that of a reader included */

inline visible(version, value)
{
    assert(value_at[version] == NEVER || value_at[version] == value);
    assert(version_at[value] == NEVER || version_at[value] == version);
    assert(!failed[value]);
    value_at[version] = value;
    version_at[value] = version
}
inline acknowledge(version, value)
{
    visible(version, value);
    if :: acknowledged < version -> acknowledged = version :: else fi
}

/* ---- what is in frames ---- */

#ifdef REUSE
byte content[COPIES * 4], before[COPIES * 4]; /* of each frame at each node */
#define OF(n, h) ((n) * 4 + low_of(h))
#define value_at_node(n, h) content[OF(n, h)]
#define write_header(n, next, from, by) content[OF(n, next)] = by; before[OF(n, next)] = from
#define A_FRAME \
    (view == 1 -> (low_of(seen) == me -> 3 : me) : \
     (me == 1 -> (low_of(seen) == 3 -> 1 : 3) : (low_of(seen) == 1 -> 2 : 1)))
byte late_values[CLIENTS];
#define late_value(c) late_values[c]
#define set_late_value(c, v) late_values[c] = v
#define is_own content[OF(lead, new)] == value
#define keep_value value = content[OF(lead, h)]
#define forget_value value = 0
#define FIRST_PUTS 1
#define OTHER_PUTS 2
#else
#define value_at_node(n, h) low_of(h)
#define write_header(n, next, from, by) skip
#define A_FRAME value
#define late_value(c) 0
#define set_late_value(c, v) skip
#define is_own true
#define keep_value skip
#define forget_value skip
#define FIRST_PUTS PUTS
#define OTHER_PUTS 1
#endif

/* ---- ops ---- */

#define is_lock(to) (owner_of(to) != 0)
#if defined(NO_FENCE) || defined(HALF_FENCE)
#define is_cut(n, epoch) (fence[n] > (epoch))
#else
#define is_cut(n, epoch) (fence[n] != (epoch))
#endif

inline write_frame(n, value)
{
#ifdef FREE
    if :: (value) != 2 -> frames[n] = frames[n] | 1 << (value) :: else fi
#else
    frames[n] = frames[n] | 1 << (value)
#endif
}

/* The first posting at the primary: an unlock that is due, frame, intent; all but the compare-swap. */
inline prepare(n, c, from, next, due_lock, due_to, by)
{
#ifndef INTENT_FIRST
    if :: due_lock != 0 && head[n] == due_lock -> head[n] = due_to :: else fi;
#endif
    write_frame(n, low_of(next));
    write_header(n, next, from, by);
#ifdef NO_INTENT
    if :: intent_to[AT(n, c)] == 0 -> intent_from[AT(n, c)] = from; intent_to[AT(n, c)] = next :: else fi
#else
    intent_from[AT(n, c)] = from;
    intent_to[AT(n, c)] = next
#endif
}

inline swap(n, from, to)
{
    if :: head[n] == from -> head[n] = to :: else fi
}

inline forget_late(n, c)
{
    late_to[AT(n, c)] = NEVER; late_from[AT(n, c)] = 0; late_epoch[AT(n, c)] = 0
}

/* One that its client has given up. */
#define EXECUTES(n, c) \
    atomic { late_to[AT(n, c)] != NEVER && !gone[n] && !is_cut(n, late_epoch[AT(n, c)]) -> \
        if \
        :: is_lock(late_to[AT(n, c)]) -> \
            prepare(n, c, late_from[AT(n, c)], late_next[(c) - 1], late_due[(c) - 1], late_due_to[(c) - 1], \
                late_value((c) - 1)); \
            if :: swap(n, late_from[AT(n, c)], late_to[AT(n, c)]) :: skip fi \
        :: else -> swap(n, late_from[AT(n, c)], late_to[AT(n, c)]) \
        fi; \
        forget_late(n, c) }

/* Nothing can come of it any more. */
#define FORGETS(n, c) \
    d_step { late_to[AT(n, c)] != NEVER && (gone[n] || is_cut(n, late_epoch[AT(n, c)])) -> forget_late(n, c) }

/* A copy is left: one of the last epoch that was open, since others don't count. */
#if RETURNS
#define left_over members[opened]
#else
#define left_over members[decided]
#endif
#define DIES(n) d_step { deaths > 0 && !gone[n] && others(n) -> deaths--; gone[n] = true; head[n] = 0; frames[n] = 0 }
#if COPIES == 3
#define others(n) ((left_over & ~(1 << n) & ~(gone[0] | gone[1] << 1 | gone[2] << 2)) != 0)
#else
#define others(n) ((left_over & ~(1 << n) & ~(gone[0] | gone[1] << 1)) != 0)
#endif

#ifdef STALE
#define takes_stale(n) (fence[n] != stale)
#else
#define takes_stale(n) (fence[n] < stale)
#endif
#define FENCES(n) d_step { stale != 0 && !gone[n] && has(members[stale], n) && takes_stale(n) -> fence[n] = stale; stale = 0 }

proctype nodes()
{
end:
    do
    :: EXECUTES(0, 1) :: EXECUTES(1, 1) :: FORGETS(0, 1) :: FORGETS(1, 1) :: DIES(0) :: DIES(1) :: FENCES(0) :: FENCES(1)
#if CLIENTS == 2
    :: EXECUTES(0, 2) :: EXECUTES(1, 2) :: FORGETS(0, 2) :: FORGETS(1, 2)
#endif
#if COPIES == 3
    :: EXECUTES(2, 1) :: FORGETS(2, 1) :: DIES(2) :: FENCES(2)
#if CLIENTS == 2
    :: EXECUTES(2, 2) :: FORGETS(2, 2)
#endif
#endif
    :: d_step { opened < decided && !expired[opened] -> expired[opened] = true }
    od
}

/* ---- the coordinator ---- */

#define CRASH d_step { crashes > 0 && decided < EPOCHS -> crashes--; stale = decided }; goto again
#define lost_one (gone[0] && has(in, 0) || gone[1] && has(in, 1) || THIRD_GONE)
#if COPIES == 3
#define THIRD_GONE (gone[2] && has(in, 2))
#else
#define THIRD_GONE false
#endif

inline evict(n)
{
    decided++;
    members[decided] = members[decided - 1] & ~(1 << (n));
    in = members[decided]
}

#ifdef MISSED
#define may_count ALL
#else
#define may_count members[opened]
#endif
#define RETURNS_AS(n) \
    :: atomic { returns > 0 && decided < EPOCHS && decided > opened && has(may_count, n) && !gone[n] && !has(in, n) -> \
        returns--; \
        decided++; \
        members[decided] = (in | 1 << (n)) & ~(gone[0] | gone[1] << 1 | THIRD_GONE_BIT); \
        in = members[decided] }
#if COPIES == 3
#define THIRD_GONE_BIT (gone[2] << 2)
#else
#define THIRD_GONE_BIT 0
#endif

#ifdef SERVES_ON
#define is_spared(n) has(away, n)
#else
#define is_spared(n) false
#endif
inline fence_off(n)
{
#ifndef NO_FENCE
    if :: has(in, n) && !is_spared(n) && fence[n] < decided -> fence[n] = decided :: else fi
#else
    skip
#endif
}

/* It has been read; a lock is at the primary of the last epoch only, which then is the first. */
inline take_later(n)
{
    if
    :: has(in, n) && n != lead && !is_lock(head[n]) ->
        if
        :: best == NEVER -> best = head[n]
#ifdef LATER
        :: best != NEVER && version_of(head[n]) > version_of(best) -> best = head[n]
#else
        :: best != NEVER && version_of(head[n]) < version_of(best) -> best = head[n]
#endif
        :: else
        fi
    :: else
    fi
}

inline decide_head()
{
    lead = first_of(in);
    if :: !is_lock(head[lead]) -> best = head[lead] :: else fi;
    take_later(0);
    take_later(1);
#if COPIES == 3
    take_later(2);
#endif
    if
    :: is_lock(head[lead]) && best == NEVER -> /* no backup is left */
        owner = owner_of(head[lead]);
#ifndef BACK
        if
        :: version_of(intent_from[AT(lead, owner)]) == version_of(head[lead]) -> best = intent_to[AT(lead, owner)]
        :: else -> assert(false) /* nothing says what the page was */
        fi
#else
        best = intent_from[AT(lead, owner)]
#endif
#ifdef AT_PRIMARY
    :: is_lock(head[lead]) && best != NEVER ->
        best = intent_from[AT(lead, owner_of(head[lead]))]
#endif
    :: else
    fi;
    owner = 0; lead = 0
}

inline make_equal(n)
{
#ifdef FORGET
    if :: n == first_of(in) && !gone[n] -> head[n] = best :: else fi
#else
    if :: has(in, n) && !gone[n] -> head[n] = best :: else fi
#endif
}

inline check_open()
{
    lead = first_of(in);
    for (n : 0 .. COPIES - 1) {
        if
        :: has(in, n) && !gone[n] ->
            assert(gone[lead] || head[n] == head[lead]);
            assert(!is_lock(head[n]));
#ifdef FREE
            assert(low_of(head[n]) == 2 || has(frames[n], low_of(head[n])));
#else
            assert(has(frames[n], low_of(head[n])));
#endif
            assert(version_of(head[n]) >= acknowledged);
            assert(gone[lead] || value_at_node(n, head[n]) == value_at_node(lead, head[n]))
        :: else
        fi
    }
    n = 0; lead = 0
}

proctype coordinator()
{
    byte in, best = NEVER, lead, owner, n;
#ifdef MOVE
    byte away; /* the copy that moves, as a set */
#else
#define away 0
#endif
again:
    atomic { in = members[decided]; best = NEVER }
end:
    if
    :: atomic { decided < EPOCHS && has(in, 0) && in != 1 && gone[0] -> evict(0) }
    :: atomic { decided < EPOCHS && has(in, 1) && in != 2 && gone[1] -> evict(1) }
    :: atomic { decided < EPOCHS && has(in, 0) && in != 1 && !lost_one && evictions > 0 -> evictions--; evict(0) }
    :: atomic { decided < EPOCHS && has(in, 1) && in != 2 && !lost_one && evictions > 0 -> evictions--; evict(1) }
#if COPIES == 3
    :: atomic { decided < EPOCHS && has(in, 2) && in != 4 && gone[2] -> evict(2) }
    :: atomic { decided < EPOCHS && has(in, 2) && in != 4 && !lost_one && evictions > 0 -> evictions--; evict(2) }
#endif
    :: atomic { decided < EPOCHS && !lost_one && (decided > opened || changes > 0) ->
        if :: decided == opened -> changes-- :: else fi;
        evict(7)
#ifdef RETURN
        ; members[decided] = ALL; in = ALL
#endif
        }
#if RETURNS
    RETURNS_AS(0) RETURNS_AS(1)
#if COPIES == 3
    RETURNS_AS(2)
#endif
#endif
    fi;
#ifdef MOVE
    if
    :: true -> away = 0
    :: has(in, 0) && in != 1 -> away = 1
    :: has(in, 1) && in != 2 -> away = 2
#if COPIES == 3
    :: has(in, 2) && in != 4 -> away = 4
#endif
    fi;
#endif
#ifndef FENCE_LATE
    if
    :: d_step { !lost_one -> fence_off(0) }
    :: lost_one -> goto again
    :: CRASH
    fi;
    if
    :: d_step { !lost_one -> fence_off(1) }
    :: lost_one -> goto again
    :: CRASH
    fi;
#if COPIES == 3 && !defined(HALF_FENCE)
    if
    :: d_step { !lost_one -> fence_off(2) }
    :: lost_one -> goto again
    :: CRASH
    fi;
#endif
#endif
    if
#ifndef NO_LEASE
    :: expired[opened] || gone[first_of(members[opened])] || has(in, first_of(members[opened]))
#else
    :: true
#endif
    :: CRASH
    fi;
    if
    :: d_step { !lost_one -> decide_head() }
    :: lost_one -> goto again
    :: CRASH
    fi;
#ifdef FENCE_LATE
    d_step { fence_off(0); fence_off(1);
#if COPIES == 3
    fence_off(2)
#endif
    };
#endif
#ifdef OPEN_EARLY
    opened = decided;
#endif
#ifdef UNLOCK_FIRST
    make_equal(first_of(in));
    if
    :: true
    :: CRASH
    fi;
#endif
#if COPIES == 3
    if
    :: make_equal(2)
    :: CRASH
    fi;
#endif
    if
    :: make_equal(1)
    :: CRASH
    fi;
    if
    :: make_equal(0)
    :: CRASH
    fi;
    if
    :: d_step { !lost_one -> check_open(); members[decided] = in & ~away; opened = decided }
    :: lost_one -> goto again
    :: CRASH
    fi;
    goto again
}

/* ---- clients ---- */

#ifdef ONE_LOOK
#define still_seen true
#else
#define still_seen (head[lead] == seen)
#endif
#define DIE me == 2 -> goto left
#define serves(n) (!gone[n] && !is_cut(n, view))

/* The op is given up before its answer: it is executed late or never. */
inline loses(n, from, to)
{
    losses--;
    late_from[AT(n, me)] = from; late_to[AT(n, me)] = to; late_epoch[AT(n, me)] = view
}

/* The next epoch, in which nothing of this one is executed any more. */
inline next_epoch()
{
    due = 0; due_to = 0; done = 0; lock = 0
}

#define backups (in & ~(1 << lead))
#define a_backup_is_out ((has(backups, 1) && !serves(1)) || THIRD_IS_OUT)
#if COPIES == 3
#define THIRD_IS_OUT (has(backups, 2) && !serves(2))
#else
#define THIRD_IS_OUT false
#endif
#define FRAME_AT(k) \
    d_step { has(backups & ~done, k) && serves(k) -> \
        write_frame(k, low_of(new)); write_header(k, new, old, value); done = done | 1 << k }

/* One change of a backup: it is executed and answered; or its answer is lost. A new connection has ended the old one. */
#define CHANGES_AT(k) \
    :: d_step { has(backups & ~done, k) && serves(k) -> \
        forget_late(k, me); \
        if :: head[k] == old -> head[k] = new :: else -> assert(head[k] == new) fi; \
        done = done | 1 << k } \
    :: d_step { has(backups & ~done, k) && serves(k) && losses > 0 && late_to[AT(k, me)] == NEVER -> \
        loses(k, old, new) }

proctype client(byte me)
{
    byte view, in, lead, old, new, lock, due, due_to, done, seen;
    byte value = me, puts = (me == 1 -> FIRST_PUTS : OTHER_PUTS);
    bool doubt; /* of the last change */

begin:
end_begin:
    atomic { opened > view -> view = opened; in = members[view]; lead = first_of(in); next_epoch() }
look:
end_look: /* another one's lock may stay */
    if
    :: atomic { serves(lead) && !is_lock(head[lead]) && (!due || head[lead] != due) -> seen = head[lead] }
    :: atomic { serves(lead) && due && head[lead] == due -> seen = due_to }
    :: atomic { !serves(lead) -> assert(gone[lead] || fence[lead] >= view); goto begin }
    :: DIE
    fi;
#ifdef RETRY
    doubt = false;
#endif
    if
    :: !doubt
    :: atomic { doubt -> /* no lease is wanted: it was decided when the epoch opened, and this is not earlier */
        if
#ifdef HEAD_TELLS
        :: seen == new -> goto succeeded
#else
        :: seen == new && is_own -> goto succeeded
        :: seen == new && !(is_own) && still_seen -> doubt = false /* another one has made the same head */
        :: seen == new && !(is_own) && !(still_seen) -> goto left /* or its frame was used again meanwhile */
#endif
        :: seen != new && version_of(seen) <= version_of(old) + 1 -> doubt = false /* it was not made */
#ifdef REUSE
        :: version_of(seen) == version_of(old) + 2 ->
            if
            :: before[OF(lead, seen)] != new -> doubt = false
#ifdef BEFORE_TELLS
            :: before[OF(lead, seen)] == new -> goto succeeded
#else
            :: before[OF(lead, seen)] == new && is_own -> goto succeeded
            :: before[OF(lead, seen)] == new && !(is_own) -> goto left /* it will not be known */
#endif
            fi
        :: version_of(seen) > version_of(old) + 2 -> goto left
#else
        :: seen != new && version_of(seen) > version_of(old) + 1 -> goto left /* it will not be known */
#endif
        fi }
    :: DIE
    fi;

    /* Frame, intent and lock. */
    atomic { old = seen; new = word(0, version_of(old) + 1, A_FRAME); seen = 0; lock = word(me, version_of(old), me);
        done = 0 }
try:
    if
    :: atomic { serves(lead) ->
        forget_late(lead, me);
        prepare(lead, me, old, new, due, due_to, value);
        if
        :: head[lead] == old -> head[lead] = lock; due = 0; due_to = 0
        :: head[lead] != old -> due = 0; due_to = 0; goto look
        fi }
    :: atomic { serves(lead) && losses > 0 && late_to[AT(lead, me)] == NEVER ->
        loses(lead, old, lock);
        late_next[me - 1] = new; late_due[me - 1] = due; late_due_to[me - 1] = due_to;
        set_late_value(me - 1, value);
        goto unsure }
    :: atomic { gone[lead] -> doubt = true; goto begin }
    :: is_cut(lead, view) -> goto begin
    :: DIE
    fi;
locked:
#ifndef FRAME_LATE
    do
    :: FRAME_AT(1)
#if COPIES == 3
    :: FRAME_AT(2)
#endif
    :: done == backups -> done = 0; break
    :: a_backup_is_out -> goto back
    :: DIE
    od;
#endif
    do
    CHANGES_AT(1)
#if COPIES == 3
    CHANGES_AT(2)
#endif
    :: done == backups -> break
    :: atomic { a_backup_is_out -> doubt = true; goto begin }
    :: DIE
    od;
succeeded:
    atomic {
        doubt = false;
        acknowledge(version_of(new), value);
        if :: lock != 0 -> due = lock; due_to = new :: else fi;
        done = 0
    }
    if
    :: atomic { due && serves(lead) -> swap(lead, due, due_to); due = 0; due_to = 0 }
    :: atomic { due && serves(lead) && losses > 0 && late_to[AT(lead, me)] == NEVER -> loses(lead, due, due_to) }
    :: due && !serves(lead)
    :: !due
    :: DIE
    fi;
    puts--;
    if
    :: puts > 0 -> value = SECOND; old = 0; new = 0; lock = 0; goto look
    :: puts == 0 -> goto left
    fi;

unsure: /* over a new connection */
    if
    :: atomic { serves(lead) ->
        forget_late(lead, me);
        if
        :: head[lead] == lock && due != lock -> due = 0; due_to = 0; goto locked
        :: else -> goto look
        fi }
    :: atomic { doubt = true; goto begin }
    :: DIE
    fi;

back: /* no backup was changed */
#ifdef FAIL_EARLY
    failed[value] = true;
#endif
    if
    :: atomic { serves(lead) -> swap(lead, lock, old); forget_late(lead, me) }
    :: atomic { serves(lead) && losses > 0 && late_to[AT(lead, me)] == NEVER -> loses(lead, lock, old);
        doubt = true; goto begin }
    :: atomic { !serves(lead) -> doubt = true; goto begin }
    :: DIE
    fi;
    if
    :: goto begin
    :: atomic { true -> assert(version_at[value] == NEVER); failed[value] = true }
    fi;
left:
    atomic { view = 0; in = 0; lead = 0; old = 0; new = 0; lock = 0; due = 0; due_to = 0; done = 0; seen = 0; value = 0;
        puts = 0; doubt = false }
}

proctype reader()
{
    byte view = 1, at_begin, h = NEVER, lead;
#ifdef REUSE
    byte value; /* the frame may be used again before the lease is looked at */
#else
#define value low_of(h)
#endif
    bool leased;
end:
    do
#ifdef LEASE_FIRST
    :: atomic { !leased && lease_of(view) -> leased = true }
    :: d_step { leased && serves(lead) && !is_lock(head[lead]) ->
        at_begin = acknowledged; h = head[lead]; keep_value; leased = false;
#else
    :: d_step { h == NEVER && serves(lead) && !is_lock(head[lead]) -> at_begin = acknowledged; h = head[lead]; keep_value }
    :: d_step { h != NEVER && lease_of(view) ->
#endif
        assert(version_of(h) >= at_begin);
        acknowledge(version_of(h), value); forget_value;
        h = NEVER; at_begin = 0 }
    :: d_step { opened > view -> view = opened; h = NEVER; at_begin = 0; forget_value; lead = first_of(members[view]);
        leased = false }
    od
}

init {
    byte i;
    atomic {
        members[1] = ALL;
        for (i : 0 .. COPIES - 1) { fence[i] = 1; frames[i] = 1 }
        value_at[0] = 0; version_at[0] = 0;
        i = 0;
        run nodes();
        run coordinator();
        run client(1);
#if CLIENTS == 2
        run client(2);
#endif
        run reader()
    }
}
