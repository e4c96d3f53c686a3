/* Ops with two local pieces: on shm and tcp, plain and through fault. test_toy.c and test_model.c have those of the
 * other fabrics. */
#include "check.h"
#include "context.h"
#include "pieces.h"

static dsm_ctx *owner, *user;
static dsm_region *region;
static dsm_remote *remote;

static void open_two(const char *fabric, const char *plan)
{
    uint8_t raw[DSM_DESC_MAX];
    dsm_options o = options_of(fabric);
    owner = open_with(o);
    o.fault = plan;
    user = open_with(o);
    CHECK(!dsm_alloc(owner, PIECES_BYTES, DSM_READ | DSM_WRITE | DSM_ATOMIC, &region));
    CHECK(!dsm_attach(user, raw, (size_t)dsm_region_descriptor(region, raw), -1, &remote));
}

static void close_two(void)
{
    CHECK(!dsm_remote_close(remote));
    dsm_close(user);
    CHECK(!dsm_region_close(region));
    dsm_close(owner);
}

static void on(const char *fabric, const char *plan)
{
    open_two(fabric, plan);
    all_of_pieces(user, remote);
    close_two();
}

/* READs of two parts, WRITEs that are executed twice: the parts end within either piece. */
static void in_parts(const char *fabric)
{
    static const uint64_t lengths[][2] = {{8, 8}, {16, 3}, {3, 16}, {1, 40}, {40, 1}, {0, 24}, {24, 0}, {5000, 3}};
    open_two(fabric, "tear=*:1ms&duplicate=*:1ms");
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        struct piece_buffer a = piece_of(lengths[i][0], 5), b = piece_of(lengths[i][1], 6);
        move_in_two(user, remote, 8, a, b);
        move_in_two(user, remote, 13, a, b);
        free(a.at);
        free(b.at);
    }
    close_two();
}

/* The words of an atomic are where an op of two pieces has the second: what stands in for it must not find them. */
static void a_swap_that_stores(const char *fabric)
{
    uint64_t old;
    open_two(fabric, "cas=*:1ms");
    CHECK(!dsm_write(remote, 0, &(uint64_t){7}, 8, -1));
    CHECK(!dsm_compare_swap(remote, 0, (uint64_t)(uintptr_t)&old, 8, &old, -1) && old == 7);
    CHECK(!dsm_read(remote, 0, &old, 8, -1) && old == 7);
    close_two();
}

int main(void)
{
    on("shm", NULL);
    on("shm", "");
    on("tcp", NULL);
    on("tcp", "");
    in_parts("shm");
    in_parts("tcp");
    a_swap_that_stores("shm");
    puts("ok");
    return 0;
}
