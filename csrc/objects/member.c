#include "member.h"

#include "../base/identity.h"
#include "sure.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int draw(uint64_t *out) { return identity_random(out) ? err_set_errno(errno, "getrandom") : 0; }

int member_identity(dsm_remote *r, uint64_t *out)
{
    int rc = 0;
    *out = 0;
    if (remote_is_mapped(r) ? !identity_claim(out) : (rc = remote_identities(r, 1, out)) || *out)
        return rc;
    return draw(out);
}

int member_identities(dsm_remote *r, uint64_t n, uint64_t *first)
{
    int rc = remote_identities(r, n, first);
    return rc || *first ? rc : draw(first);
}

bool member_ended(dsm_remote *r, uint64_t identity)
{
    uint8_t ended;
    if (remote_is_mapped(r))
        return identity_ended(identity);
    members_ended(r, &identity, 1, &ended);
    return ended;
}

void members_ended(dsm_remote *r, const uint64_t *identities, size_t n, uint8_t *ended)
{
    uint64_t some[MEMBERS_ASKED];
    uint8_t answer[MEMBERS_ASKED];
    for (size_t from = 0, to; from < n; from = to) {
        size_t asked = 0, last = 0;
        int rc = 0;
        for (to = from; to < n && asked < MEMBERS_ASKED; to++)
            if (identities[to])
                some[asked++] = identities[to];
        if (remote_is_mapped(r))
            for (size_t i = 0; i < asked; i++)
                answer[i] = identity_ended(some[i]);
        else if (asked)
            rc = remote_ended(r, some, asked, answer);
        if (rc) { /* the time for the call is over: an owner that does not answer is not asked about the others */
            memset(ended + from, 0, n - from);
            return;
        }
        for (size_t i = from; i < to; i++)
            ended[i] = identities[i] ? answer[last++] : 0;
    }
}

bool member_elsewhere(uint64_t identity) { return identity & IDENTITY_ELSEWHERE; }

const char *member_describe(uint64_t identity, char text[MEMBER_TEXT])
{
    int pid = identity_pid(identity);
    if (pid)
        snprintf(text, MEMBER_TEXT, "process %d", pid);
    else
        snprintf(text, MEMBER_TEXT, "a process %s (%llu)",
                 member_elsewhere(identity) ? "that is connected from elsewhere" : "whose number is not visible here",
                 (unsigned long long)identity);
    return text;
}

int member_is(dsm_remote *r, uint64_t table, uint32_t number, uint64_t identity)
{
    uint64_t now;
    int rc = sure_words(r, table + 8ull * number, &now, 1);
    return rc ? rc : now == identity;
}

int member_take(dsm_remote *r, uint64_t at, uint64_t from, uint64_t identity, uint64_t *found)
{
    for (int tries = 0;;) {
        int rc = err_known(dsm_compare_swap(r, at, from, identity, found, remote_timeout(r)));
        if (!rc)
            return *found == from;
        if (remote_is_mapped(r) || sure_words(r, at, found, 1))
            return sure_error(rc);
        if (*found != from)
            return *found == identity;
        if (!sure_again(rc, &tries))
            return sure_error(rc);
    }
}

static int take_free(dsm_remote *r, uint64_t table, uint32_t n, const uint64_t *seen, uint64_t identity, uint32_t *out)
{
    uint64_t found;
    for (uint32_t i = 0; i < n; i++) {
        int rc = seen[i] ? 0 : member_take(r, table + 8ull * i, 0, identity, &found);
        if (rc) {
            *out = i;
            return rc;
        }
    }
    return 0;
}

/* 1: an earlier member_take() that was reported as failed did take effect. This is checked before a free entry is
 * taken: the free one may lie before it in the table, and two entries would then hold the identity. An entry of the
 * table that was read may be a mixture of others' identities, so it is read once more. */
static int find_own(dsm_remote *r, uint64_t table, uint32_t n, const uint64_t *seen, uint64_t identity, uint32_t *out)
{
    int rc = 0;
    for (uint32_t i = 0; i < n && !rc; i++) {
        *out = i;
        rc = seen[i] == identity ? member_is(r, table, i, identity) : 0;
    }
    return rc;
}

static int succeed_dead(dsm_remote *r, uint64_t table, uint32_t n, const uint64_t *seen, uint64_t identity,
                        member_sweep *sweep, void *arg, uint32_t *out)
{
    uint8_t ended[MEMBERS_MAX];
    uint64_t found;
    members_ended(r, seen, n, ended);
    for (uint32_t i = 0; i < n; i++) {
        if (!ended[i])
            continue;
        int rc = sweep ? sweep(arg, i, seen[i]) : 0;
        if (rc > 0)
            continue;
        if (!rc)
            rc = member_take(r, table + 8ull * i, seen[i], identity, &found);
        if (rc) {
            *out = i;
            return rc;
        }
    }
    return 0;
}

int member_join(dsm_remote *r, uint64_t table, uint32_t n, uint64_t identity, member_sweep *sweep, void *arg,
                uint32_t *number)
{
    uint64_t seen[MEMBERS_MAX];
    if (n > MEMBERS_MAX)
        return err_set(DSM_ECORRUPT, 0, "a table of %u members", n);
    int rc = sure_read(r, table, seen, 8ull * n);
    if (!rc && !remote_is_mapped(r))
        rc = find_own(r, table, n, seen, identity, number);
    if (!rc)
        rc = take_free(r, table, n, seen, identity, number);
    if (!rc)
        rc = succeed_dead(r, table, n, seen, identity, sweep, arg, number);
    if (rc)
        return rc < 0 ? rc : 0;
    return err_set(DSM_EMEMBERS, 0, "%u places", n);
}

int member_leave(dsm_remote *r, uint64_t table, uint32_t number, uint64_t identity)
{
    return sure_swap_away(r, table + 8ull * number, identity, 0);
}

int dsm_identity(uint64_t *out) { return identity_claim(out) ? draw(out) : 0; }
int dsm_identity_provable(void)
{
    uint64_t own;
    return identity_claim(&own) ? err_set_errno(errno, "the identity of this process") : 0;
}
int dsm_identity_dead(uint64_t identity) { return identity_ended(identity); }
int dsm_identity_pid(uint64_t identity) { return identity_pid(identity); }
