/* Namespaces of a test's own, where they are allowed. */
#ifndef DSM_TESTS_SPACES_H
#define DSM_TESTS_SPACES_H

#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

static inline bool put_line(const char *path, const char *line)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : write(fd, line, strlen(line));
    close(fd);
    return n > 0;
}

/* Makes new namespaces, with the right to do so or in a user namespace in which this user and its group keep their
 * numbers: a group that has none there can make no files in a tmpfs of that namespace. */
static inline bool new_space(int flags)
{
    char user[64], group[64];
    snprintf(user, sizeof user, "%u %u 1", geteuid(), geteuid());
    snprintf(group, sizeof group, "%u %u 1", getegid(), getegid());
    if (!unshare(flags))
        return true;
    return !unshare(CLONE_NEWUSER | flags) && put_line("/proc/self/uid_map", user) &&
           put_line("/proc/self/setgroups", "deny") && put_line("/proc/self/gid_map", group);
}

/* A /dev/shm of this process's own. */
static inline bool own_memory(void)
{
    return new_space(CLONE_NEWNS) && !mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) &&
           !mount("none", "/dev/shm", "tmpfs", 0, "mode=1777");
}

#endif
