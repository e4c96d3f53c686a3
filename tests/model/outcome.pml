/*
 * What a client learns of ops whose answer was lost, by asking the owner about the connection that broke
 * (docs/protocols/tcp.md, csrc/fabric/tcp/record.c, csrc/core/doubt.c).
 *
 * The client sends OPS fetch-adds through connections. A connection may break before each step of the client; what was
 * sent through it stays in the owner's buffers, and is executed as long as the owner has not closed it. The client then
 * makes a new connection and asks about each op without an answer, by the name of its connection and its number. The
 * answer may be lost with the new connection; then it asks again. Meanwhile the owner may forget any connection that it
 * has closed, and may be restarted at the same address RESTARTS times, which forgets all.
 *
 * Never is an op said to be executed that was not, or with another result than it had; never is one said to be never
 * executed that was, or that will be; and none is executed twice.
 *
 * Mutations, each of which must fail: NO_CLOSE (the owner answers about a connection that it has not closed),
 * UNKNOWN_IS_NEVER (of a connection that it does not remember, it says that nothing was executed), COUNT_LATE and
 * COUNT_FIRST (an op and its record are two steps, between which the connection may be closed), NO_WINDOW (a result
 * that was overwritten is given all the same), LAST_ONLY (it is asked about the last connection, not about one by its
 * name), SERIAL_NAMES (a restarted owner gives the names of earlier connections again), RESEND (the client sends again
 * what was not answered)
 */
#ifndef OPS
#define OPS 3
#endif
#ifndef CONNECTIONS
#define CONNECTIONS 3
#endif
#ifndef RESTARTS
#define RESTARTS 1
#endif
#define RING 2 /* results that the owner remembers of a connection */
#define NOWHERE 255

#define nothing 0
mtype = { done, dropped, unknown };

/* What the client knows. */
mtype told[OPS];
byte conn[OPS], number[OPS];
byte name[CONNECTIONS], sent[CONNECTIONS];
byte made;
bool cut[CONNECTIONS]; /* it has broken: the client hears nothing through it */

/* The owner, and what lies in its buffers. */
chan wire[CONNECTIONS] = [OPS] of { byte };
bool open[CONNECTIONS], kept[CONNECTIONS]; /* kept: there is a record of it */
byte count[CONNECTIONS];                   /* ops that have been executed, as the record says */
byte ring[CONNECTIONS * RING];
byte word, life, names;
byte restarts = RESTARTS;

/* Not in memory: what has really happened. */
bool executed[OPS];
byte before[OPS];

inline execute(op)
{
    assert(!executed[op] && told[op] != dropped);
    executed[op] = true;
    before[op] = word;
    word++
}

inline record(c, op)
{
    ring[c * RING + count[c] % RING] = before[op];
    count[c]++
}

/* The thread of the owner that executes what comes through a connection. */
proctype server(byte c)
{
    byte op;
end:
    do
    :: atomic { open[c] && nempty(wire[c]) ->
        wire[c] ? op;
#ifdef COUNT_FIRST
        count[c]++
       };
       atomic { if :: open[c] -> execute(op); ring[c * RING + (count[c] - 1) % RING] = before[op] :: else fi
#else
        execute(op);
#ifdef COUNT_LATE
       };
       atomic { if :: open[c] -> skip :: else break fi;
#endif
        record(c, op)
#endif
       }
       if /* the reply, if it arrives */
       :: atomic { open[c] && !cut[c] && conn[op] == c -> told[op] = done }
       :: true
       fi
    :: atomic { !open[c] -> break }
    od
}

/* A connection that was closed may be forgotten; a restart forgets and closes all. */
active proctype fate()
{
    byte k;
    do
    :: atomic { restarts > 0 ->
        restarts--;
        life++;
        names = 0;
        for (k : 0 .. CONNECTIONS - 1) { open[k] = false; kept[k] = false }
        k = 0
       }
    :: atomic { kept[0] && !open[0] -> kept[0] = false }
    :: atomic { kept[1] && !open[1] -> kept[1] = false }
    :: break
    od
}

inline connect(c)
{
    atomic {
        c = made;
        made++;
#ifdef SERIAL_NAMES
        name[c] = names;
        names++;
#else
        name[c] = c;
#endif
        open[c] = true;
        kept[c] = true;
        run server(c)
    }
}

/* The record that the owner finds. */
inline find(c, found)
{
    found = NOWHERE;
#ifdef LAST_ONLY
    if :: made > 1 && kept[made - 2] -> found = made - 2 :: else fi;
#else
    k = 0;
    do
    :: k < made -> if :: kept[k] && name[k] == name[c] -> found = k :: else fi; k++
    :: else -> break
    od;
#endif
    k = 0
}

/* Question and answer in one step of the owner. */
inline ask(i)
{
    atomic {
        find(conn[i], at);
        if
#ifdef UNKNOWN_IS_NEVER
        :: at == NOWHERE -> said = dropped
#else
        :: at == NOWHERE -> said = unknown
#endif
        :: else ->
#ifndef NO_CLOSE
            open[at] = false;
#endif
            if
            :: number[i] >= count[at] -> said = dropped
#ifndef NO_WINDOW
            :: number[i] < count[at] && count[at] - number[i] > RING -> said = unknown
#endif
            :: else -> said = done; result = ring[at * RING + number[i] % RING]
            fi
        fi
    }
}

active proctype client()
{
    byte i, k, c = NOWHERE, at, result;
    mtype said;
    byte next;
    do
    :: next < OPS && (c != NOWHERE || made < CONNECTIONS) ->
        if :: c == NOWHERE -> connect(c) :: else fi;
        atomic { conn[next] = c; number[next] = sent[c]; sent[c]++; wire[c] ! next; next++ }
    :: c != NOWHERE -> /* it breaks, and nothing more is sent through it */
        atomic { cut[c] = true; c = NOWHERE; i = 0 }
        do
        :: i < next && told[i] == nothing ->
#ifdef RESEND
            if :: made < CONNECTIONS -> if :: c == NOWHERE -> connect(c) :: else fi :: else break fi;
            atomic { conn[i] = c; number[i] = sent[c]; sent[c]++; wire[c] ! i; i++ }
#else
            if
            :: c == NOWHERE && made < CONNECTIONS -> connect(c)
            :: c == NOWHERE && made == CONNECTIONS -> break /* the deadline is over */
            :: else
            fi;
            ask(i);
            if
            :: made < CONNECTIONS -> atomic { cut[c] = true; c = NOWHERE } /* the answer is lost */
            :: true ->
                atomic {
                    told[i] = said;
                    assert(said != done || (executed[i] && before[i] == result));
                    assert(said != dropped || !executed[i]);
                    i++
                }
            fi
#endif
        :: i < next && told[i] != nothing -> i++
        :: i >= next -> break
        od
    :: next == OPS || (c == NOWHERE && made == CONNECTIONS) -> break
    od
}
