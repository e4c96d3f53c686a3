#include "process.h"

#include "../dsm.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The text from field 3 on; the name before it may hold anything. */
static const char *read_stat(int pid, char *text, size_t size)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return NULL;
    ssize_t n = read(fd, text, size - 1);
    close(fd);
    if (n <= 0)
        return NULL;
    text[n] = 0;
    const char *p = strrchr(text, ')');
    return p && p[1] ? p + 2 : NULL;
}

static const char *field(const char *third, int number)
{
    for (int i = 3; third && i < number; i++) {
        third = strchr(third, ' ');
        third = third ? third + 1 : NULL;
    }
    return third;
}

int process_started(int pid, uint64_t *start)
{
    char text[1024];
    const char *third = read_stat(pid, text, sizeof text);
    const char *threads = field(third, 20), *when = field(third, 22);
    if (!when)
        return -1;
    /* A main thread that has ended leaves Z behind, too, while others of the process still run. */
    bool ended = *third == 'X' || (*third == 'Z' && strtol(threads, NULL, 10) <= 1);
    *start = ended ? 0 : strtoull(when, NULL, 10);
    return 0;
}

uint64_t dsm_process_start(int pid)
{
    uint64_t start;
    return process_started(pid, &start) ? 0 : start;
}
