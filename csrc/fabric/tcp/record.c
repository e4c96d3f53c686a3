/*
 * What became of the ops that came through a passive endpoint, for a peer whose connection has broken.
 *
 * The requests of a connection are executed in their order, so the number of the first op that was not executed says it
 * of all: but for results of atomics, and for refused ones. The last of these are in a ring of the endpoint's record.
 * The record stays when the endpoint is closed, if it ever had a connection. A device keeps the last TCP_RECORDS.
 *
 * The token of an endpoint is its name: random, so an owner that was restarted knows none of those before.
 */
#include "../../base/random.h"
#include "../../base/sha256.h"
#include "tcp.h"

#include <stdlib.h>

struct tcp_record *tcp_record_new(struct tcp_dev *d, struct tcp_server *s)
{
    struct tcp_record *r = calloc(1, sizeof *r);
    if (!r || random_bytes(r->token, TCP_TOKEN)) {
        free(r);
        return NULL;
    }
    r->server = s;
    r->next = d->live;
    d->live = r;
    return r;
}

static void free_record(struct tcp_record *r)
{
    free(r->of);
    free(r);
}

/* Refused requests in a row have one entry, so that many of them do not push out results of atomics. */
static bool lengthens(struct tcp_record *r, const struct fabric_outcome *o)
{
    struct fabric_outcome *last = r->n ? &r->of[(r->at + r->n - 1) % r->room] : NULL;
    if (!last || !o->status || o->status != last->status || last->number + last->ops != o->number ||
        o->ops > UINT32_MAX - last->ops)
        return false;
    last->ops += o->ops;
    return true;
}

/* Without memory for it, the outcomes so far are not known. */
void tcp_remember(struct tcp_record *r, const struct fabric_outcome *o)
{
    enum { ROOM = TCP_WINDOW + TCP_REFUSED };
    if (!r->of && (r->of = malloc(ROOM * sizeof *o)))
        r->room = ROOM;
    if (!r->of) {
        r->known = o->number + o->ops;
        return;
    }
    if (lengthens(r, o))
        return;
    struct fabric_outcome *to = &r->of[(r->at + r->n) % r->room];
    if (r->n == r->room) {
        r->known = to->number + to->ops;
        r->at = (r->at + 1) % r->room;
    } else {
        r->n++;
    }
    *to = *o;
}

/* A record that gets no more entries needs no more room than they have. */
static void trim(struct tcp_record *r)
{
    struct fabric_outcome *exact = r->n ? malloc(r->n * sizeof *exact) : NULL;
    if (r->n && !exact)
        return;
    for (uint32_t i = 0; i < r->n; i++)
        exact[i] = r->of[(r->at + i) % r->room];
    free(r->of);
    r->of = exact;
    r->at = 0;
    r->room = r->n;
}

static void take_off(struct tcp_dev *d, struct tcp_record *r)
{
    struct tcp_record **at = &d->live;
    while (*at != r)
        at = &(*at)->next;
    *at = r->next;
    r->next = NULL;
}

void tcp_record_drop(struct tcp_dev *d, struct tcp_record *r)
{
    take_off(d, r);
    free_record(r);
}

void tcp_record_end(struct tcp_dev *d, struct tcp_record *r, uint64_t ended)
{
    take_off(d, r);
    r->server = NULL;
    r->ended = ended;
    trim(r);
    *d->past_last = r;
    d->past_last = &r->next;
    if (d->npast++ < TCP_RECORDS)
        return;
    struct tcp_record *oldest = d->past;
    d->past = oldest->next;
    d->npast--;
    free_record(oldest);
}

void tcp_records_free(struct tcp_dev *d)
{
    assert(!d->live);
    for (struct tcp_record *r; (r = d->past);) {
        d->past = r->next;
        free_record(r);
    }
}

struct tcp_record *tcp_record_find(struct tcp_record *r, const uint8_t token[TCP_TOKEN])
{
    while (r && !same_bytes(r->token, token, TCP_TOKEN))
        r = r->next;
    return r;
}

void tcp_record_say(const struct tcp_record *r, uint64_t from, struct fabric_outcomes *out)
{
    *out = (struct fabric_outcomes){.next = r->ended, .known = r->known, .through = r->ended};
    for (uint32_t i = 0; i < r->n; i++) {
        const struct fabric_outcome *o = &r->of[(r->at + i) % r->room];
        if (o->number + o->ops <= from)
            continue;
        if (out->n == FABRIC_OUTCOMES) {
            out->through = o->number;
            return;
        }
        out->of[out->n++] = *o;
    }
}
