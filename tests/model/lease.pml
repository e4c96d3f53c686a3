/*
 * Leases that are given back (docs/protocols/epochs.md). The primary of each epoch is cut off from the coordinator
 * when that decides on the next one, and goes on to serve its clients. What has been read counts only under a lease,
 * or if the coordinator says afterwards that the epoch is the present one. The coordinator waits until each lease that
 * it knows of was given back, or until all have run out. It may crash at each step, and the next one knows of none.
 *
 * A handle has two threads: one reads, and asks for a lease if it has none; the other one has seen that something is
 * wrong: it gives the lease back and asks for the next epoch, in one message. A lease has an ID. A handle that gives
 * one back has another ID from then on, also in the next epoch, and what comes for the old one is not used. A question
 * may come late, and is answered, but the coordinator notes no lease that was given back.
 *
 * Checked: a read returns nothing older than what was acknowledged when it began; what was given back is known no
 * more.
 *
 * HANDLES is 1 or 2; GIVES: how often each asks for the next epoch; EPOCHS: the last one; CRASHES of the coordinator.
 *
 * Mutations, each of which must fail:
 *   NO_WAIT       the coordinator waits for nothing
 *   FORGETS       one that has crashed waits for those leases only that it knows of
 *   LATE          it grants leases when it has decided on the next epoch
 *   OF_ALL        it takes a lease that was given back for those of all handles (HANDLES=2)
 *   KNOWN         a reader looks for its lease before it reads
 *   KEPT          an answer for the ID that was given back counts for the one that came after it
 *   SAME          the ID stays
 *   SHARED        the next epoch is told with a lease, of the ID with which the handle goes on in this one
 *   MOVES         a lease goes on in the next epoch
 *   AGAIN         a question that comes late is noted (what is checked beside reads)
 *   TOLD_FIRST    a lease is used until the coordinator has heard that it was given back
 */
#ifndef HANDLES
#define HANDLES 1
#endif
#ifndef GIVES
#define GIVES 2
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef EPOCHS
#define EPOCHS 3
#endif
#define IDS (2 * GIVES + 1) /* of a handle */
#define bit(h, id) (1 << (h) * IDS + (id))

/* ---- the coordinator's disk, its memory, and its clock ---- */

byte decided = 1, opened = 1;
short holds;              /* the leases that it knows of, a bit each */
short gone;               /* those that were given back */
bool knows = true;        /* these are all that there are of the epoch */
bool expired[EPOCHS + 1]; /* all leases of the epoch have run out */
byte crashes = CRASHES;

/* ---- pages ---- */

byte version[EPOCHS + 1]; /* at the primary of each epoch */
byte acknowledged;

/* ---- handles ---- */

byte view[HANDLES] = 1, id[HANDLES]; /* a thread reads or changes both at once */
short leased;                        /* whether there is a lease of an ID, a bit each */

#define CRASH d_step { crashes > 0 -> crashes--; knows = false; holds = 0; gone = 0 }; goto again

proctype coordinator()
{
again:
end:
    if
    :: decided == opened && decided < EPOCHS -> decided++
    :: decided > opened
    :: CRASH
    fi;
    if
#ifdef NO_WAIT
    :: true
#elif defined(FORGETS)
    :: holds == 0 || expired[opened]
#else
    :: knows && holds == 0 || expired[opened]
#endif
    :: CRASH
    fi;
    if
    :: d_step { version[decided] = version[opened]; opened = decided; knows = true }
    :: CRASH
    fi;
    goto again
}

proctype time()
{
end:
    do
    :: d_step { opened < decided && !expired[opened] -> expired[opened] = true }
    od
}

proctype writer()
{
end:
    do
    :: d_step { decided == opened && version[opened] < opened -> version[opened] = version[opened] + 1;
        acknowledged = version[opened] }
    od
}

#ifdef LATE
#define GRANTS(epoch) (opened == (epoch))
#else
#define GRANTS(epoch) (decided == (epoch) && opened == (epoch))
#endif
#ifdef KEPT
#define ANSWERED id[h]
#else
#define ANSWERED mine
#endif

#ifdef AGAIN
#define NOTED(one) true
#else
#define NOTED(one) (!(gone & (one)))
#endif

proctype reads(byte h)
{
    byte known, now, mine, began, found;
    bool yes;
    do
    :: d_step { known = view[h]; mine = id[h] };
        d_step { began = acknowledged; found = version[known] };
#ifdef KNOWN
        now = view[h];
#else
        d_step { now = view[h]; mine = id[h] };
#endif
        if
        :: now != known
        :: d_step { now == known && leased & bit(h, mine) && !expired[known] -> assert(found >= began) }
        :: now == known ->
            d_step { yes = GRANTS(known);
                if :: yes && NOTED(bit(h, mine)) -> holds = holds | bit(h, mine) :: else fi;
                assert(!(holds & gone)) };
            d_step {
                if
                :: yes -> assert(found >= began); leased = leased | bit(h, ANSWERED); yes = false
                :: else
                fi }
        fi;
        d_step { known = 0; now = 0; mine = 0; began = 0; found = 0 }
    od
}

#ifdef OF_ALL
#define WITHOUT(one) 0
#else
#define WITHOUT(one) (holds & ~(one))
#endif

proctype follows(byte h)
{
    byte given, next, asked;
    do
    :: asked < GIVES ->
        asked++;
        given = id[h];
#ifdef TOLD_FIRST
        holds = WITHOUT(bit(h, given));
#endif
#ifdef SAME
        leased = leased & ~bit(h, given);
#else
        id[h] = given + 1;
#endif
        d_step { /* the message arrives */
#ifndef TOLD_FIRST
            holds = WITHOUT(bit(h, given));
#endif
#ifndef SAME
            gone = gone | bit(h, given);
#endif
            if
            :: opened > view[h] && GRANTS(opened) -> next = opened;
#ifdef SHARED
                holds = holds | bit(h, id[h])
#endif
            :: else
            fi };
        d_step { /* the answer */
            if
            :: next != 0 -> view[h] = next; next = 0;
#ifdef SHARED
                leased = leased | bit(h, id[h])
#elif !defined(MOVES)
                id[h] = given + 2
#endif
            :: else
            fi }
    :: asked == GIVES -> break
    od
}

init {
    byte h;
    atomic {
        run coordinator();
        run time();
        run writer();
        for (h : 0 .. HANDLES - 1) {
            run reads(h);
            run follows(h)
        }
    }
}
