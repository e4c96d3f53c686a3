/*
 * The replicated put (docs/protocols/pages.md): one page in two copies, a primary and a backup. A writer locks the head
 * at the primary, changes the backup, acknowledges, and unlocks. It may be killed before each of its steps; what it has
 * posted may be executed afterwards, until it is fenced. A connection may break: then what was not executed never will
 * be, answers are lost, and the writer finds out over a new connection. Recoverers fence a dead writer that holds the
 * lock, and resolve what it left. Any of their steps may come late.
 *
 * Checked: a version has one value, and the value of a put one version; a reader never goes back, never misses what was
 * acknowledged, and finds the frame that the head names; in the end the page is unlocked and both copies are equal. A
 * writer that is not killed finishes. So puts are linearisable, an acknowledged one is never lost, and one that was not
 * acknowledged is invisible or whole.
 *
 * Mutations, each of which must fail:
 *   ACK_EARLY      acknowledges with the lock, before the backup has changed
 *   UNLOCK_FIRST   unlocks the primary before the backup has changed
 *   HEAD_FIRST     posts the compare-swap before the frame
 *   DOUBT_IS_NO    takes a lost answer for 'not executed', and does not look
 *   DOUBT_IS_YES   takes a lost answer for 'executed', and does not look
 *   READ_LOCKED    a reader returns the old value under a lock
 *   PASS_LOCK      a writer takes the lock from its holder without a fence
 *   NO_FENCE       a recoverer resolves what a suspect left without fencing it first
 *   HALF_FENCE     it fences the suspect at the primary only
 *   BACK           a recoverer always goes back to the old head
 *   FORWARD        a recoverer always goes on to the new head
 *   STORE          a recoverer unlocks with a WRITE
 *   NUMBER_AGAIN   the number of a dead writer is used again before all recoverers are known to have ended
 */
#ifndef LOSSES
#define LOSSES 1
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#define WRITERS 2
#define RECOVERERS 2
#define PRIMARY 0
#define BACKUP 1

/* head = value (2 bits) | version << 2 | owner << 4. The value stands for the frame; that of a put is its writer. */
#define head_of(owner, version, value) ((owner) << 4 | (version) << 2 | (value))
#define owner_of(h) ((h) >> 4)
#define version_of(h) ((h) >> 2 & 3)
#define value_of(h) ((h) & 3)
#define plain(h) ((h) & 15)
#define locked(h, owner) ((owner) << 4 | (h))

byte head[2];
bool frame[8];      /* at [node * 4 + value]: the frame is there */
bool fenced[6];     /* at [node * 3 + number] */
bool dead[4];       /* writers */
byte deaths = DEATHS, losses = LOSSES;

/* The connection of a writer to a node: what is under way, in order, and what is known of the last op there. */
mtype = { none, under_way, done, refused, lost };
chan wire[6] = [2] of { byte, byte }; /* of a compare-swap: expected, desired; of a frame: FRAME, value */
mtype answer[6];
#define FRAME 255

/* Not in memory: what has really happened. */
byte value_at[4] = 255, version_at[4] = 255; /* of each version its value, of each put its version */
byte acknowledged;                           /* highest version */
byte writing = WRITERS, resolving = RECOVERERS;

inline visible(h)
{
    assert(value_at[version_of(h)] == 255 || value_at[version_of(h)] == value_of(h));
    assert(value_of(h) == 0 || version_at[value_of(h)] == 255 || version_at[value_of(h)] == version_of(h));
    value_at[version_of(h)] = value_of(h);
    version_at[value_of(h)] = version_of(h)
}

/* A node executes what comes through a connection, in order. The connection may break whenever something is under way,
 * or its answer is; what has not been executed then never will be. */
proctype node(byte n; byte w)
{
    byte c = n * 3 + w, a, b;
end:
    do
    :: atomic { nempty(wire[c]) ->
        wire[c] ? a, b;
        if
        :: fenced[c] -> answer[c] = lost
        :: !fenced[c] && a == FRAME -> frame[n * 4 + b] = true
        :: !fenced[c] && a != FRAME && head[n] == a -> head[n] = b; answer[c] = done
        :: !fenced[c] && a != FRAME && head[n] != a -> answer[c] = refused
        fi;
        a = 0; b = 0
       }
    :: atomic { losses > 0 && (answer[c] == under_way || answer[c] == done || answer[c] == refused) ->
        losses--;
        answer[c] = lost;
        do :: nempty(wire[c]) -> wire[c] ? _, _ :: empty(wire[c]) -> break od
       }
    od
}

#define DIE d_step { deaths > 0 -> deaths--; dead[me] = true }; goto gone
#define STEP(x) if :: x :: DIE fi
#define AT(n) ((n) * 3 + number)
#define posts(n, a, b) wire[AT(n)] ! a, b; answer[AT(n)] = under_way
#define answered(n) (answer[AT(n)] != under_way)
#define cut (fenced[AT(PRIMARY)] || fenced[AT(BACKUP)])

proctype writer(byte me; byte number)
{
    byte old, new;

    do
    :: true ->
        STEP(atomic { old = head[PRIMARY]; new = head_of(0, version_of(old) + 1, me) });
        if
#ifndef PASS_LOCK
        :: owner_of(old) != 0 ->
            if /* waits until the holder has finished or was recovered */
            :: head[PRIMARY] != old
            :: DIE
            fi
#endif
        :: else ->
#ifdef HEAD_FIRST
            STEP(atomic { posts(PRIMARY, old, locked(plain(old), number)); posts(PRIMARY, FRAME, me) });
#else
            STEP(atomic { posts(PRIMARY, FRAME, me); posts(PRIMARY, old, locked(plain(old), number)) });
#endif
            old = plain(old);
            STEP(answered(PRIMARY));
            if
            :: answer[AT(PRIMARY)] == done -> break
            :: answer[AT(PRIMARY)] == refused
            :: answer[AT(PRIMARY)] == lost && cut -> goto gone
            :: answer[AT(PRIMARY)] == lost && !cut ->
#ifdef DOUBT_IS_YES
                break
#elif !defined(DOUBT_IS_NO)
                if
                :: atomic { head[PRIMARY] == locked(old, number) -> break }
                :: head[PRIMARY] != locked(old, number)
                :: DIE
                fi
#endif
            fi
        fi
    od;
#ifdef ACK_EARLY
    STEP(atomic { visible(new); acknowledged = version_of(new) });
#endif
#ifdef UNLOCK_FIRST
    STEP(d_step { head[PRIMARY] = new });
#endif

    do /* has the lock */
    :: true ->
        STEP(atomic { posts(BACKUP, FRAME, me); posts(BACKUP, old, new) });
        STEP(answered(BACKUP));
        if
        :: answer[AT(BACKUP)] == done -> break
        :: answer[AT(BACKUP)] == refused -> assert(head[BACKUP] == new); break
        :: answer[AT(BACKUP)] == lost && cut -> goto gone
        :: answer[AT(BACKUP)] == lost && !cut ->
#if defined(DOUBT_IS_YES)
            break
#elif defined(DOUBT_IS_NO)
            STEP(d_step { head[PRIMARY] = old }); /* gives up, and nothing has happened */
            goto over
#endif
        fi
    od;
    STEP(atomic { visible(new); if :: acknowledged < version_of(new) -> acknowledged = version_of(new) :: else fi });

    do
    :: true ->
        STEP(posts(PRIMARY, locked(old, number), new));
        STEP(answered(PRIMARY));
        if
        :: answer[AT(PRIMARY)] == done || answer[AT(PRIMARY)] == refused || cut -> break
        :: answer[AT(PRIMARY)] == lost && !cut
        fi
    od;
over:
gone:
    writing--
}

proctype reader()
{
    byte h, seen;
end:
    do
    :: d_step {
        h = head[PRIMARY];
#ifdef READ_LOCKED
        h = plain(h);
#endif
        if
        :: owner_of(h) == 0 ->
            assert(frame[PRIMARY * 4 + value_of(h)]);
            assert(version_of(h) >= acknowledged && version_of(h) >= seen);
            visible(h);
            seen = version_of(h)
        :: else
        fi;
        h = 0
       }
    od
}

#define holder_is_dead (owner_of(head[PRIMARY]) != 0 && dead[owner_of(head[PRIMARY])])
#define nothing_under_way (empty(wire[1]) && empty(wire[2]) && empty(wire[4]) && empty(wire[5]))
/* No process can leave anything any more. */
#define quiet (writing == 0 && owner_of(head[PRIMARY]) == 0 && nothing_under_way)

proctype recoverer()
{
    byte lock, backup, number;
    do
    :: atomic { holder_is_dead -> lock = head[PRIMARY]; number = owner_of(lock) }
#ifndef NO_FENCE
        fenced[PRIMARY * 3 + number] = true;
#ifndef HALF_FENCE
        fenced[BACKUP * 3 + number] = true;
#endif
#endif
        backup = head[BACKUP];
        if
#ifdef BACK
        :: true -> backup = plain(lock)
#elif defined(FORWARD)
        :: true -> backup = head_of(0, version_of(lock) + 1, number)
#else
        :: version_of(backup) == version_of(lock) + 1 && value_of(backup) == number
        :: else -> backup = plain(lock)
#endif
        fi;
        atomic {
#ifdef STORE
            head[PRIMARY] = backup; visible(backup);
#else
            if :: head[PRIMARY] == lock -> head[PRIMARY] = backup; visible(backup) :: else fi;
#endif
            lock = 0; backup = 0; number = 0
        }
    :: quiet -> break
    od;
    resolving--
}

init {
    byte i, n;
    atomic {
        frame[PRIMARY * 4] = true; /* of the first version, 0 */
        frame[BACKUP * 4] = true;
        for (i : 0 .. 5) { answer[i] = none }
        for (i : 1 .. WRITERS) {
            for (n : 0 .. 1) { run node(n, i) }
        }
        run writer(1, 1);
        run writer(2, 2);
        run reader();
        run recoverer();
        run recoverer()
    }
#ifdef NUMBER_AGAIN
    atomic { dead[1] && owner_of(head[PRIMARY]) != 1 && empty(wire[1]) && empty(wire[4]) ->
        writing++; dead[1] = false; fenced[PRIMARY * 3 + 1] = false; fenced[BACKUP * 3 + 1] = false; run writer(3, 1) }
#endif
    writing == 0 && resolving == 0;
    assert(head[PRIMARY] == head[BACKUP] && owner_of(head[PRIMARY]) == 0)
}
