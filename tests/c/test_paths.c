/*
 * Two paths to one owner, on the model device (tests/modeldev), which come and go while threads and an event loop use
 * them: what is known of each op is true, no atomic is lost or executed twice, and no WRITE lands after it was given
 * up.
 *
 * Nothing is asserted of times: a phase lasts until every thread has gone on. A host that is slow loses paths that are
 * whole, which changes nothing in what must hold.
 */
/* with: tests/modeldev */
/* wraps: verbs_load */
#ifdef DSM_HAVE_VERBS
#include "../modeldev/model.h"
#include "base/atomic.h"
#include "check.h"
#include "context.h"
#include "fabric/verbs/lib.h"
#undef ibv_query_port
#undef ibv_reg_mr

#include <poll.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MS INT64_C(1000000)
enum { WORD = 0, MINE = 64, BULK = 4096, BULK_BYTES = 32768, NBYTES = 65536, THREADS = 4 };

/* The model is linked into this program. */
static void fill(void)
{
#define VERBS_SYM(name, version) ibv.name = ibv_##name;
#include "fabric/verbs/sym.def"
#undef VERBS_SYM
}

int __wrap_verbs_load(void);
int __wrap_verbs_load(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill);
    return 0;
}

static dsm_ctx *owner, *user;
static dsm_region *region;
static dsm_remote *remote;
static uint32_t rounds[THREADS], stop;
static uint64_t added, unknown; /* by atomics */

static dsm_ctx *open_two_devices(void)
{
    dsm_options o = options_of("verbs?device=model0,verbs?device=model1");
    o.peer_timeout_ns = 200 * MS;
    return open_with(o);
}

/* The owner lives, so nothing may say that it is gone. */
static int lives(int rc)
{
    CHECK(rc != -DSM_EPEER && rc != -DSM_ESTALE && rc != -DSM_EACCESS);
    return rc;
}

static void count(int rc)
{
    if (!rc)
        fetch_add_u64(&added, 1);
    else if (rc == -DSM_EUNKNOWN)
        fetch_add_u64(&unknown, 1);
    else
        usleep(1000); /* PathLost, for one peer timeout */
}

static void *adds(void *arg)
{
    uint64_t old;
    while (!load_relaxed_u32(&stop)) {
        count(lives(dsm_fetch_add(remote, WORD, 1, &old, -1)));
        fetch_add_u32(&rounds[0], 1);
    }
    return arg;
}

/* A word that no other thread writes. After a WRITE without an answer a READ tells whether it took effect; from then on
 * it does not any more. */
static void *writes(void *arg)
{
    uint64_t known = 0, seen;
    for (uint64_t next = 1; !load_relaxed_u32(&stop); next++) {
        int wrote = lives(dsm_write(remote, MINE, &next, sizeof next, -1));
        known = wrote ? known : next;
        for (int told = 0; told < 3 && !load_relaxed_u32(&stop);) {
            if (lives(dsm_read(remote, MINE, &seen, sizeof seen, -1)))
                continue;
            CHECK(seen == known || (!told && wrote == -DSM_EUNKNOWN && seen == next));
            known = seen;
            told++;
        }
        fetch_add_u32(&rounds[1], 1);
    }
    return arg;
}

/* Long ops, which are registered with the device of their path. */
static void *moves(void *arg)
{
    enum { OPS = 8 };
    uint8_t *local = malloc(BULK_BYTES);
    CHECK(local);
    while (!load_relaxed_u32(&stop)) {
        dsm_op ops[OPS];
        for (int i = 0; i < OPS; i++)
            ops[i] = (dsm_op){.code = DSM_OP_READ,
                              .remote = remote,
                              .offset = BULK,
                              .local = local,
                              .nbytes = i % 2 ? BULK_BYTES : 64};
        memset(local, 0, BULK_BYTES);
        if (lives(dsm_execute(user, ops, OPS, -1, NULL)))
            continue;
        for (int i = 0; i < BULK_BYTES; i++)
            CHECK(local[i] == 7);
        fetch_add_u32(&rounds[2], 1);
    }
    free(local);
    return arg;
}

/* As an event loop does it: atomics and READs, which may need different paths. */
static void *starts(void *arg)
{
    struct pollfd event = {.fd = dsm_event_fd(user), .events = POLLIN};
    uint64_t word;
    for (uint64_t n = 0; !load_relaxed_u32(&stop); n++) {
        dsm_op ops[2] = {{.code = DSM_OP_READ, .remote = remote, .offset = BULK, .local = &word, .nbytes = 8},
                         {.code = DSM_OP_FETCH_ADD, .remote = remote, .offset = WORD, .nbytes = 8, .operand = 1}};
        dsm_ticket *tickets[2], *done;
        int waits = 0;
        for (int i = 0; i < 2; i++) {
            int rc = dsm_start(user, &ops[i], 1, &tickets[i], NULL);
            CHECK(rc == 0);
            waits++;
        }
        while (waits) {
            while (!(done = dsm_completed(user)))
                CHECK(poll(&event, 1, 60000) == 1);
            int rc = lives(dsm_finish(done, -1, NULL));
            if (done == tickets[1])
                count(rc);
            else
                CHECK(rc || word == UINT64_C(0x0707070707070707));
            waits--;
        }
        fetch_add_u32(&rounds[3], 1);
    }
    return arg;
}

static void wait_for_rounds(uint32_t more)
{
    uint32_t until[THREADS];
    for (int i = 0; i < THREADS; i++)
        until[i] = load_relaxed_u32(&rounds[i]) + more;
    for (int i = 0; i < THREADS; i++)
        while ((int32_t)(load_relaxed_u32(&rounds[i]) - until[i]) < 0)
            usleep(1000);
}

static void come_and_go(void)
{
    static const char *const phases[] = {"down=0", "down=1", "down=0", "down=2", "down=1", "down=0"};
    void *(*const runs[THREADS])(void *) = {adds, writes, moves, starts};
    pthread_t threads[THREADS];
    uint8_t raw[DSM_DESC_MAX], bulk[BULK_BYTES];
    uint64_t word;
    dsm_stats s;
    owner = open_two_devices();
    user = open_two_devices();
    CHECK(!dsm_alloc(owner, NBYTES, 7, &region));
    CHECK(!dsm_attach(user, raw, (size_t)dsm_region_descriptor(region, raw), 10000 * MS, &remote));
    memset(bulk, 7, sizeof bulk);
    CHECK(!dsm_write(remote, BULK, bulk, sizeof bulk, -1));
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_create(&threads[i], NULL, runs[i], NULL));
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
        CHECK(!modeldev_plan(phases[i]));
        wait_for_rounds(5);
    }
    store_release_u32(&stop, 1);
    for (int i = 0; i < THREADS; i++)
        CHECK(!pthread_join(threads[i], NULL));
    while (dsm_fetch_add(remote, WORD, 0, &word, -1))
        usleep(1000);
    CHECK(word >= added && word <= added + unknown);
    dsm_get_stats(user, &s);
    CHECK(s.failovers >= 3);
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    CHECK(!dsm_region_close(region));
    dsm_close(owner);
    CHECK(!modeldev_count("regs") && !modeldev_count("qps") && !modeldev_count("torn"));
}

static void run(const char *plan)
{
    char dir[] = "/tmp/modeldev-XXXXXX", text[256], command[64];
    int status;
    CHECK(mkdtemp(dir));
    pid_t pid = fork();
    if (pid == 0) {
        snprintf(text, sizeof text, "dir=%s&devices=2&%s", dir, plan);
        setenv("MODELDEV", text, 1);
        come_and_go();
        exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(!system(command));
    CHECK(!status);
}

int main(void)
{
    run("atomics=nic");
    run("atomics=global&scatter=8&overtake=1");
    puts("ok");
    return 0;
}
#else
#include "without_verbs.h"
#endif
