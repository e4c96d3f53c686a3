/*
 * When the identities of a node of another host end (csrc/agent/grants.c, docs/decisions/0023): a client holds a lock in
 * the memory of an owner that executes its ops, and writes what the lock protects. Its connections may break at any time,
 * it may connect again, die, be cut off, or say goodbye. Another process waits for the lock, and takes it over once the
 * client's identity has ended.
 *
 * A connection is a control connection and an endpoint. What the client has sent through an endpoint lies in a channel
 * until the owner executes it. The owner notices the end of a connection at any time after the client does, and may have
 * a new connection of the client before that.
 *
 * Checked: nothing that the client has sent is executed after another process has taken its lock over; the waiter gets
 * the lock, whatever becomes of the client; a client that comes back too late is told. The grace period is longer than
 * the client needs to connect again where it can, which it does by itself, also if it has nothing else to do there: so
 * a client that lives and whose path to the owner is not cut keeps its lock.
 *
 * Mutations, each of which must fail:
 *   END_FIRST     identities end before the endpoints are closed
 *   NO_DENY       a node whose identities have ended may connect again
 *   NO_LOOK       the time that a node may be away is over, though it is connected again
 *   BYE_ONE       a goodbye closes the endpoint of its own connection only
 *   NO_EXPIRY     a node may be away without limit
 *   NEXT_OP       a client connects again with its next op only
 */
#ifndef CONNECTIONS
#define CONNECTIONS 3
#endif

#define CLIENT 1
#define WAITER 2

chan sent[CONNECTIONS] = [2] of { bool }; /* WRITEs that are under way */
bool broken[CONNECTIONS];  /* the client has seen the connection's end, or has caused it by its death */
bool control[CONNECTIONS]; /* the owner has the control connection */
bool opened[CONNECTIONS];  /* the owner executes what comes */
chan goodbye = [1] of { byte };
bool denied, ended, told;
bool waiting; /* the client is away, and has a limited time to come back */
byte holder = CLIENT;
bool gone; /* the client has died or said goodbye */
bool idle; /* it does no op */
bool cut;  /* it can't reach the owner; as long as it has a connection, that is not noticed */
bool up = true; /* the client has a control connection, as far as it knows */

#define away (!control[0] && !control[1] && !control[2])
#ifdef NEXT_OP
#define connects (!up && !gone && !cut && !idle)
#else
#define connects (!up && !gone && !cut)
#endif
#define close_all opened[0] = false; opened[1] = false; opened[2] = false

proctype client()
{
    byte now = 0;
    bool has = true; /* an endpoint, as far as the client knows */
    do
    :: atomic { now < CONNECTIONS && connects -> /* connects; the owner answers at once */
           if
           :: denied -> told = true; goto left
           :: else
           fi;
           control[now] = true;
           up = true;
#ifndef NO_LOOK
           waiting = false
#endif
       }
    :: atomic { up && control[now] && !has -> /* asks for an endpoint */
           close_all;
           opened[now] = true;
           has = true
       }
    :: atomic { up && has && !idle && nfull(sent[now]) -> sent[now]!true }
    :: d_step { !idle -> idle = true }
    :: d_step { !cut && !up -> cut = true }
    :: d_step { cut -> cut = false }
    :: d_step { up && now < CONNECTIONS - 1 -> broken[now] = true; up = false; has = false; now++ } /* it breaks */
    :: atomic { up && control[now] -> goodbye!now }; goto left /* it sends nothing more */
    :: goto left /* it dies */
    od;
left:
    gone = true;
    if
    :: up -> d_step { broken[now] = true; up = false }
    :: else
    fi
}

/* The agent's thread: one step at a time. */
proctype agent()
{
    byte i;
    do
    :: ended && holder == WAITER && empty(goodbye) -> break
    :: atomic { goodbye?i -> /* all that the client has sent is executed, or never will be */
#ifdef BYE_ONE
           opened[i] = false;
#else
           close_all;
#endif
           ended = true
       }
    :: atomic { /* a control connection has ended */
           empty(goodbye) && ( /* which the agent has read before */
               (broken[0] && control[0]) || (broken[1] && control[1]) || (broken[2] && control[2])) ->
           if
           :: broken[0] && control[0] -> i = 0
           :: broken[1] && control[1] -> i = 1
           :: broken[2] && control[2] -> i = 2
           fi;
#ifndef END_FIRST
           opened[i] = false;
#endif
           control[i] = false;
           waiting = away && !ended
       }
#ifndef NO_EXPIRY
    :: atomic { waiting && !ended && !connects -> /* the client may come back before, or too late */
           assert(gone || cut);
#ifndef NO_DENY
           denied = true;
#endif
           waiting = false;
           ended = true
       }
#ifdef END_FIRST
       ; d_step { close_all }
#endif
#endif
#ifdef FENCE
    :: atomic { !denied && !ended -> /* the program fences the node */
           denied = true;
           control[0] = false; control[1] = false; control[2] = false;
           close_all;
           ended = true
       }
#endif
    od
}

/* The progress thread: executes what comes through endpoints that are open. */
proctype executes()
{
end:
    do
    :: d_step { opened[0] && nempty(sent[0]) -> sent[0]?_; assert(holder == CLIENT) }
    :: d_step { opened[1] && nempty(sent[1]) -> sent[1]?_; assert(holder == CLIENT) }
    :: d_step { opened[2] && nempty(sent[2]) -> sent[2]?_; assert(holder == CLIENT) }
    od
}

proctype waiter()
{
    d_step { ended -> holder = WAITER }
}

init {
    atomic {
        control[0] = true;
        opened[0] = true;
        run client();
        run agent();
        run executes();
        run waiter()
    }
}
