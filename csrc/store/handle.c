#include "handle.h"

#include "../base/deadline.h"

#include <time.h>

void store_ask(struct store_env *e)
{
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    e->now = clock_ns();
    e->time = ((uint64_t)wall.tv_sec * 1000 + (uint64_t)wall.tv_nsec / 1000000) << 16;
    e->random = ((uint64_t)e->now ^ (uint64_t)(uintptr_t)&wall) * 0x9e3779b97f4a7c15ull;
}

bool store_was_canceled(const dsm_op *ops, uint32_t n, uint32_t k)
{
    if (ops[k].status != -DSM_ECANCELED)
        return false;
    for (uint32_t i = 0; i < n; i++)
        if (ops[i].remote == ops[k].remote && ops[i].status && ops[i].status != -DSM_ECANCELED)
            return false;
    return true;
}
