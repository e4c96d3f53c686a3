/* Members of an object that is reached by ops: a join whose answer was lost, and owners that don't answer. */
#include "base/atomic.h"
#include "check.h"
#include "context.h"
#include "objects/member.h"
#include "objects/sync/lock.h"

enum { MEMBERS = 4 };

static dsm_ctx *owner, *user;
static dsm_region *region;
static dsm_remote *reached;

static uint64_t *word(uint64_t offset) { return (uint64_t *)dsm_region_data(region) + offset / 8; }

static void reach_lock(dsm_ctx *of, dsm_ctx *by)
{
    uint8_t descriptor[DSM_DESC_MAX];
    owner = of;
    user = by;
    uint64_t n = dsm_sync_bytes(DSM_LOCK, MEMBERS, 0);
    CHECK(!dsm_alloc(owner, n, DSM_READ | DSM_WRITE | DSM_ATOMIC, &region));
    CHECK(!dsm_sync_format(dsm_region_data(region), DSM_LOCK, MEMBERS, 0, 0));
    CHECK(!dsm_attach(user, descriptor, (size_t)dsm_region_descriptor(region, descriptor), -1, &reached));
    CHECK(!dsm_remote_mapped(reached));
}

static void close_owner(void)
{
    CHECK(!dsm_region_close(region));
    dsm_close(owner);
}

static void close_user(void)
{
    CHECK(!dsm_remote_close(reached));
    dsm_close(user);
}

/* The entry that an earlier call took is the member's, though that call did not learn of it. */
static void a_join_whose_answer_was_lost(void)
{
    uint64_t me;
    uint32_t number = MEMBERS;
    reach_lock(open_context(NULL), open_context(""));
    CHECK(!member_identity(reached, &me) && me);
    *word(SYNC_TABLE + 16) = me;
    CHECK(!member_join(reached, SYNC_TABLE, MEMBERS, me, NULL, NULL, &number) && number == 2);
    CHECK(!*word(SYNC_TABLE) && !*word(SYNC_TABLE + 8) && *word(SYNC_TABLE + 16) == me);
    CHECK(!member_leave(reached, SYNC_TABLE, number, me) && !*word(SYNC_TABLE + 16));
    close_owner();
    close_user();
}

/* On a stream identities are the owner's to give. Without one nothing may be taken: 0 means free. */
static void no_identity_of_an_owner_that_is_gone(void)
{
    uint64_t one = 1, first = 1;
    reach_lock(open_with(options_of("tcp")), open_with(options_of("tcp")));
    close_owner();
    CHECK(member_identity(reached, &one) < 0 && member_identities(reached, 3, &first) < 0);
    close_user();
}

/* The entry of a dead member is taken only when what it held is free. */
static void a_sweep_that_fails(void)
{
    uint64_t dead = 1ull << 63 | 77;
    reach_lock(open_context(NULL), open_context("fail=2-40")); /* the first op reads the word of the lock */
    *word(SYNC_TABLE + 8) = dead;
    *word(SYNC_WORD) = LOCK_HELD | 1;
    CHECK(lock_sweep(reached, 1, dead) < 0 && *word(SYNC_WORD) == (LOCK_HELD | 1));
    close_owner();
    close_user();
    reach_lock(open_context(NULL), open_context(""));
    *word(SYNC_TABLE + 8) = dead;
    *word(SYNC_WORD) = LOCK_HELD | 1;
    CHECK(lock_sweep(reached, 1, dead) >= 0 && !(*word(SYNC_WORD) & LOCK_HELD) && *word(SYNC_WORD) & LOCK_OWNER_DIED);
    close_owner();
    close_user();
}

int main(void)
{
    a_join_whose_answer_was_lost();
    no_identity_of_an_owner_that_is_gone();
    a_sweep_that_fails();
    puts("ok");
    return 0;
}
