/*
 * The commit of a transaction that changes pages of two extents: a page and a node for each, and a coordinator in each of
 * two slots. Record, word and lock of a page are at its own node, and nothing orders what is executed at the two nodes. So
 * a lock may stand in one extent whose sibling was never prepared, and a transaction in one extent leaves the word of its
 * slot in the other one behind. commit.pml has the copies of one extent; the steps are the same.
 *
 * C1: record, word -> PREPARED and lock at each node that takes part. C2: heads that were only read are read again.
 * C3: the words -> COMMITTED; acknowledged when all are. C4: the new heads. A coordinator may be killed before each of its
 * steps; what it has posted may be executed afterwards, until it is fenced. Answers are lost. Recoverers resolve locks
 * of the dead; a newcomer takes over the slot of a dead coordinator.
 *
 * Checked: what a transaction writes is visible on all its pages or on none; no acknowledged one is lost, and none that was
 * said to have failed is visible; of two transactions each of which has read what the other replaced, one fails; two that
 * write both pages have one order on both; in the end no page is locked.
 *
 * Each transaction writes one page and reads the other, or writes both: any of these. BOTH: it writes both. TWICE: the
 * coordinator of slot 2 has a second transaction. CLIENTS=3: with the newcomer.
 *
 * Mutations, each of which must fail:
 *   LOCK_FIRST     locks are posted before record and word
 *   RECORD_ONCE    the record is written at the first node that takes part only
 *   WORD_ONCE      so is the word, as PREPARED
 *   NO_C2          what was read is not read again once the locks are held
 *   OWN_WORD       a recoverer reads the word at the node of the lock only
 *   HALF_FENCE     it fences there only
 *   PROOF_LATE     it reads record and words before it has the proof of death
 *   UNKNOWN_IS_NO  takes a lost answer in C3 for 'not committed'
 *   NEXT_EARLY     the next C1 is posted before the unlocks are known (TWICE)
 *   KEEP_LAST      after a lost answer only the last page is looked at, and the next C1 begins (TWICE)
 *   HALF_SWEEP     a slot is taken over when the locks at the first node are resolved (CLIENTS=3)
 *   SEQ_FIRST      a newcomer goes on from the number at the first node (CLIENTS=3)
 */
#ifndef LOSSES
#define LOSSES 0
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef RECOVERERS
#define RECOVERERS 1
#endif
#ifndef CLIENTS
#define CLIENTS 2
#endif
#ifndef TRIES
#define TRIES 0 /* after the first */
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

byte at[6]; /* at [node * 3 + a]: the head of its page, then the words of the slots 1 and 2 */
#define head(p) at[(p) * 3]
#define word(n, slot) at[(n) * 3 + (slot)]

/* Records, at [node * 3 + slot], and as a client has them: of each page old and new head; the same: not written. */
typedef record { byte seq, mark, old[2], new[2] };
record records[6], drafts[CLIENTS + 1];

byte fenced[CLIENTS + 1]; /* nodes, a bit each */
bool dead[CLIENTS + 1];
byte here[3]; /* at [slot]: the client */
byte deaths = DEATHS, losses = LOSSES;

/* The connection of a client to a node: what is under way, in order. A posting is answered as a whole. */
#define WIRES (2 * CLIENTS)
#define RECORD 3
mtype = { none, under_way, refusing, done, refused, lost };
chan wire[WIRES] = [3] of { byte, byte, byte }; /* place, expected, desired; RECORD */
mtype answer[WIRES];                            /* refused: one of them was */
byte held[CLIENTS + 1];                         /* locks that were taken, as answered: pages, a bit each */

/* Not in memory: what has really happened. Transactions have numbers, which are the values that they write. */
#define SECOND 4
byte version_on[10];       /* at [page * 5 + transaction]: which it has made, 0: none */
byte acknowledged[2];      /* highest versions */
byte writes_of[5];         /* pages, a bit each */
bool failed[5], committed[5];
byte read_of[5], wrote_on[5]; /* of a transaction that reads one page and writes the other: versions; 255: none */
byte working = CLIENTS, resolving = RECOVERERS;

/* A head is written that is not locked. */
inline visible(p, h)
{
    if
    :: low_of(h) ->
        assert(!failed[low_of(h)]);
        assert(version_on[(p) * 5 + low_of(h)] == 0 || version_on[(p) * 5 + low_of(h)] == version_of(h));
        version_on[(p) * 5 + low_of(h)] = version_of(h)
    :: !low_of(h)
    fi
}

/* ---- nodes ---- */

#define client_of(c) ((c) % CLIENTS + 1)
#define node_of(c) ((c) / CLIENTS)
#define is_cut(c) (fenced[client_of(c)] >> node_of(c) & 1)
#define slot_of(client) ((client) == 2 -> 2 : 1)

inline take_over_draft(i, client)
{
    records[i].seq = drafts[client].seq;
    records[i].mark = client;
    records[i].old[0] = drafts[client].old[0];
    records[i].old[1] = drafts[client].old[1];
    records[i].new[0] = drafts[client].new[0];
    records[i].new[1] = drafts[client].new[1]
}

/* A node executes what comes through a connection, in order. The connection may break whenever something is under way;
 * what has not been executed then never will be, and all answers are lost. */
#define EXECUTES(c) \
    atomic { nempty(wire[c]) -> \
        wire[c] ? a, from, to; \
        if \
        :: is_cut(c) -> answer[c] = lost \
        :: !is_cut(c) && a == RECORD -> take_over_draft(node_of(c) * 3 + slot_of(client_of(c)), client_of(c)) \
        :: !is_cut(c) && a != RECORD && at[node_of(c) * 3 + a] == from -> \
            at[node_of(c) * 3 + a] = to; \
            if \
            :: a == 0 && owner_of(to) -> held[client_of(c)] = held[client_of(c)] | 1 << node_of(c) \
            :: a == 0 && !owner_of(to) -> visible(node_of(c), to) \
            :: a != 0 \
            fi \
        :: !is_cut(c) && a != RECORD && at[node_of(c) * 3 + a] != from -> \
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

inline compare_swap(place, from, to) { if :: at[place] == from -> at[place] = to :: else fi }

inline fence(client, node) { fenced[client] = fenced[client] | 1 << (node) }

#define says(w, state) ((w) == word_of(r.seq, state))
#define is_entry(q) (r.old[q] != r.new[q])

/* The word at the node of the lock, and then the record there. mark: whether it is this lock's. */
inline read_record(p, lock)
{
    atomic { w[p] = word(p, owner_of(lock)) }
    atomic {
        r.seq = records[(p) * 3 + owner_of(lock)].seq;
        r.old[0] = records[(p) * 3 + owner_of(lock)].old[0]; r.new[0] = records[(p) * 3 + owner_of(lock)].new[0];
        r.old[1] = records[(p) * 3 + owner_of(lock)].old[1]; r.new[1] = records[(p) * 3 + owner_of(lock)].new[1];
        r.mark = (records[(p) * 3 + owner_of(lock)].mark == low_of(lock) && r.old[p] != r.new[p] &&
                  version_of(r.old[p]) == version_of(lock))
    }
}
/* The one at the other node, if it takes part. */
inline read_words(p, lock)
{
#ifndef OWN_WORD
    if :: is_entry(1 - p) -> w[1 - p] = word(1 - p, owner_of(lock)) :: else fi
#else
    skip
#endif
}

/* The lock was read before its holder was proven dead; or it is the client's own, and nothing of it is under way. */
inline resolve(p, lock)
{
    atomic {
        if
        :: r.mark && seq_of(w[p]) == r.seq && !(is_entry(1 - p) && seq_of(w[1 - p]) > r.seq)
        :: else -> assert(head(p) != lock); goto gone_lock
        fi;
        forward = says(w[p], COMMITTED) || (is_entry(1 - p) && says(w[1 - p], COMMITTED))
    }
    q = 0;
    do
    :: atomic { q < 2 && is_entry(q) ->
        compare_swap(q * 3 + owner_of(lock), word_of(r.seq, PREPARED), word_of(r.seq, (forward -> COMMITTED : ABORTED)));
        q++ }
    :: q < 2 && !is_entry(q) -> q++
    :: q == 2 -> break
    od;
    q = 0;
    do
    :: atomic { q < 2 && is_entry(q) ->
        if
        :: head(q) == lock_of(r.old[q], owner_of(lock), low_of(lock)) ->
            head(q) = (forward -> r.new[q] : r.old[q]);
            visible(q, head(q))
        :: else
        fi;
        q++ }
    :: q < 2 && !is_entry(q) -> q++
    :: q == 2 -> break
    od
}

inline forget_it()
{
    atomic {
        r.seq = 0; r.mark = 0; r.old[0] = 0; r.old[1] = 0; r.new[0] = 0; r.new[1] = 0;
        w[0] = 0; w[1] = 0; q = 0; forward = false; lock = 0; p = 0
    }
}

#define left_behind(p) \
    (owner_of(head(p)) && low_of(head(p)) == here[owner_of(head(p))] && dead[here[owner_of(head(p))]])

inline prove(p)
{
    fence(low_of(lock), p);
#ifndef HALF_FENCE
    fence(low_of(lock), 1 - p)
#endif
}

#if CLIENTS == 3
#define nothing_under_way (empty(wire[0]) && empty(wire[1]) && empty(wire[2]) && empty(wire[3]) && empty(wire[4]) && empty(wire[5]))
#else
#define nothing_under_way (empty(wire[0]) && empty(wire[1]) && empty(wire[2]) && empty(wire[3]))
#endif

proctype recoverer()
{
    byte lock, p, q, w[2];
    bool forward;
    record r;
    do
    :: atomic {
        if
        :: left_behind(0) -> lock = head(0)
        :: left_behind(1) -> p = 1; lock = head(1)
        fi }
#ifdef PROOF_LATE
        read_record(p, lock);
        atomic { read_words(p, lock) }
        prove(p);
#else
        prove(p);
        read_record(p, lock);
        atomic { read_words(p, lock) }
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
#define any_is(x) (answer[AT(0)] == x || answer[AT(1)] == x)
#define heard answer[AT(0)] = none; answer[AT(1)] = none
#define mine drafts[me]
#define writes(p) (mine.old[p] != mine.new[p])
#define locked(p) lock_of(mine.old[p], slot, me)
#ifdef RECORD_ONCE
#define has_record(p) ((p) == 0 || !writes(0))
#else
#define has_record(p) true
#endif
#ifdef WORD_ONCE
#define has_word(p) ((p) == 0 || !writes(0))
#else
#define has_word(p) true
#endif

inline post_first(p)
{
    if
    :: writes(p) ->
#ifdef LOCK_FIRST
        posts(p, 0, mine.old[p], locked(p));
#endif
        if :: has_record(p) -> posts(p, RECORD, 0, 0) :: !has_record(p) fi;
        if :: has_word(p) -> posts(p, slot, known[p], word_of(seq, PREPARED)) :: !has_word(p) fi;
#ifndef LOCK_FIRST
        posts(p, 0, mine.old[p], locked(p))
#else
        skip
#endif
    :: !writes(p)
    fi
}

proctype coordinator(byte me; byte slot; byte txn)
{
    byte known[2], seq, lock, p, q, w[2];
    byte left = (me == 2 -> TRANSACTIONS : 1), tries = TRIES;
    byte maybe, prepared; /* bits: locks that it may have; nodes that are not COMMITTED yet */
    bool forward;
    record r;

    atomic { known[0] = word(0, slot); known[1] = word(1, slot) }
#ifdef SEQ_FIRST
    seq = seq_of(known[0]);
#else
    seq = (seq_of(known[0]) > seq_of(known[1]) -> seq_of(known[0]) : seq_of(known[1]));
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
        if
        :: writes_of[txn] == 0 ->
            if
            :: writes_of[txn] = 3
#ifndef BOTH
            :: writes_of[txn] = 1
            :: writes_of[txn] = 2
#endif
            fi
        :: writes_of[txn] != 0
        fi;
        if :: writes_of[txn] & 1 -> mine.new[0] = head_of(0, version_of(mine.old[0]) + 1, txn) :: else fi;
        if :: writes_of[txn] & 2 -> mine.new[1] = head_of(0, version_of(mine.old[1]) + 1, txn) :: else fi;
        post_first(0);
        post_first(1) }
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
        held[me] = 0;
        known[0] = word(0, slot);
        known[1] = word(1, slot);
        if :: answer[AT(0)] == lost -> maybe = (maybe & 2) | (head(0) == locked(0)) :: else fi;
        if :: answer[AT(1)] == lost -> maybe = (maybe & 1) | (head(1) == locked(1)) << 1 :: else fi;
        if
        :: any_is(lost) || any_is(refused) -> heard; goto abort
        :: else -> heard
        fi }
    :: DIE
    fi;

    /* C2 */
    if
    :: atomic { true ->
        if
        :: fenced[me] -> goto gone
#ifndef NO_C2
        :: !fenced[me] && ((!writes(0) && head(0) != mine.old[0]) || (!writes(1) && head(1) != mine.old[1])) -> goto abort
        :: !fenced[me] && (writes(0) || head(0) == mine.old[0]) && (writes(1) || head(1) == mine.old[1])
#else
        :: !fenced[me]
#endif
        fi;
        prepared = writes_of[txn];
#ifdef WORD_ONCE
        if :: prepared == 3 -> prepared = 1 :: else fi;
#endif

post_decision:
        if :: prepared & 1 -> posts(0, slot, word_of(seq, PREPARED), word_of(seq, COMMITTED)) :: !(prepared & 1) fi;
        if :: prepared & 2 -> posts(1, slot, word_of(seq, PREPARED), word_of(seq, COMMITTED)) :: !(prepared & 2) fi;
        goto c3 }
    :: DIE
    fi;

c3: if
    :: atomic { all_answered ->
        if
        :: fenced[me] -> goto gone
        :: !fenced[me]
        fi;
        assert(!any_is(refused));
#ifdef UNKNOWN_IS_NO
        if :: any_is(lost) -> heard; goto abort :: else fi;
#endif
        if
        :: any_is(lost) -> heard; goto doubts
        :: else -> heard; goto decided
        fi }
    :: DIE
    fi;

doubts:
    if
    :: atomic { !fenced[me] ->
        prepared = prepared & ((word(0, slot) != word_of(seq, COMMITTED)) | (word(1, slot) != word_of(seq, COMMITTED)) << 1);
        if
        :: prepared -> goto post_decision
        :: !prepared
        fi;

decided: /* acknowledged */
        prepared = 0;
        committed[txn] = true;
        if
        :: writes_of[txn] != 3 ->
            read_of[txn] = version_of((writes(0) -> mine.old[1] : mine.old[0]));
            wrote_on[txn] = version_of((writes(0) -> mine.old[0] : mine.old[1]))
        :: writes_of[txn] == 3
        fi;
        assert(!(committed[1] && committed[2] && (writes_of[1] ^ writes_of[2]) == 3 && writes_of[1] != 3 &&
                 writes_of[2] != 3 && read_of[1] == wrote_on[2] && read_of[2] == wrote_on[1]));
        if
        :: writes(0) && acknowledged[0] < version_of(mine.new[0]) -> acknowledged[0] = version_of(mine.new[0])
        :: else
        fi;
        if
        :: writes(1) && acknowledged[1] < version_of(mine.new[1]) -> acknowledged[1] = version_of(mine.new[1])
        :: else
        fi;
        known[0] = word(0, slot);
        known[1] = word(1, slot);
        goto post_unlocks }
    :: !fenced[me] -> goto unknown
    :: fenced[me] -> goto gone
    :: DIE
    fi;

    /* C4 */
post_unlocks:
    atomic {
        if :: writes(0) -> posts(0, 0, locked(0), mine.new[0]) :: !writes(0) fi;
        if :: writes(1) -> posts(1, 0, locked(1), mine.new[1]) :: !writes(1) fi;
#ifdef NEXT_EARLY
        goto next;
#endif
        goto unlocks
    }
unlocks:
    if
    :: atomic { all_answered ->
        if
        :: fenced[me] -> goto gone
#ifdef KEEP_LAST
        :: !fenced[me] && answer[AT(1)] == lost -> heard; goto post_unlocks
        :: !fenced[me] && answer[AT(1)] != lost -> heard
#else
        :: !fenced[me] && any_is(lost) -> heard; goto post_unlocks
        :: !fenced[me] && !any_is(lost) -> heard
#endif
        fi;
next:   left--;
        tries = TRIES;
        txn = SECOND;
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
        if :: maybe & 2 -> posts(1, 0, locked(1), mine.old[1]) :: !(maybe & 2) fi }
    :: DIE
    fi;
    if
    :: atomic { all_answered ->
        if
        :: fenced[me] -> goto gone
        :: !fenced[me] && any_is(lost) -> heard; goto abort
        :: !fenced[me] && !any_is(lost) -> heard; maybe = 0
        fi;
        if
        :: tries == 0 -> failed[txn] = true; goto next
        :: tries > 0 -> tries--; goto begin
        fi }
    :: DIE
    fi;

unknown: /* the nodes answer again, after a while. Its own records and words say what happened */
    do
    :: p < 2 && writes(p) ->
        atomic { lock = head(p) }
        if
        :: is_of(lock, slot, me) -> read_record(p, lock); atomic { read_words(p, lock) } resolve(p, lock)
        :: else
        fi;
gone_lock:
        atomic { w[0] = 0; w[1] = 0; lock = 0; p++ }
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
    byte lock, p, q, w[2];
    bool forward;
    record r;
    if
    :: atomic { dead[1] && here[1] == 1 -> fence(1, 0) }
        fence(1, 1);
        do
#ifdef HALF_SWEEP
        :: p < 1 ->
#else
        :: p < 2 ->
#endif
            lock = head(p);
            if
            :: is_of(lock, 1, 1) -> read_record(p, lock); atomic { read_words(p, lock) } resolve(p, lock)
            :: else
            fi;
gone_lock:
            p++
        :: else -> break
        od;
        forget_it();
        atomic { here[1] = 3; run coordinator(3, 1, 3) }
    :: here[1] == 0 || working == 1 -> working--
    fi
}

/* A reader of both pages as they are at one instant. */
#define is_old(p) (owner_of(head(p)) == 0 && version_of(head(p)) < acknowledged[p])
proctype reader()
{
end:
    do
    :: d_step { is_old(0) || is_old(1) -> assert(false) }
#ifdef BOTH
    :: d_step { owner_of(head(0)) == 0 && owner_of(head(1)) == 0 && head(0) != head(1) -> assert(false) }
#endif
    od
}

init {
    byte i, k;
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
        assert(owner_of(head(i)) == 0 && version_of(head(i)) >= acknowledged[i])
    }
    for (i : 1 .. 4) { /* all of it is visible, or nothing; all of it if it was acknowledged */
        assert((version_on[i] == 0) == !(writes_of[i] & 1) || version_on[i] + version_on[5 + i] == 0);
        assert((version_on[5 + i] == 0) == !(writes_of[i] & 2) || version_on[i] + version_on[5 + i] == 0);
        assert(!committed[i] || version_on[i] + version_on[5 + i]);
        for (k : 1 .. i) {
            assert(!version_on[i] || !version_on[5 + i] || !version_on[k] || !version_on[5 + k] || i == k ||
                   (version_on[i] < version_on[k]) == (version_on[5 + i] < version_on[5 + k]))
        }
    }
}
