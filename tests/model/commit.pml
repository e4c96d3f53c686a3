/*
 * The commit of a transaction: two pages, a primary and a backup, a coordinator in each of two slots. One posting writes
 * the record, sets the transaction word of the slot to PREPARED at both copies, and then locks pages at the primary (C1);
 * heads that were only read are read again (C2); the word becomes COMMITTED at both copies, and that is acknowledged
 * (C3); then the heads at the backup and the primary (C4). A coordinator may be killed before each of its steps; what it
 * has posted may be executed afterwards, until it is fenced. Answers are lost. Recoverers resolve locks of the dead, from
 * the record and the words; a newcomer takes over the slot of a dead coordinator.
 *
 * Checked: a transaction is visible on all pages that it writes or on none; no acknowledged one is lost, and none that
 * was said to have failed is visible; a version has one value, and a value one version; of two transactions each of which
 * has read what the other replaced, one fails; in the end no page is locked, and the copies are equal.
 *
 * Each transaction writes one page and reads the other. BOTH: each writes both. TWICE: the coordinator of slot 2 has a
 * second transaction, with the pages the other way round. CLIENTS=3: with the newcomer.
 *
 * Mutations, each of which must fail:
 *   LOCK_FIRST     locks are posted before record and word
 *   NO_C2          what was read is not read again once the locks are held
 *   NEXT_EARLY     the next C1 is posted before the unlocks are known (TWICE)
 *   UNLOCK_FIRST   unlocks the primary together with the change of the backup
 *   UNKNOWN_IS_NO  takes a lost answer in C3 for 'not committed' (BOTH)
 *   PROOF_LATE     a recoverer reads record and words before it has the proof of death
 *   HALF_FENCE     it fences at the primary only
 *   NO_SWEEP       a slot is taken over before its locks are resolved (CLIENTS=3)
 *   SEQ_AGAIN      a newcomer begins with the number of the transaction before (CLIENTS=3)
 */
#ifndef LOSSES
#define LOSSES 0
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef EVICTIONS
#define EVICTIONS 0
#endif
#ifndef RECOVERERS
#define RECOVERERS 2
#endif
#ifndef CLIENTS
#define CLIENTS 2
#endif
#ifndef TRIES
#define TRIES 1 /* after the first */
#endif
#ifdef TWICE
#define TRANSACTIONS 2
#else
#define TRANSACTIONS 1
#endif

/* A head: owner (slot, 0: none) << 6 | version << 3 | value, which stands for the frame; of a lock: mark. */
#define head_of(owner, version, low) ((owner) << 6 | (version) << 3 | (low))
#define owner_of(h) ((h) >> 6)
#define version_of(h) ((h) >> 3 & 7)
#define low_of(h) ((h) & 7)
#define is_of(h, slot, mark) (owner_of(h) == (slot) && low_of(h) == (mark))
#define lock_of(h, slot, mark) head_of(slot, version_of(h), mark)

/* The word of a slot: number of the transaction << 2 | state, at first 0. */
#define PREPARED 1
#define COMMITTED 2
#define ABORTED 3
#define word_of(seq, state) ((seq) << 2 | (state))
#define seq_of(w) ((w) >> 2)
#define state_of(w) ((w) & 3)

byte at[8];    /* at [node * 4 + a]: heads of the two pages, then the words of the slots 1 and 2 */
#define head(p) at[p]
#define copy(p) at[4 + (p)]
#define word(n, slot) at[(n) * 4 + 1 + (slot)]

/* Records, at [slot] at the primary, and as a client has them: of each page old and new head; the same: not written. */
typedef record { byte seq, mark, old[2], new[2] };
record records[3], drafts[CLIENTS + 1];

byte fenced[CLIENTS + 1]; /* nodes, a bit each */
bool dead[CLIENTS + 1];   /* or evicted */
byte here[3];             /* at [slot]: the client */
byte deaths = DEATHS, losses = LOSSES, evictions = EVICTIONS;

/* The connection of a client to a node: what is under way, in order. A posting is answered as a whole. */
#define WIRES (2 * CLIENTS)
#define RECORD 4
mtype = { none, under_way, refusing, done, refused, lost };
chan wire[WIRES] = [4] of { byte, byte, byte }; /* place, expected, desired; RECORD */
mtype answer[WIRES];                            /* refused: one of them was */
byte held[CLIENTS + 1];                         /* locks that were taken, as answered: pages, a bit each */

/* Not in memory: what has really happened. Transactions have numbers, which are the values that they write. */
#define SECOND 4
byte value_at[16] = 255;   /* at [page * 8 + version] */
byte acknowledged[2];      /* highest versions */
bool failed[5], committed[5];
byte read_of[5], wrote_on[5]; /* of a transaction that reads one page and writes the other: versions; 255: none */
byte working = CLIENTS, resolving = RECOVERERS;

inline visible(p, h)
{
    assert(value_at[p * 8 + version_of(h)] == 255 || value_at[p * 8 + version_of(h)] == low_of(h));
    assert(!failed[low_of(h)]);
    value_at[p * 8 + version_of(h)] = low_of(h)
}

/* ---- nodes ---- */

#define client_of(c) ((c) % CLIENTS + 1)
#define node_of(c) ((c) / CLIENTS)
#define is_cut(c) (fenced[client_of(c)] >> node_of(c) & 1)

inline take_over_draft(slot, client)
{
    records[slot].seq = drafts[client].seq;
    records[slot].mark = client;
    records[slot].old[0] = drafts[client].old[0];
    records[slot].old[1] = drafts[client].old[1];
    records[slot].new[0] = drafts[client].new[0];
    records[slot].new[1] = drafts[client].new[1]
}

#define slot_of(client) ((client) == 2 -> 2 : 1)
/* A node executes what comes through a connection, in order. The connection may break whenever something is under way;
 * what has not been executed then never will be, and all answers are lost. Record and word are one step. */
#define EXECUTES(c) \
    atomic { nempty(wire[c]) -> \
        wire[c] ? a, from, to; \
        if \
        :: a == RECORD && !is_cut(c) -> \
            take_over_draft(slot_of(client_of(c)), client_of(c)); \
            wire[c] ? a, from, to \
        :: a != RECORD || is_cut(c) \
        fi; \
        if \
        :: is_cut(c) -> answer[c] = lost \
        :: !is_cut(c) && at[node_of(c) * 4 + a] == from -> \
            at[node_of(c) * 4 + a] = to; \
            if :: a < 2 && owner_of(to) && node_of(c) == 0 -> held[client_of(c)] = held[client_of(c)] | 1 << a :: else fi \
        :: !is_cut(c) && at[node_of(c) * 4 + a] != from -> \
            if :: answer[c] == under_way -> answer[c] = refusing :: answer[c] != under_way fi \
        fi; \
        if \
        :: empty(wire[c]) && answer[c] == under_way -> answer[c] = done \
        :: empty(wire[c]) && answer[c] == refusing -> answer[c] = refused \
        :: nempty(wire[c]) || (answer[c] != under_way && answer[c] != refusing) \
        fi; \
        a = 0; from = 0; to = 0 \
       }
#define BREAKS(c) \
    atomic { losses > 0 && answer[c] != none && answer[c] != lost -> \
        losses--; \
        answer[c] = lost; \
        do :: nempty(wire[c]) -> wire[c] ? _, _, _ :: empty(wire[c]) -> break od \
       }

proctype nodes()
{
    byte a, from, to;
end:
    do
    :: EXECUTES(0) :: EXECUTES(1) :: EXECUTES(2) :: EXECUTES(3) :: BREAKS(0) :: BREAKS(1) :: BREAKS(2) :: BREAKS(3)
#if CLIENTS == 3
    :: EXECUTES(4) :: EXECUTES(5) :: BREAKS(4) :: BREAKS(5)
#endif
    od
}

/* ---- resolving ---- */

#define compare_swap(place, from, to) if :: place == from -> place = to :: else fi

inline fence(client, node)
{
#ifdef HALF_FENCE
    if :: node == 0 -> fenced[client] = 1 :: else fi
#else
    fenced[client] = fenced[client] | 1 << (node)
#endif
}

#define says(w, state) ((w) == word_of(r.seq, state))
#define is_entry(q) (r.old[q] != r.new[q])

/* Of the lock's slot, at the primary. mark: whether it is this lock's. */
inline read_record(p, lock)
{
    r.seq = records[owner_of(lock)].seq;
    r.old[0] = records[owner_of(lock)].old[0]; r.new[0] = records[owner_of(lock)].new[0];
    r.old[1] = records[owner_of(lock)].old[1]; r.new[1] = records[owner_of(lock)].new[1];
    r.mark = (records[owner_of(lock)].mark == low_of(lock) && r.old[p] != r.new[p] &&
              version_of(r.old[p]) == version_of(lock))
}
inline read_words(lock)
{
    w0 = word(0, owner_of(lock));
    w1 = word(1, owner_of(lock))
}

/* The lock was read before its holder was proven dead; or it is the client's own, and nothing of it is under way. What
 * is atomic here is one posting, or of one place. */
inline resolve(p, lock)
{
    atomic {
        if
        :: r.mark && seq_of(w0) == r.seq
        :: !(r.mark && seq_of(w0) == r.seq) -> assert(head(p) != lock); goto gone_lock
        fi;
        forward = says(w0, COMMITTED) || says(w1, COMMITTED)
    }
    atomic {
        compare_swap(word(0, owner_of(lock)), word_of(r.seq, PREPARED), word_of(r.seq, (forward -> COMMITTED : ABORTED)));
        compare_swap(word(1, owner_of(lock)), word_of(r.seq, PREPARED), word_of(r.seq, (forward -> COMMITTED : ABORTED)))
    }
    if
    :: atomic { forward ->
        compare_swap(copy(0), r.old[0], r.new[0]);
        compare_swap(copy(1), r.old[1], r.new[1]) }
    :: !forward
    fi;
    q = 0;
    do
    :: atomic { q < 2 && is_entry(q) ->
        compare_swap(head(q), lock_of(r.old[q], owner_of(lock), low_of(lock)), (forward -> r.new[q] : r.old[q]));
        q++ }
    :: q < 2 && !is_entry(q) -> q++
    :: q == 2 -> break
    od
}

inline forget_it()
{
    atomic {
        r.seq = 0; r.mark = 0; r.old[0] = 0; r.old[1] = 0; r.new[0] = 0; r.new[1] = 0;
        w0 = 0; w1 = 0; q = 0; forward = false; lock = 0; p = 0
    }
}

#define may_be_fenced(client) (client != 0 && (dead[client] || evictions > 0))
#define left_behind(p) \
    (owner_of(head(p)) && low_of(head(p)) == here[owner_of(head(p))] && may_be_fenced(here[owner_of(head(p))]))

inline prove()
{
    atomic {
        if :: !dead[low_of(lock)] -> evictions--; dead[low_of(lock)] = true :: else fi;
        fence(low_of(lock), 0)
    }
    fence(low_of(lock), 1)
}

#if CLIENTS == 3
#define nothing_under_way (empty(wire[0]) && empty(wire[1]) && empty(wire[2]))
#else
#define nothing_under_way (empty(wire[0]) && empty(wire[1]))
#endif

proctype recoverer()
{
    byte lock, p, q, w0, w1;
    bool forward;
    record r;
    do
    :: atomic {
        if
        :: left_behind(0) -> lock = head(0)
        :: left_behind(1) -> p = 1; lock = head(1)
        fi }
#ifdef PROOF_LATE
        atomic { read_record(p, lock); read_words(lock) }
        prove();
#else
        prove();
        atomic { read_record(p, lock) }
        atomic { read_words(lock) }
#endif
        resolve(p, lock);
gone_lock:
        forget_it()
    :: working == 0 && owner_of(head(0)) == 0 && owner_of(head(1)) == 0 && nothing_under_way -> break
    od;
    resolving--
}

/* ---- coordinators ---- */

#define DIE d_step { deaths > 0 -> deaths--; dead[me] = true }; goto gone
#define AT(n) ((n) * CLIENTS + me - 1)
#define posts(n, a, from, to) wire[AT(n)] ! a, from, to; answer[AT(n)] = under_way
#define answered(n) (answer[AT(n)] != under_way && answer[AT(n)] != refusing)
#define all_answered (answered(0) && answered(1))
#define heard answer[AT(0)] = none; answer[AT(1)] = none
#define mine drafts[me]
#define writes(p) (mine.old[p] != mine.new[p])
#define locked(p) lock_of(mine.old[p], slot, me)

/* Of each page that it writes. */
inline post_heads(n, p, from, to)
{
    if :: writes(p) -> posts(n, p, from, to) :: !writes(p) fi
}

proctype coordinator(byte me; byte slot; byte txn)
{
    byte known[2], seq, lock, p, q, w0, w1;
    byte left = (me == 2 -> TRANSACTIONS : 1), tries = TRIES, writing = (txn == 2); /* a page */
    byte maybe, prepared; /* bits: locks that it may have; copies that are not COMMITTED yet */
    bool forward;
    record r;

    atomic { known[0] = word(0, slot); known[1] = word(1, slot) }
    seq = (seq_of(known[0]) > seq_of(known[1]) -> seq_of(known[0]) : seq_of(known[1]));
#ifdef SEQ_AGAIN
    if :: me == 3 && seq -> seq-- :: else fi;
#endif
begin: /* reads both pages. A lock is waited for */
    if
    :: atomic { owner_of(head(0)) == 0 && !fenced[me] -> mine.old[0] = head(0) }
    :: fenced[me] -> goto gone
    :: DIE
    fi;
    if
    :: atomic { owner_of(head(1)) == 0 && !fenced[me] ->
        mine.old[1] = head(1);
        seq++;
        mine.seq = seq;
        mine.new[0] = mine.old[0];
        mine.new[1] = mine.old[1];
#ifndef BOTH
        if
        :: writing == 0 -> mine.new[0] = head_of(0, version_of(mine.old[0]) + 1, txn)
        :: writing == 1 -> mine.new[1] = head_of(0, version_of(mine.old[1]) + 1, txn)
        fi;
#else
        mine.new[0] = head_of(0, version_of(mine.old[0]) + 1, txn);
        mine.new[1] = head_of(0, version_of(mine.old[1]) + 1, txn);
#endif
        held[me] = 0;
#ifdef LOCK_FIRST
        post_heads(0, 0, mine.old[0], locked(0));
        post_heads(0, 1, mine.old[1], locked(1));
#endif
        posts(0, RECORD, 0, 0);
        posts(0, slot + 1, known[0], word_of(seq, PREPARED));
#ifndef LOCK_FIRST
        post_heads(0, 0, mine.old[0], locked(0));
        post_heads(0, 1, mine.old[1], locked(1));
#endif
        posts(1, slot + 1, known[1], word_of(seq, PREPARED)) }
    :: fenced[me] -> goto gone
    :: DIE
    fi;

    /* C1 is answered. What was lost is read. */
    if
    :: atomic { all_answered ->
        if
        :: fenced[me] -> goto gone
        :: !fenced[me]
        fi;
        maybe = held[me];
        known[0] = word(0, slot);
        known[1] = word(1, slot);
        if
        :: answer[AT(0)] == lost -> maybe = (head(0) == locked(0) && writes(0)) | (head(1) == locked(1) && writes(1)) << 1
        :: answer[AT(0)] != lost
        fi;
        held[me] = 0;
        if
        :: answer[AT(0)] != done || answer[AT(1)] != done -> heard; goto abort
        :: answer[AT(0)] == done && answer[AT(1)] == done -> heard
        fi }
    :: DIE
    fi;

    /* C2 */
    if
    :: atomic { true ->
        if
        :: fenced[me] -> goto gone
#if !defined(NO_C2)
        :: !fenced[me] && ((!writes(0) && head(0) != mine.old[0]) || (!writes(1) && head(1) != mine.old[1])) -> goto abort
        :: !fenced[me] && (writes(0) || head(0) == mine.old[0]) && (writes(1) || head(1) == mine.old[1])
#else
        :: !fenced[me]
#endif
        fi;
        prepared = 3;

post_decision:
        if :: prepared & 1 -> posts(0, slot + 1, word_of(seq, PREPARED), word_of(seq, COMMITTED)) :: !(prepared & 1) fi;
        if :: prepared & 2 -> posts(1, slot + 1, word_of(seq, PREPARED), word_of(seq, COMMITTED)) :: !(prepared & 2) fi;
        goto c3 }
    :: DIE
    fi;

c3: if
    :: atomic { all_answered ->
        if
        :: fenced[me] -> goto gone
        :: !fenced[me]
        fi;
        assert(answer[AT(0)] != refused && answer[AT(1)] != refused);
#ifdef UNKNOWN_IS_NO
        if
        :: answer[AT(0)] == lost || answer[AT(1)] == lost -> heard; goto abort
        :: answer[AT(0)] != lost && answer[AT(1)] != lost
        fi;
#endif
        if
        :: (answer[AT(0)] == lost || answer[AT(1)] == lost) -> heard; goto doubts
        :: answer[AT(0)] != lost && answer[AT(1)] != lost -> heard; prepared = 0; goto decided
        fi }
    :: DIE
    fi;

doubts:
    if
    :: atomic { !fenced[me] ->
        prepared = (word(0, slot) != word_of(seq, COMMITTED)) | (word(1, slot) != word_of(seq, COMMITTED)) << 1;
        if
        :: prepared -> goto post_decision
        :: !prepared
        fi;

decided: /* acknowledged */
        committed[txn] = true;
#ifndef BOTH
        read_of[txn] = version_of(mine.old[1 - writing]);
        wrote_on[txn] = version_of(mine.old[writing]);
        assert(!(committed[1] && committed[2] && read_of[1] == wrote_on[2] && read_of[2] == wrote_on[1]));
#endif
        if
        :: writes(0) && acknowledged[0] < version_of(mine.new[0]) -> acknowledged[0] = version_of(mine.new[0])
        :: else
        fi;
        if
        :: writes(1) && acknowledged[1] < version_of(mine.new[1]) -> acknowledged[1] = version_of(mine.new[1])
        :: else
        fi;
        known[0] = word_of(seq, COMMITTED);
        known[1] = word_of(seq, COMMITTED);
        goto post_copies }
    :: !fenced[me] -> goto unknown
    :: fenced[me] -> goto gone
    :: DIE
    fi;

    /* C4 */
post_copies:
    atomic {
        post_heads(1, 0, mine.old[0], mine.new[0]);
        post_heads(1, 1, mine.old[1], mine.new[1]);
#ifdef UNLOCK_FIRST
        post_heads(0, 0, locked(0), mine.new[0]);
        post_heads(0, 1, locked(1), mine.new[1]);
#endif
        goto c4
    }
c4: if
    :: atomic { all_answered ->
        if
        :: fenced[me] -> goto gone
        :: !fenced[me] && answer[AT(1)] == lost -> heard; goto post_copies
        :: !fenced[me] && answer[AT(1)] != lost -> heard
        fi;
post_unlocks:
        post_heads(0, 0, locked(0), mine.new[0]);
        post_heads(0, 1, locked(1), mine.new[1]);
#ifdef NEXT_EARLY
        goto next;
#endif
        goto unlocks }
    :: DIE
    fi;
unlocks:
    if
    :: atomic { all_answered ->
        if
        :: fenced[me] -> goto gone
        :: !fenced[me] && answer[AT(0)] == lost -> heard; goto post_unlocks
        :: !fenced[me] && answer[AT(0)] != lost -> heard
        fi;
next:   left--;
        tries = TRIES;
        txn = SECOND;
        writing = 1 - writing;
        prepared = 0;
        maybe = 0;
        if
        :: left == 0 -> goto gone
        :: left != 0 -> goto begin
        fi }
    :: DIE
    fi;

abort: /* it was certainly not decided, and no other client decides it while this one lives */
    if
    :: atomic { fenced[me] -> goto gone }
    :: atomic { !fenced[me] ->
        if :: maybe & 1 -> posts(0, 0, locked(0), mine.old[0]) :: !(maybe & 1) fi;
        if :: maybe & 2 -> posts(0, 1, locked(1), mine.old[1]) :: !(maybe & 2) fi }
    :: DIE
    fi;
    if
    :: atomic { all_answered ->
        if
        :: fenced[me] -> goto gone
        :: !fenced[me] && answer[AT(0)] == lost -> heard; goto abort
        :: !fenced[me] && answer[AT(0)] != lost -> heard; maybe = 0
        fi;
        if
        :: tries == 0 -> failed[txn] = true; left--; goto gone
        :: tries > 0 -> tries--; goto begin
        fi }
    :: DIE
    fi;

unknown: /* the copies answer again, after a while. Its own record and words say what happened */
    do
    :: p < 2 && writes(p) ->
        atomic { lock = head(p) }
        if
        :: is_of(lock, slot, me) -> atomic { read_record(p, lock); read_words(lock) } resolve(p, lock)
        :: else
        fi;
gone_lock:
        atomic { w0 = 0; w1 = 0; lock = 0; p++ }
    :: p < 2 && !writes(p) -> p++
    :: p >= 2 || fenced[me] -> break
    :: DIE
    od;
gone:
    atomic {
        if
        :: !dead[me] -> here[slot] = 0
        :: dead[me]
        fi;
        d_step { maybe = 0; prepared = 0; known[0] = 0; known[1] = 0; seq = 0; tries = 0; left = 0 }
        forget_it();
        working--
    }
}

/* Takes over slot 1, if its coordinator dies. */
proctype newcomer()
{
    byte lock, p, q, w0, w1;
    bool forward;
    record r;
    if
    :: atomic { dead[1] && here[1] == 1 -> fence(1, 0) }
        fence(1, 1);
#ifndef NO_SWEEP
        do
        :: p < 2 ->
            lock = head(p);
            if
            :: is_of(lock, 1, 1) -> atomic { read_record(p, lock) } atomic { read_words(lock) } resolve(p, lock)
            :: else
            fi;
gone_lock:
            p++
        :: p == 2 -> break
        od;
#endif
        forget_it();
        atomic { here[1] = 3; run coordinator(3, 1, 3) }
    :: here[1] == 0 || working == 1 -> working--
    fi
}

/* Readers of one page, and of both as they were at one instant. */
#define is_known(p) (version_of(head(p)) == acknowledged[p] && value_at[(p) * 8 + version_of(head(p))] == low_of(head(p)))
#ifdef BOTH
#define is_pair (head(0) == head(1))
#else
#define is_pair true
#endif

proctype reader()
{
end:
    do
    :: d_step { owner_of(head(0)) == 0 && !is_known(0) ->
        assert(version_of(head(0)) >= acknowledged[0]);
        visible(0, head(0));
        acknowledged[0] = version_of(head(0)) }
    :: d_step { owner_of(head(1)) == 0 && !is_known(1) ->
        assert(version_of(head(1)) >= acknowledged[1]);
        visible(1, head(1));
        acknowledged[1] = version_of(head(1)) }
    :: d_step { owner_of(head(0)) == 0 && owner_of(head(1)) == 0 && !is_pair -> assert(false) }
    od
}

init {
    byte i;
    atomic {
        for (i : 0 .. WIRES - 1) { answer[i] = none }
        for (i : 0 .. 4) { read_of[i] = 255; wrote_on[i] = 255 }
        here[1] = 1;
        here[2] = 2;
        run nodes();
        run coordinator(1, 1, 1);
        run coordinator(2, 2, 2);
#if CLIENTS == 3
        run newcomer();
#endif
        run reader();
        for (i : 1 .. RECOVERERS) { run recoverer() }
        i = 0
    }
    working == 0 && resolving == 0;
    for (i : 0 .. 1) {
        assert(owner_of(head(i)) == 0 && copy(i) == head(i));
        assert(version_of(head(i)) >= acknowledged[i] && !failed[low_of(head(i))])
    }
}
