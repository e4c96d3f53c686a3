/* How much memory a process may take, in fake trees of /proc and /sys: that of the host, and control groups of both
 * versions. */
#include "check.h"
#include "memory/memory.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[] = "/tmp/dsmem-room-XXXXXX";

static void put(const char *path, const char *text)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *at = full + sizeof root; (at = strchr(at, '/')); at++) {
        *at = 0;
        mkdir(full, 0700);
        *at = '/';
    }
    FILE *f = fopen(full, "w");
    CHECK(f && fputs(text, f) >= 0 && !fclose(f));
}

static void remove_tree(void)
{
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", root);
    CHECK(!system(command));
}

int main(void)
{
    CHECK(mkdtemp(root));
    CHECK(memory_room(root) == UINT64_MAX); /* nothing is known */
    put("/proc/meminfo", "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable: 1000 kB\nSwapFree: 24 kB\n");
    CHECK(memory_room(root) == 1024 * 1024);

    put("/proc/self/cgroup", "0::/a/b\n"); /* version 2 */
    CHECK(memory_room(root) == 1024 * 1024);
    put("/sys/fs/cgroup/a/b/memory.max", "max\n");
    put("/sys/fs/cgroup/a/b/memory.current", "1000\n");
    CHECK(memory_room(root) == 1024 * 1024);
    put("/sys/fs/cgroup/a/memory.max", "500000\n"); /* the group around it */
    put("/sys/fs/cgroup/a/memory.current", "300000\n");
    CHECK(memory_room(root) == 200000);
    put("/sys/fs/cgroup/a/memory.stat", "anon 7\nfile 9\ninactive_file 50000\nactive_file 3\n");
    CHECK(memory_room(root) == 250000);
    put("/sys/fs/cgroup/a/b/memory.max", "900\n"); /* more is used than may be: nothing is left */
    CHECK(memory_room(root) == 0);
    put("/proc/self/cgroup", "0::/\n"); /* a container sees its own group as the root */
    CHECK(memory_room(root) == 1024 * 1024);
    put("/sys/fs/cgroup/memory.max", "4096\n");
    put("/sys/fs/cgroup/memory.current", "96\n");
    CHECK(memory_room(root) == 4000);

    put("/proc/self/cgroup", "12:cpu,cpuacct:/x\n4:memory:/docker/1\n0::/nothing\n"); /* version 1 */
    put("/sys/fs/cgroup/memory.max", "max\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "5\n");
    put("/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "8000\n");
    put("/sys/fs/cgroup/memory/docker/1/memory.usage_in_bytes", "7000\n");
    put("/sys/fs/cgroup/memory/docker/1/memory.stat", "inactive_file 1\ntotal_inactive_file 500\n");
    CHECK(memory_room(root) == 1500);
    remove_tree();
    puts("ok");
    return 0;
}
