/*
 * How much memory this process may still allocate: the minimum of what is available on the host and what the limits of
 * its control groups (v1 and v2) leave. Inactive file pages count as free in a control group, as they do in
 * MemAvailable.
 */
#include "memory.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static FILE *open_file(const char *root, const char *folder, const char *path, const char *name)
{
    char full[PATH_MAX];
    int n = snprintf(full, sizeof full, "%s%s%s/%s", root, folder, path, name);
    return n > 0 && (size_t)n < sizeof full ? fopen(full, "re") : NULL;
}

static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

static uint64_t of_host(const char *root)
{
    unsigned long long kib, have = 0;
    char name[32];
    bool known = false;
    FILE *f = open_file(root, "/proc", "", "meminfo");
    while (f && fscanf(f, "%31s %llu%*[^\n]", name, &kib) == 2)
        if (!strcmp(name, "MemAvailable:") || !strcmp(name, "SwapFree:")) {
            known = known || *name == 'M';
            have += kib << 10;
        }
    if (f)
        fclose(f);
    return known ? have : UINT64_MAX;
}

/* Returns false if the file does not begin with a number ("max": no limit) or does not exist. */
static bool number(const char *root, const char *folder, const char *path, const char *name, uint64_t *out)
{
    unsigned long long v;
    FILE *f = open_file(root, folder, path, name);
    bool known = f && fscanf(f, "%llu", &v) == 1;
    if (f)
        fclose(f);
    *out = known ? v : 0;
    return known;
}

static uint64_t idle_pages(const char *root, const char *folder, const char *path, const char *name)
{
    char word[64];
    unsigned long long v, found = 0;
    FILE *f = open_file(root, folder, path, "memory.stat");
    while (f && fscanf(f, "%63s %llu", word, &v) == 2)
        if (!strcmp(word, name))
            found = v;
    if (f)
        fclose(f);
    return found;
}

static const struct version {
    const char *folder, *limit, *used, *idle;
} v1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"},
  v2 = {"/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"};

/* The limits of a group and of all its ancestors apply together. path is truncated on the way up. */
static uint64_t of_groups(const char *root, const struct version *v, char *path)
{
    uint64_t room = UINT64_MAX, limit, used;
    for (char *end = path + strlen(path);; end = strrchr(path, '/')) {
        if (end)
            *end = 0;
        if (number(root, v->folder, path, v->limit, &limit) && number(root, v->folder, path, v->used, &used)) {
            uint64_t taken = used - least(used, idle_pages(root, v->folder, path, v->idle));
            room = least(room, limit - least(limit, taken));
        }
        if (!end || !*path)
            return room;
    }
}

uint64_t memory_room(const char *root)
{
    char line[PATH_MAX];
    uint64_t room = of_host(root);
    FILE *f = open_file(root, "/proc/self", "", "cgroup");
    while (f && fgets(line, sizeof line, f)) { /* number:controllers:path */
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path)
            continue;
        line[strcspn(line, "\n")] = 0;
        *path++ = 0;
        if (!names[1])
            room = least(room, of_groups(root, &v2, path));
        else if (strstr(names, "memory"))
            room = least(room, of_groups(root, &v1, path));
    }
    if (f)
        fclose(f);
    return room;
}
