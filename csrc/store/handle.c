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
