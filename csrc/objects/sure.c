#include "sure.h"

#include "word.h"

#include <string.h>

bool sure_again(int rc, int *tries)
{
    if (rc != -DSM_EIO && rc != -DSM_ECANCELED && rc != -DSM_ETIME)
        return false;
    *tries += rc == -DSM_ETIME ? SURE_TRIES / 2 : 1;
    return *tries < SURE_TRIES;
}

int sure_error(int rc)
{
    return rc == -DSM_ECANCELED
               ? err_set(DSM_EIO, 0, "other ops on the connection failed, %d times in a row", SURE_TRIES)
               : rc;
}

/* Once: where a stream ends under a READ, its owner may be alive. If it is not, that is what the second try says. */
static bool may_only_be_broken(const dsm_remote *r, int rc, bool *broken)
{
    bool again = rc == -DSM_EPEER && !*broken && r->ctx && !ctx_forked(r->ctx) && r->peer->dev->streams;
    *broken |= again;
    return again;
}

int sure_read(dsm_remote *r, uint64_t offset, void *out, uint64_t nbytes)
{
    int rc, tries = 0;
    bool broken = false;
    do
        rc = dsm_read(r, offset, out, nbytes, remote_timeout(r));
    while (__builtin_expect(rc != 0, 0) && (sure_again(rc, &tries) || may_only_be_broken(r, rc, &broken)));
    return sure_error(rc);
}

/* Each word by a compare-swap of 0 with 0, which changes nothing and may be repeated. */
static int load_by_atomics(dsm_remote *r, uint64_t offset, uint64_t *out, uint32_t n)
{
    dsm_op ops[SURE_WORDS];
    int rc, tries = 0;
    for (uint32_t i = 0; i < n; i++)
        ops[i] =
            (dsm_op){.code = DSM_OP_COMPARE_SWAP, .remote = r, .offset = offset + 8ull * i, .local = NULL, .nbytes = 8};
    do
        rc = err_known(dsm_execute(r->ctx, ops, n, remote_timeout(r), NULL));
    while (__builtin_expect(rc != 0, 0) && sure_again(rc, &tries));
    for (uint32_t i = 0; !rc && i < n; i++)
        out[i] = ops[i].result;
    return sure_error(rc);
}

/* By READs in a row that are equal: without the right to atomics. */
static int load_by_reads(dsm_remote *r, uint64_t offset, uint64_t *out, uint32_t n)
{
    enum { POSTINGS_MOST = 1000 }; /* of READs that are not equal */
    uint64_t seen[WORD_PROVES][SURE_WORDS];
    dsm_op ops[WORD_PROVES];
    int rc, tries = 0;
    for (uint32_t i = 0; i < WORD_PROVES; i++)
        ops[i] = (dsm_op){.code = DSM_OP_READ, .remote = r, .offset = offset, .local = seen[i], .nbytes = 8ull * n};
    for (int i = 0; i < POSTINGS_MOST; i++) {
        do
            rc = dsm_execute(r->ctx, ops, WORD_PROVES, remote_timeout(r), NULL);
        while (__builtin_expect(rc != 0, 0) && sure_again(rc, &tries));
        if (rc)
            return sure_error(rc);
        bool equal = true;
        for (uint32_t k = 1; k < WORD_PROVES; k++)
            equal &= !memcmp(seen[k], seen[0], 8ull * n);
        if (equal) {
            memcpy(out, seen[0], 8ull * n);
            return 0;
        }
    }
    return err_set(DSM_ETIME, 0, "word %llu was changed during each of %d READs", (unsigned long long)offset,
                   POSTINGS_MOST);
}

int sure_words(dsm_remote *r, uint64_t offset, uint64_t *out, uint32_t n)
{
    if (__builtin_expect(remote_reads_whole(r), 1) || !remote_allows(r, offset, 8ull * n, DSM_READ))
        return sure_read(r, offset, out, 8ull * n);
    return remote_allows(r, offset, 8ull * n, DSM_ATOMIC) ? load_by_atomics(r, offset, out, n)
                                                          : load_by_reads(r, offset, out, n);
}

int sure_write(dsm_remote *r, uint64_t offset, const void *data, uint64_t nbytes)
{
    int rc, tries = 0;
    do
        rc = err_known(dsm_write(r, offset, data, nbytes, remote_timeout(r)));
    while (__builtin_expect(rc != 0, 0) && sure_again(rc, &tries));
    return sure_error(rc);
}

int sure_swap_lost(dsm_remote *r, uint64_t offset, uint64_t expected, uint64_t desired, uint64_t *found, bool *lost)
{
    int tries = 0, said = dsm_compare_swap(r, offset, expected, desired, found, remote_timeout(r)),
        rc = err_known(said);
    *lost = false;
    if (!rc)
        return *found == expected ? SWAP_DONE : SWAP_REFUSED;
    if (remote_is_mapped(r) || !sure_again(rc, &tries) || sure_words(r, offset, found, 1)) {
        *lost = said == -DSM_EUNKNOWN;
        return sure_error(rc);
    }
    return *found == desired ? SWAP_DONE : SWAP_UNKNOWN;
}

int sure_swap(dsm_remote *r, uint64_t offset, uint64_t expected, uint64_t desired, uint64_t *found)
{
    bool lost;
    return sure_swap_lost(r, offset, expected, desired, found, &lost);
}

int sure_swap_away(dsm_remote *r, uint64_t offset, uint64_t expected, uint64_t desired)
{
    uint64_t found = expected;
    int rc = SWAP_UNKNOWN;
    for (int i = 0; i < SURE_TRIES && rc == SWAP_UNKNOWN && found == expected; i++)
        rc = sure_swap(r, offset, expected, desired, &found);
    if (rc == SWAP_UNKNOWN && found == expected)
        return err_set(DSM_EIO, 0, "%d times in a row", SURE_TRIES);
    return rc < 0 ? rc : 0;
}

int sure_move(dsm_remote *r, uint64_t offset, uint64_t from, uint64_t to)
{
    uint64_t found = from;
    int rc = from == to ? SWAP_DONE : SWAP_UNKNOWN;
    for (int i = 0; i < SURE_TRIES && rc == SWAP_UNKNOWN && found == from; i++)
        rc = sure_swap(r, offset, from, to, &found);
    if (rc < 0 || rc == SWAP_DONE)
        return rc < 0 ? rc : 0;
    if (rc == SWAP_UNKNOWN && found == from)
        return err_set(DSM_EIO, 0, "%d times in a row", SURE_TRIES);
    return err_set(DSM_ECORRUPT, 0, "word %llu was changed by another than its writer", (unsigned long long)offset);
}
