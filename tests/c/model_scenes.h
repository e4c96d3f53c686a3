#ifndef DSM_TESTS_MODEL_SCENES_H
#define DSM_TESTS_MODEL_SCENES_H

/*
 * Scenes on the model device (tests/modeldev), which is linked into the program. Each runs in a process of its own,
 * with its own plan; with an argument only the scene of that name runs.
 */
#include "../modeldev/model.h"
#include "base/atomic.h"
#include "check.h"
#include "context.h"
#include "fabric/verbs/lib.h"
#undef ibv_query_port
#undef ibv_reg_mr
#include "linked_model.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MS INT64_C(1000000)
enum { BIG = 64 * 1024 };

static dsm_ctx *owner, *user;
static dsm_region *region;
static dsm_remote *remote, *own; /* the user's and the owner's */

static const char *fabrics = "verbs";
static dsm_ctx *open_verbs(void) { return open_with(options_of(fabrics)); }

static int attach(dsm_ctx *c, dsm_remote **out)
{
    uint8_t raw[DSM_DESC_MAX];
    return dsm_attach(c, raw, (size_t)dsm_region_descriptor(region, raw), 10000 * MS, out);
}

static void open_two(void)
{
    owner = open_verbs();
    user = open_verbs();
    CHECK(!dsm_alloc(owner, BIG, 7, &region) && !attach(user, &remote) && !attach(owner, &own));
}

static void close_two(void)
{
    CHECK(!dsm_remote_close(remote) && !dsm_remote_close(own));
    dsm_close(user);
    CHECK(!dsm_region_close(region));
    dsm_close(owner);
    CHECK(!modeldev_count("regs") && !modeldev_count("qps") && !modeldev_count("torn"));
}

struct scene {
    const char *name, *plan;
    void (*run)(void);
    bool planted_only;
};

static void run_scene(const struct scene *s)
{
    char dir[] = "/tmp/modeldev-XXXXXX", plan[256], command[64];
    int status;
    CHECK(mkdtemp(dir));
    pid_t pid = fork();
    if (pid == 0) {
        snprintf(plan, sizeof plan, "dir=%s&%s", dir, s->plan);
        setenv("MODELDEV", plan, 1);
        s->run();
        exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid);
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(!system(command));
    if (status) {
        fprintf(stderr, "scene %s: status %x\n", s->name, (unsigned)status);
        exit(1);
    }
}

static int run_scenes(const struct scene *scenes, size_t n, int argc, char **argv)
{
    for (size_t i = 0; i < n; i++)
        if (argc > 1 ? !strcmp(argv[1], scenes[i].name) : !scenes[i].planted_only)
            run_scene(&scenes[i]);
    puts("ok");
    return 0;
}

#endif
