/* The tickets that a context keeps for the next ops. */
#include "core.h"

#include <stdlib.h>

enum {
    ROOM_MIN = 8,
    ROOM_KEPT = 1024, /* a longer array is freed with its ticket */
};

static dsm_ticket *pop(dsm_ctx *c)
{
    core_lock(&c->tickets_lock);
    dsm_ticket *t = c->tickets;
    if (t)
        c->tickets = t->next;
    core_unlock(&c->tickets_lock);
    return t;
}

static void push(dsm_ctx *c, dsm_ticket *t)
{
    core_lock(&c->tickets_lock);
    t->next = c->tickets;
    c->tickets = t;
    core_unlock(&c->tickets_lock);
}

static dsm_ticket *grow(dsm_ticket *t, size_t n)
{
    size_t room = n < ROOM_MIN ? ROOM_MIN : n;
    free(t); /* nothing in it is of use */
    t = room > (SIZE_MAX - sizeof *t) / sizeof *t->work ? NULL : malloc(sizeof *t + room * sizeof *t->work);
    if (t)
        t->room = room;
    return t;
}

dsm_ticket *ticket_take(dsm_ctx *c, size_t n)
{
    dsm_ticket *t = pop(c);
    if (!t || t->room < n)
        t = grow(t, n);
    if (!t)
        return NULL;
    t->ctx = c;
    t->work = (struct fabric_op *)(void *)(t + 1);
    return t;
}

void ticket_give_back(dsm_ticket *t)
{
    if (t->room > ROOM_KEPT)
        free(t);
    else
        push(t->ctx, t);
}

void tickets_free(dsm_ctx *c)
{
    for (dsm_ticket *t; (t = c->tickets);) {
        c->tickets = t->next;
        free(t);
    }
}
